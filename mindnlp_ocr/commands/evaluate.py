"""Measure the accuracy of reading: character and word error rates, recall of words, reading order, and the worst pages.

    mindnlp-ocr evaluate                                            # the project's own test set
    mindnlp-ocr evaluate scans/ more.jsonl --gallery worst.html     # your own pages, with an HTML page of the results
    mindnlp-ocr evaluate scans/ --loose --max-cer 2 --output accuracy.json
    mindnlp-ocr evaluate tests/data/dev --loose --ignore-case --peers tesseract rapidocr
    mindnlp-ocr evaluate tests/data/dev/receipts.json --true-boxes  # without line detection

Pages are read as `mindnlp-ocr infer` reads them, with the same options. A DATASET is one of these:

- a folder of images, or one image. The ground truth is next to page.png, in the first of these files that exists: page.txt;
  hOCR as page.hocr or page.html; or page.json with [[LEFT, TOP, RIGHT, BOTTOM, TEXT], ...] in pixels, or {"text": TEXT}. A
  .json file with another name in the folder may contain the ground truth of many images in the next format.
- a .json with {"page.png": [[LEFT, TOP, RIGHT, BOTTOM, TEXT], ...], ...} or {"page.png": {"text": TEXT}, ...}.
- a .jsonl with a line {"image": PATH, "text": TEXT} for every page. Paths are relative to the file.

The default is the project's own test set, tests/pages and examples: 28 synthetic pages in English and Chinese, similar to
the training data of the built-in model. PDF files are accepted in place of images.

CER  character edits (Levenshtein distance) divided by the characters of the ground truth. WER is the same for words, which
     are separated by white space; each Chinese character is a word. Exact lines are lines of the ground truth that were read
     without an error, in the same order. Errors are summed over pages before the division. Only line ends and trailing
     white space are normalised. --loose compares in NFKC and without white space within lines; --ignore-case ignores case.
     Blocks of a page that is read line by line are separated by an empty line, which counts as a character unless --loose.

Words without order: recall is the fraction of words of the ground truth that were read, precision the fraction of words read
that are in the ground truth, and F1 their harmonic mean. A word counts as often as it occurs in both texts.

Reading order is a figure between 0 and 1 that is independent of misread words. For all words that occur exactly once in both
texts, it is the fraction of pairs of words that have the same order in both: 1 if all words are in order, 0 if the order is
reversed, about 0.5 if it is random. In terms of Kendall's tau, it is (1 + tau) / 2. It is undefined for a page with fewer
than two such words. The figure over several pages is their mean, weighted by the number of words compared.

With --true-boxes, the model reads the lines at the boxes of the ground truth, without line detection and reading order.
Errors are counted line by line, and an exact line is a line that was read without an error.

With --peers, other engines read the same pages and are scored in the same way. Engines that are not installed are named and
skipped. Tesseract reads English and simplified Chinese; RapidOCR runs with its defaults.

Languages: zh if a fifth of the ground truth's characters are CJK, else en. A page that cannot be read counts as all wrong.
Exit status: 0; 1 if a page could not be read or the CER is above --max-cer; 2 for wrong usage. Peers do not affect it.
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
from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.documents.source import Source
from mindnlp_ocr.documents.stream import Begun, DocumentStream, Ended, PageRead
from mindnlp_ocr.errors import PageError, SetupError, coded

PEERS = ("tesseract", "rapidocr")
MARGIN = 0.11  # added around the boxes of the ground truth, which are tight, as a fraction of the line height


class Outcome(NamedTuple):
    """The result of an engine for a page: its text or an error; with --true-boxes, also the text of each line."""

    text: str | None
    fault: str | None = None
    lines: Sequence[str] = ()


def percent(text: str) -> float:
    """Parse an option's value as a percentage, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage: use 0 or more")
    return value


