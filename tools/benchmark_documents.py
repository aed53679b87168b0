#!/usr/bin/env python3
"""Compare the time and word accuracy of whole pages with RapidOCR and Tesseract.

    uv run tools/benchmark_documents.py scans/ --dtype int8
    uv run tools/benchmark_documents.py scans/ --truth scans/typeset.json --limit 16 --output documents.json

The engines take turns, page by page, in one run on the same machine, and the median times are printed. A time covers
everything from the file to the text. All engines read the first page once before the measurement. RapidOCR is the whole
pipeline of the `rapidocr` package (detector, classifier, recogniser). Tesseract is the system's program
(`apt-get install tesseract-ocr`); it is skipped if it is not installed, or with --no-tesseract.

--truth names a JSON file {file name: {"text": ...}}. Word F1 compares the words of a page, separated by white space, without
regard to their order.
"""

import argparse
import collections
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mindnlp_ocr import opening, options
from mindnlp_ocr.bench.results import Results, Row, Section
from mindnlp_ocr.bench.tool import positive, run_tool, writable
from mindnlp_ocr.documents.source import IMAGE_SUFFIXES
from mindnlp_ocr.documents.stream import DocumentStream
from mindnlp_ocr.errors import SetupError

Reader = Callable[[str], str]


def ours(arguments: argparse.Namespace, stages: "collections.Counter[str]") -> Reader:
    """Return our reader, configured as in tools/infer.py. It adds the milliseconds of each stage to ``stages``."""
    stream = DocumentStream(opening.new_reader(opening.load_model(arguments), arguments))

    def read(path: str) -> str:
        document = stream.document(path)
        for page in document.pages:
            stages.update(page.timings_ms)
        return document.text

    return read


def rapidocr() -> Reader:
    """Return a reader that runs the whole pipeline of RapidOCR."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(path: str) -> str:
        result = engine(path)
        return "\n".join(result.txts or ())

    return read


def tesseract(languages: str) -> Reader:
    """Return a reader that runs the system's Tesseract."""

    def read(path: str) -> str:
        command = ["tesseract", path, "-", "-l", languages]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return read


def counted(text: str) -> "collections.Counter[str]":
    """Count the words of a text."""
    return collections.Counter(text.split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder of page images")
    options.add_options(parser)
    options.add_document_options(parser)
    parser.add_argument("--truth", metavar="FILE", help="JSON file with the texts of the pages")
    parser.add_argument("--limit", type=positive, default=10_000, metavar="N", help="maximum number of pages")
    parser.add_argument("--no-tesseract", action="store_true", help="skip Tesseract, which is the slowest engine")
    parser.add_argument(
        "--tesseract-languages", default="eng", metavar="L", help="languages for Tesseract's -l (default: eng)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    options.check(arguments)
    writable(arguments.output)
    folder = Path(arguments.folder)
    truth = json.loads(Path(arguments.truth).read_text(encoding="utf-8")) if arguments.truth else {}
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    paths = [path for path in paths if not truth or path.name in truth][: arguments.limit]
    if not paths:
        raise SetupError(f"{folder} contains no page to measure: pass a folder of images")
    results = Results.start()
    stages: collections.Counter[str] = collections.Counter()
    engines: dict[str, Reader] = {"ours": ours(arguments, stages), "rapidocr": rapidocr()}
    if shutil.which("tesseract") and not arguments.no_tesseract:
        engines["tesseract"] = tesseract(arguments.tesseract_languages)
    for read in engines.values():
        read(str(paths[0]))
    stages.clear()
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    words: dict[str, list[int]] = {name: [0, 0, 0] for name in engines}
    for path in tqdm(paths, unit="page", disable=None):
        for name, read in engines.items():
            start = time.perf_counter()
            text = read(str(path))
            seconds[name].append(time.perf_counter() - start)
            if truth:
                right, found = counted(truth[path.name]["text"]), counted(text)
                for i, value in enumerate((sum((right & found).values()), sum(found.values()), sum(right.values()))):
                    words[name][i] += value
    rows: list[Row] = []
    for name, taken in seconds.items():
        common, found_words, right_words = words[name]
        score = 2 * common / max(1, found_words + right_words) if truth else None
        rows.append({"engine": name, "seconds_a_page": statistics.median(taken), "word_f1": score, "pages": len(paths)})
        print(f"{name:10} {statistics.median(taken):7.2f} s per page" + (f"   word F1 {score:.4f}" if truth else ""))
    milliseconds: Row = {name: value / len(paths) for name, value in stages.items()}
    print("ours, mean milliseconds per page: " + ", ".join(f"{name} {value:.0f}" for name, value in milliseconds.items()))
    results.sections["engines"] = Section(title="Pages read by us, RapidOCR and Tesseract", rows=rows)
    results.sections["stages"] = Section(title="Milliseconds per page by stage", rows=[milliseconds])
    if arguments.output:
        results.save(arguments.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
