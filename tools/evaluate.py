#!/usr/bin/env python3
"""How accurately pages are read: character and word error rates, exact lines, the worst pages.

    uv run tools/evaluate.py                                            # the project's own test set
    uv run tools/evaluate.py scans/ more.jsonl --gallery worst.html     # pages of yours, and a page to look at
    uv run tools/evaluate.py scans/ --loose --max-cer 2 --output accuracy.json

A DATASET is a folder of images with a text beside each (page.png, page.txt), one such image, or a .jsonl with a line
{"image": path relative to the file, "text": what it shows} a page. By default it is the project's own test set, tests/pages
and examples: 26 drawn pages, English and Chinese, of the kind that the built-in model was trained on.

CER  edits of characters (Levenshtein) by the characters of the truth. WER: the same of words; white space parts them, and a
     Chinese character is a word. Exact lines: lines of the truth that stand in the reading whole, in the same order.
     Errors are summed over pages, then divided. Line ends and trailing blanks are normalised, nothing else; --loose
     compares in NFKC, and characters and lines without white space.

Languages: zh where a fifth of the truth's characters are CJK, else en. A page that cannot be read is all wrong.
Exit status: 0; 1 if a page could not be read or the CER is above --max-cer; 2 for wrong usage.
"""

import argparse
import math
import sys
from pathlib import Path

from tqdm import tqdm

from mindnlp_ocr import cli
from mindnlp_ocr.bench import accuracy
from mindnlp_ocr.bench.gallery import Entry, gallery
from mindnlp_ocr.bench.results import Results, Row, Section, shown
from mindnlp_ocr.bench.tool import positive, run_tool, writable

ROOT = Path(__file__).resolve().parent.parent


def percent(text: str) -> float:
    """An option's number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is given: give a percentage, 0 or more")
    return value


def read(arguments: argparse.Namespace, pages: list[accuracy.Page]) -> tuple[Row, list[Entry]]:
    """What reads, and every page as it was read."""
    model = cli.load_model(arguments)
    results = cli.read_pages(model, [page.image for page in pages], arguments, None)
    entries = []
    for page, result in zip(pages, tqdm(results, total=len(pages), unit="page", disable=None), strict=True):
        text, fault = result["text"], result["error"]
        entries.append(Entry(page, text, fault, accuracy.score(page.truth, text, arguments.loose), arguments.loose))
    info = model.get_model_info()
    settings = {"attention": info["attn_implementation"], "prompt": arguments.prompt, "loose": arguments.loose}
    return {"model": info["model_name"], "lora": info["lora"], "dtype": info["dtype"], **settings}, entries


def show(totals: list[Row], worst: list[Entry]) -> None:
    """For people; the worst pages only where something is wrong."""
    for row in totals:
        counts = {name: shown(value) for name, value in row.items()}
        print(
            "{language:6}{pages:>5} pages: CER {cer_percent:>6} % ({character_errors} of {characters} characters)  "
            "WER {wer_percent:>6} % ({word_errors} of {words} words)  "
            "exact lines {exact_percent:>5} % ({exact_lines} of {lines})".format(**counts)
        )
    for entry in worst:
        score = entry.score
        if score.character_errors:
            errors = f"{shown(score.character_errors)} of {shown(score.characters)} characters"
            reason = f", not read: {entry.fault}" if entry.fault else ""
            print(f"  CER {shown(score.cer_percent):>6} %  {entry.page.image}: {errors}{reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="see above (default: the project's own test set)")
    cli.add_options(parser)
    parser.add_argument("--loose", action="store_true", help="compare in NFKC, and characters and lines without white space")
    parser.add_argument("--worst", type=positive, default=10, metavar="N", help="pages to print at most (default: 10)")
    parser.add_argument("--max-cer", type=percent, metavar="PERCENT", help="exit with 1 if the CER over all is above it")
    parser.add_argument("--output", metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument(
        "--gallery", metavar="FILE", help="write one HTML page: every image, what was read, and a coloured difference"
    )
    arguments = parser.parse_args()
    cli.check(arguments)
    pages, without = accuracy.datasets(arguments.datasets or accuracy.own_datasets(ROOT))
    for image in without:
        print(f"skipped: {image} has no text beside it ({Path(image).with_suffix('.txt').name})", file=sys.stderr)
    for name in (arguments.output, arguments.gallery):
        writable(name)
    results = Results.start()
    settings, entries = read(arguments, pages)
    totals = accuracy.totals(pages, [entry.score for entry in entries])
    entries.sort(key=lambda entry: -entry.score.cer_percent)
    about = f"{accuracy.ABOUT} {accuracy.LOOSE if arguments.loose else accuracy.STRICT}"
    rows: list[Row] = [
        {"page": entry.page.image, "language": entry.page.language, **entry.score.row(), "error": entry.fault}
        for entry in entries
    ]
    results.sections["settings"] = Section(title="What read", rows=[settings])
    results.sections["totals"] = Section(title="Accuracy", about=about, rows=totals)
    results.sections["pages"] = Section(title="Accuracy a page, the worst first", rows=rows)
    show(totals, entries[: arguments.worst])
    if arguments.output:
        results.save(arguments.output)
    if arguments.gallery:
        Path(arguments.gallery).write_text(gallery(results, totals, entries, about), encoding="utf-8")
    rate = float(totals[0]["cer_percent"] or 0)
    if too_many := arguments.max_cer is not None and rate > arguments.max_cer:
        print(f"error: the CER is {rate:.4g} %, --max-cer {arguments.max_cer:g}: see the worst pages", file=sys.stderr)
    return 1 if too_many or any(entry.fault for entry in entries) else 0


if __name__ == "__main__":
    run_tool(main)