def ours(arguments: argparse.Namespace, reader: DocumentReader, pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Yield every page as `mindnlp-ocr infer` reads it. A document with several pages counts as one page."""
    selection = PageSelection(arguments.pages)
    stream = DocumentStream(reader, selection, arguments.dpi, arguments.password, arguments.text_layer)
    texts, fault = list[str](), None
    for event in stream.read([page.image for page in pages]):
        if isinstance(event, Begun):
            texts, fault = [], None
        elif isinstance(event, PageRead):
            texts.append(event.page.text)
            fault = fault or _fault(event.page)
        else:
            fault = fault or _fault(event)
            yield Outcome(None if fault else "\n\f".join(texts), fault)


def _fault(result: Page | Ended) -> str | None:
    return None if result.error is None else coded(result.error, result.error_code)


def at_boxes(reader: DocumentReader, pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Yield every page, read at the boxes of the ground truth."""
    for page in pages:
        try:
            source = Source(page.image)
            try:
                image = source.page(0).image
            finally:
                source.close()
            lines = [line.text for line in reader.read_lines(image, [line.box for line in page.lines], MARGIN)]
        except PageError as error:
            yield Outcome(None, coded(error, error.code))
        else:
            yield Outcome("\n".join(lines), None, lines)


def entry(arguments: argparse.Namespace, page: accuracy.Page, outcome: Outcome) -> Entry:
    """Return the scores of a page."""
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
    """Read all pages. Returns the settings in effect, and an entry for every page."""
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
    """Return the commands of the requested peers that are available. The others are reported."""
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
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return found


def peer(name: str, command: Sequence[str], pages: Sequence[accuracy.Page]) -> Iterator[Outcome]:
    """Yield every page as a peer reads it. After its process has died, pages have only an error."""
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
    """Return the totals of every peer, and its scores page by page."""
    totals: list[Row] = []
    rows: list[Row] = []
    for name, command in commands(arguments).items():
        outcomes = tqdm(peer(name, command, pages), name, total=len(pages), unit="page", disable=None)
        entries = [entry(arguments, page, outcome) for page, outcome in zip(pages, outcomes, strict=True)]
        totals += [{"engine": name, **row} for row in totals_of(entries)]
        rows += [{"engine": name, **row_of(one)} for one in entries]
    return totals, rows


def totals_of(entries: Sequence[Entry]) -> list[Row]:
    """Return the totals over all pages, and by language."""
    return accuracy.totals(
        [entry.page for entry in entries], [entry.score for entry in entries], [entry.words for entry in entries]
    )


def row_of(entry: Entry) -> Row:
    """Return the row of a page in the results."""
    about: Row = {"page": entry.page.image, "language": entry.page.language}
    return {**about, **entry.score.row(), **entry.words.row(), "error": entry.fault}


def show(totals: Sequence[Row]) -> None:
    """Print totals."""
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
    """Print the pages with errors among the worst."""
    for entry in worst:
        score = entry.score
        if score.character_errors:
            errors = f"{shown(score.character_errors)} of {shown(score.characters)} characters"
            reason = f", not read: {entry.fault}" if entry.fault else ""
            print(f"  CER {shown(score.cer_percent):>6} %  {entry.page.image}: {errors}{reason}")


def with_boxes(pages: Sequence[accuracy.Page]) -> list[accuracy.Page]:
    """Return the pages whose ground truth has boxes. The others are reported."""
    for page in pages:
        if not page.lines:
            print(f"skipped: the ground truth of {page.image} has no boxes", file=sys.stderr)
    kept = [page for page in pages if page.lines]
    if not kept:
        raise SetupError(
            "--true-boxes: no page has a ground truth with boxes: use hOCR or JSON with boxes", code="truth_without_boxes"
        )
    return kept


def run(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="see above (default: the project's own test set)")
    options.add_options(parser)
    options.add_document_options(parser)
    parser.add_argument("--loose", action="store_true", help="compare in NFKC and without white space within lines")
    parser.add_argument("--ignore-case", action="store_true", help="ignore upper and lower case")
    parser.add_argument("--true-boxes", action="store_true", help="read the lines at the boxes of the ground truth")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], help="other engines to compare with")
    parser.add_argument(
        "--tesseract-psm", type=positive, default=3, metavar="N", help="Tesseract's page segmentation mode (default: 3)"
    )
    parser.add_argument(
        "--worst", type=positive, default=10, metavar="N", help="maximum number of pages to print (default: 10)"
    )
    parser.add_argument(
        "--max-cer", type=percent, metavar="PERCENT", help="exit with status 1 if the CER over all pages is higher"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    parser.add_argument(
        "--gallery", metavar="FILE", help="write an HTML page with every image, the text read, and coloured differences"
    )
    arguments = parser.parse_args(argv)
    options.check(arguments)
    if arguments.true_boxes and arguments.peers:
        raise SetupError(
            "--true-boxes and --peers are both given: peers detect lines themselves, so use only one of the two",
            code="options_conflict",
        )
    pages, without = accuracy.datasets(arguments.datasets or accuracy.own_datasets())
    for image in without:
        print(f"skipped: {image} has no ground truth next to it ({Path(image).with_suffix('.txt').name})", file=sys.stderr)
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
    results.sections["settings"] = Section(title="Settings", rows=[settings])
    results.sections["totals"] = Section(title="Accuracy", about=about, rows=totals)
    results.sections["pages"] = Section(title="Accuracy by page, the worst first", rows=[row_of(entry) for entry in entries])
    show(totals)
    show_worst(entries[: arguments.worst])
    if arguments.peers:
        beside, rows = compare(arguments, pages)
        results.sections["peers"] = Section(title="Accuracy of peers", about=about, rows=beside)
        results.sections["peer_pages"] = Section(title="Accuracy of peers by page", rows=rows)
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
    """Run the command. Returns the exit status."""
    return exit_status(lambda: run(argv))
