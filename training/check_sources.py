"""Check that no training page comes from an evaluation set, by hashes of their lines of text.

    python -m training.check_sources --training REAL --evaluation DEV [--evaluation MORE ...]

Lines are hashed without case, spaces and punctuation, if at least four letters or digits remain. A line on more than two
pages of one side belongs to a letterhead or a form. Such lines are counted, since they are read better than others, but
pages are compared without them. Two pages are equal if they share at least three other lines, and at least 60 percent of
those of the smaller page.

The files ``receipts.json``, ``books.json`` (lines of each picture), ``typeset.json`` (text of each page) and
``pdf_lines.json.gz`` of a folder are read. Exit status: 0 no page is in both; 1 some pages are, and are listed.
"""

import argparse
import gzip
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

log = logging.getLogger("training")
LINE_LETTERS = 4
FORM_PAGES = 2
SHARED_LINES = 3
SHARED_PART = 0.6


def line_hash(line: str) -> bytes | None:
    """Return the hash of the letters and digits of a line; None if the line is too short."""
    letters = "".join(c for c in line.lower() if c.isalnum())
    return blake2b(letters.encode(), digest_size=8).digest() if len(letters) >= LINE_LETTERS else None


def page_hashes(lines: list[str]) -> frozenset[bytes]:
    return frozenset(h for line in lines if (h := line_hash(line)))


def pages_of(folder: Path) -> Iterator[tuple[str, frozenset[bytes]]]:
    """Yield the name and the line hashes of every page of a folder."""
    for file in ("receipts.json", "books.json"):
        if (path := folder / file).exists():
            for name, lines in json.loads(path.read_text("utf8")).items():
                yield name, page_hashes([line[4] for line in lines])
    if (path := folder / "typeset.json").exists():
        for name, page in json.loads(path.read_text("utf8")).items():
            yield name, page_hashes(page["text"].splitlines())
    if (path := folder / "pdf_lines.json.gz").exists():
        for page in json.loads(gzip.decompress(path.read_bytes())):
            yield f"{page['pdf']} page {page['page']}", page_hashes([line[4] for line in page["lines"]])


def own_lines(pages: dict[str, frozenset[bytes]], forms: frozenset[bytes]) -> dict[str, frozenset[bytes]]:
    return {name: hashes - forms for name, hashes in pages.items()}


def form_lines(pages: dict[str, frozenset[bytes]]) -> frozenset[bytes]:
    """Return the hashes of lines that occur on more than two pages."""
    counts = Counter(one for hashes in pages.values() for one in hashes)
    return frozenset(one for one, count in counts.items() if count > FORM_PAGES)


def shared_pages(
    training: dict[str, frozenset[bytes]], evaluation: dict[str, frozenset[bytes]]
) -> list[tuple[str, str, int]]:
    """Return the pairs of equal pages, with the number of lines that they share."""
    forms = form_lines(training) | form_lines(evaluation)
    training, evaluation = own_lines(training, forms), own_lines(evaluation, forms)
    where = defaultdict(set)
    for name, hashes in evaluation.items():
        for one in hashes:
            where[one].add(name)
    found = []
    for name, hashes in training.items():
        counts = Counter(other for one in hashes for other in where.get(one, ()))
        for other, count in counts.items():
            if count >= SHARED_LINES and count >= SHARED_PART * min(len(hashes), len(evaluation[other])):
                found.append((name, other, count))
    return found


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, action="append", required=True, help="a folder of training pages")
    parser.add_argument("--evaluation", type=Path, action="append", required=True, help="a folder of evaluation pages")
    options = parser.parse_args(arguments)
    sides: list[dict[str, frozenset[bytes]]] = []
    for folders in (options.training, options.evaluation):
        pages: dict[str, frozenset[bytes]] = {}
        for folder in folders:
            found = {f"{folder.name}/{name}": hashes for name, hashes in pages_of(folder)}
            if not found:
                parser.error(f"{folder} has no pages with text; see --help for the files that are read")
            log.info("%s: %d pages", folder, len(found))
            pages.update(found)
        sides.append(pages)
    training, evaluation = sides
    known = frozenset().union(*training.values())
    lines = [one for hashes in evaluation.values() for one in hashes]
    log.info("%d of %d evaluation lines occur literally in the training pages", sum(h in known for h in lines), len(lines))
    shared = shared_pages(training, evaluation)
    for name, other, count in shared:
        log.info("%s equals %s: they share %d lines that are not part of a form", name, other, count)
    log.info("%d training pages are in an evaluation set", len({name for name, _, _ in shared}))
    return 1 if shared else 0


if __name__ == "__main__":
    sys.exit(main())
