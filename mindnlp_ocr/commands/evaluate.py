"""How accurately pages are read: error rates of characters and words, words found, reading order, the worst pages.

    mindnlp-ocr evaluate                                            # the project's own test set
    mindnlp-ocr evaluate scans/ more.jsonl --gallery worst.html     # pages of yours, and a page to look at
    mindnlp-ocr evaluate scans/ --loose --max-cer 2 --output accuracy.json
    mindnlp-ocr evaluate tests/data/dev --loose --ignore-case --peers tesseract rapidocr
    mindnlp-ocr evaluate tests/data/dev/receipts.json --true-boxes  # without the search for lines

Pages are read as `mindnlp-ocr infer` reads them, with the same options. A DATASET is one of these:

- a folder of images, or one image. The truth lies beside page.png, in the first of these files that is there: page.txt; hOCR
  as page.hocr or page.html; or page.json, which holds [[LEFT, TOP, RIGHT, BOTTOM, TEXT], ...] in pixels, or {"text": TEXT}.
  A .json of the folder with another name may hold the truth of many images, as the next form has it.
- a .json that holds {"page.png": [[LEFT, TOP, RIGHT, BOTTOM, TEXT], ...], ...} or {"page.png": {"text": TEXT}, ...}.
- a .jsonl that holds a line {"image": PATH, "text": TEXT} for every page. Paths are relative to the file.

By default it is the project's own test set, tests/pages and examples: 28 drawn pages, English and Chinese, of the kind that
the built-in model was trained on. PDF files are taken where images are.

CER  edits of characters (Levenshtein) by the characters of the truth. WER: the same of words; white space parts them, and a
     Chinese character is a word. Exact lines: lines of the truth that stand in the reading whole, in the same order.
     Errors are summed over pages, then divided. Line ends and trailing blanks are normalised, nothing else; --loose
     compares in NFKC, and characters and lines without white space; --ignore-case takes upper and lower case as the same.
     Blocks of a page that is read line by line are separated by an empty line, which is a character unless --loose.

Words without order: recall is the share of the words of the truth that are in the reading, precision the share of the words
of the reading that are in the truth, F1 the harmonic mean of the two. A word counts as often as it occurs in both.

Reading order is a figure between 0 and 1, and says nothing about words that were misread. It looks at the words that occur
exactly once in the truth and exactly once in the reading, takes every pair of them, and gives the share of pairs that stand
in the same order in both texts. It is 1 where all of them are in order, 0 where the order is reversed, about 0.5 where it is
random. In terms of Kendall's tau it is (1 + tau) / 2. There is no figure for a page on which fewer than two words can be
compared. The figure over several pages is the mean of theirs, weighted by the number of words compared.

With --true-boxes the model reads the lines at the boxes that the truth gives, so that the search for lines and the reading
order play no part. Errors are then counted line by line, and an exact line is one that was read without an error.

With --peers other engines read the same pages, and are scored in the same way. One that is not installed is named and left
out. Tesseract reads English and simplified Chinese; RapidOCR runs with its defaults.

Languages: zh where a fifth of the truth's characters are CJK, else en. A page that cannot be read is all wrong.
Exit status: 0; 1 if a page could not be read or the CER is above --max-cer; 2 for wrong usage. Peers do not change it.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mindnlp_ocr import opening, options
from mindnlp_ocr.bench import accuracy
from mindnlp_ocr.bench.gallery import Entry, gallery
from mindnlp_ocr.bench.peers import Absent, Stopped, Worker, rapidocr_command, tesseract_command
from mindnlp_ocr.bench.results import Results, Row, Section, shown
from mindnlp_ocr.bench.tool import checkout, exit_status, positive, writable
from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.documents.source import Source
from mindnlp_ocr.documents.stream import Begun, DocumentStream, PageRead
from mindnlp_ocr.errors import PageError, SetupError

PEERS = ("tesseract", "rapidocr")
MARGIN = 0.11  # around the boxes of a truth, which are close to the ink, as a share of a line's height


class Outcome(NamedTuple):
    """What an engine made of a page: its text, or why there is none; with --true-boxes line by line."""

    text: str | None
    fault: str | None = None
    lines: Sequence[str] = ()


def percent(text: str) -> float:
    """An option's number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is given: give a percentage, 0 or more")
    return value


def ours(arguments: argparse.Namespace, reader: DocumentReader, pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Every page as `mindnlp-ocr infer` reads it; a document of several pages as one."""
    selection = PageSelection(arguments.pages)
    stream = DocumentStream(reader, selection, arguments.dpi, arguments.password, arguments.text_layer)
    texts, fault = list[str](), None
    for event in stream.read([page.image for page in pages]):
        if isinstance(event, Begun):
            texts, fault = [], None
        elif isinstance(event, PageRead):
            texts.append(event.page.text)
            fault = fault or event.page.error
        else:
            fault = fault or event.error
            yield Outcome(None if fault else "\n\f".join(texts), fault)


def at_boxes(reader: DocumentReader, pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Every page, its lines cut at the boxes of its truth."""
    for page in pages:
        try:
            source = Source(page.image)
            try:
                image = source.page(0).image
            finally:
                source.close()
            lines = [line.text for line in reader.read_lines(image, [line.box for line in page.lines], MARGIN)]
        except PageError as error:
            yield Outcome(None, str(error))
        else:
            yield Outcome("\n".join(lines), None, lines)


def entry(arguments: argparse.Namespace, page: accuracy.Page, outcome: Outcome) -> Entry:
    """A page and its figures."""
    how = (arguments.loose, arguments.ignore_case)
    words = accuracy.word_score(page.truth, outcome.text, *how)
    if arguments.true_boxes:
        read: Sequence[str | None] = outcome.lines or [None] * len(page.lines)
        scores = [accuracy.score(line.text, text, *how) for line, text in zip(page.lines, read, strict=True)]
        score, words = sum(scores, accuracy.Score()), replace(words, placed=0, ordered=0.0)
    else:
        score = accuracy.score(page.truth, outcome.text, *how)
    return Entry(page, outcome.text, outcome.fault, score, *how, words)


def read(arguments: argparse.Namespace, pages: Sequence[accuracy.Page]) -> tuple[Row, list[Entry]]:
    """What reads, and every page as it was read."""
    model = opening.load_model(arguments)
    reader: DocumentReader = opening.new_reader(model, arguments)
    outcomes = at_boxes(reader, pages) if arguments.true_boxes else ours(arguments, reader, pages)
    entries = []
    for page, outcome in zip(pages, tqdm(outcomes, total=len(pages), unit="page", disable=None), strict=True):
        if outcome.fault:
            tqdm.write(f"error: {page.image}: {outcome.fault}", file=sys.stderr)
        entries.append(entry(arguments, page, outcome))
    info = model.get_model_info()
    settings = {
        "attention": info["attn_implementation"],
        "layout": "true boxes" if arguments.true_boxes else arguments.layout,
        "prompt": arguments.prompt or reader.settings.page_prompt,
        "loose": arguments.loose,
        "ignore_case": arguments.ignore_case,
    }
    return {"model": info["model_name"], "lora": info["lora"], "dtype": info["dtype"], **settings}, entries


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """How the peers are started that were asked for and are here; the others are named."""
    if not arguments.peers:
        return {}
    serve = checkout("--peers needs the programs of tools/peers") / "tools" / "peers" / "peer.py"
    start = {
        "tesseract": lambda: tesseract_command(serve, arguments.tesseract_psm),
        "rapidocr": lambda: rapidocr_command(serve),
    }
    found = {}
    for name in dict.fromkeys(arguments.peers):
        try:
            found[name] = start[name]()
        except Absent as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def peer(name: str, command: Sequence[str], pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Every page as a peer reads it; after its process has died, none."""
    died: str | None = None
    worker = None
    try:
        for page in pages:
            answer = {"error": died}
            if died is None:
                try:
                    worker = worker or Worker(command)
                    answer = worker.read(page.image)
                except Stopped as error:
                    answer = {"error": (died := str(error))}
                if fault := answer.get("error"):
                    tqdm.write(f"error: {name}: {page.image} could not be read: {fault}", file=sys.stderr)
            yield Outcome(answer.get("text"), answer.get("error"))
    finally:
        if worker is not None:
            worker.kill()


def compare(arguments: argparse.Namespace, pages: Sequence[accuracy.Page]) -> tuple[list[Row], list[Row]]:
    """The totals of every peer, and its figures page by page."""
    totals: list[Row] = []
    rows: list[Row] = []
    for name, command in commands(arguments).items():
        outcomes = tqdm(peer(name, command, pages), name, total=len(pages), unit="page", disable=None)
        entries = [entry(arguments, page, outcome) for page, outcome in zip(pages, outcomes, strict=True)]
        totals += [{"engine": name, **row} for row in totals_of(entries)]
        rows += [{"engine": name, **row_of(one)} for one in entries]
    return totals, rows


def totals_of(entries: Sequence[Entry]) -> list[Row]:
    """Over all pages, and by language."""
    return accuracy.totals(
        [entry.page for entry in entries], [entry.score for entry in entries], [entry.words for entry in entries]
    )


def row_of(entry: Entry) -> Row:
    """A page as results have it."""
    about: Row = {"page": entry.page.image, "language": entry.page.language}
    return {**about, **entry.score.row(), **entry.words.row(), "error": entry.fault}


def show(totals: Sequence[Row]) -> None:
    """For people."""
    for row in totals:
        counts = {name: shown(value) for name, value in row.items()}
        order = "" if row["reading_order"] is None else f", reading order {row['reading_order']:.4f}"
        print(
            "{language:6}{pages:>5} pages: CER {cer_percent:>6} % ({character_errors} of {characters} characters)  "
            "WER {wer_percent:>6} % ({word_errors} of {words} words)  "
            "exact lines {exact_percent:>5} % ({exact_lines} of {lines})\n"
            "{blank:19}words without order: recall {word_recall_percent} %, precision {word_precision_percent} %, "
            "F1 {word_f1_percent} %".format(blank="", **counts)
            + order
        )


def show_worst(worst: Sequence[Entry]) -> None:
    """The worst pages, where something is wrong."""
    for entry in worst:
        score = entry.score
        if score.character_errors:
            errors = f"{shown(score.character_errors)} of {shown(score.characters)} characters"
            reason = f", not read: {entry.fault}" if entry.fault else ""
            print(f"  CER {shown(score.cer_percent):>6} %  {entry.page.image}: {errors}{reason}")


def with_boxes(pages: Sequence[accuracy.Page]) -> list[accuracy.Page]:
    """The pages whose truth has boxes; the others are named."""
    for page in pages:
        if not page.lines:
            print(f"skipped: the ground truth of {page.image} has no boxes", file=sys.stderr)
    kept = [page for page in pages if page.lines]
    if not kept:
        raise SetupError("--true-boxes: no page has a ground truth with boxes: give hOCR or JSON with boxes")
    return kept


def run(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="see above (default: the project's own test set)")
    options.add_options(parser)
    options.add_document_options(parser)
    parser.add_argument("--loose", action="store_true", help="compare in NFKC, and characters and lines without white space")
    parser.add_argument("--ignore-case", action="store_true", help="take upper and lower case as the same")
    parser.add_argument("--true-boxes", action="store_true", help="read the lines at the boxes of the truth")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], help="engines that read the same pages")
    parser.add_argument(
        "--tesseract-psm", type=positive, default=3, metavar="N", help="Tesseract's page segmentation (default: 3, its own)"
    )
    parser.add_argument("--worst", type=positive, default=10, metavar="N", help="pages to print at most (default: 10)")
    parser.add_argument("--max-cer", type=percent, metavar="PERCENT", help="exit with 1 if the CER over all is above it")
    parser.add_argument("--output", metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument(
        "--gallery", metavar="FILE", help="write one HTML page: every image, what was read, and a coloured difference"
    )
    arguments = parser.parse_args(argv)
    options.check(arguments)
    if arguments.true_boxes and arguments.peers:
        raise SetupError("--true-boxes and --peers are both given: peers find lines themselves, so give one of the two")
    pages, without = accuracy.datasets(arguments.datasets or accuracy.own_datasets())
    for image in without:
        print(f"skipped: {image} has no text beside it ({Path(image).with_suffix('.txt').name})", file=sys.stderr)
    if arguments.true_boxes:
        pages = with_boxes(pages)
    for name in (arguments.output, arguments.gallery):
        writable(name)
    results = Results.start("evaluate")
    settings, entries = read(arguments, pages)
    totals = totals_of(entries)
    entries.sort(key=lambda entry: -entry.score.cer_percent)
    about = f"{accuracy.ABOUT} {accuracy.WORDS} {accuracy.LOOSE if arguments.loose else accuracy.STRICT}"
    about += f" {accuracy.IGNORE_CASE}" * arguments.ignore_case + f" {accuracy.BY_LINE}" * arguments.true_boxes
    results.sections["settings"] = Section(title="What read", rows=[settings])
    results.sections["totals"] = Section(title="Accuracy", about=about, rows=totals)
    results.sections["pages"] = Section(title="Accuracy a page, the worst first", rows=[row_of(entry) for entry in entries])
    show(totals)
    show_worst(entries[: arguments.worst])
    if arguments.peers:
        beside, rows = compare(arguments, pages)
        results.sections["peers"] = Section(title="Accuracy of peers", about=about, rows=beside)
        results.sections["peer_pages"] = Section(title="Accuracy of peers a page", rows=rows)
        for name in dict.fromkeys(str(row["engine"]) for row in beside):
            print(f"{name}:")
            show([row for row in beside if row["engine"] == name])
    if arguments.output:
        results.save(arguments.output)
    if arguments.gallery:
        Path(arguments.gallery).write_text(gallery(results, totals, entries, about), encoding="utf-8")
    rate = float(totals[0]["cer_percent"] or 0)
    if too_many := arguments.max_cer is not None and rate > arguments.max_cer:
        print(f"error: the CER is {rate:.4g} %, --max-cer {arguments.max_cer:g}: see the worst pages", file=sys.stderr)
    return 1 if too_many or any(entry.fault for entry in entries) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return exit_status(lambda: run(argv))
