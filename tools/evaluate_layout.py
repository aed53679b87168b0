#!/usr/bin/env python3
"""Measure how well a model's blocks agree with those of the line detector, and their effect on the text.

    uv run tools/evaluate_layout.py tests/data/dev
    uv run tools/evaluate_layout.py scans/ --model MODEL --preset mineru --output layout.json

A DATASET is the same as for tools/evaluate.py. Every page, even a small one, is read by lines (--layout lines), by blocks
(--layout model), and by blocks without the detected lines outside of them ("model alone"), in turns.

Lines found: the share of the detector's lines of which at least half lies in a block in which the model read text.
Boxes on text: the share of the area of these blocks that lies in the blocks composed of the detected lines. Matched blocks:
a block of the model and a block of lines match if their intersection is at least half of their union; each block matches
once. Block recall is the share of the blocks of lines that match, and precision that of the model's blocks.

Words: precision, recall and F1 of the words, as tools/evaluate.py counts them with --loose --ignore-case.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from PIL import Image
from tqdm import tqdm

from mindnlp_ocr import opening, options
from mindnlp_ocr.bench import accuracy
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.tool import run_tool
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Block, Box, Page
from mindnlp_ocr.documents.settings import LayoutChoice
from mindnlp_ocr.documents.source import Source

WAYS: dict[str, LayoutChoice] = {"lines": "lines", "model": "model", "model alone": "model"}
MATCHED = 0.5


def shared(one: Box, other: Box) -> float:
    """Return the area of the intersection of two boxes."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0.0, width) * max(0.0, height)


def area(box: Box) -> float:
    return box.width * box.height


def matches(found: Sequence[Block], known: Sequence[Block]) -> int:
    """Return the number of pairs of blocks whose intersection is at least half of their union; no block is in two pairs."""
    free, count = list(known), 0
    for block in found:
        for other in free:
            common = shared(block.box, other.box)
            if common >= MATCHED * (area(block.box) + area(other.box) - common):
                free.remove(other)
                count += 1
                break
    return count


def agreement(found: Page, known: Page) -> dict[str, float]:
    """Return the counts and areas of one page; their sums over all pages make the shares."""
    boxes = [block for block in found.blocks if block.label is not None and block.kind != "figure"]
    lines = [line.box for line in known.lines]
    inside = sum(sum(shared(line, block.box) for block in boxes) >= MATCHED * area(line) for line in lines)
    on_text = sum(min(area(b.box), sum(shared(b.box, other.box) for other in known.blocks)) for b in boxes)
    return {
        "lines": len(lines),
        "lines_inside": inside,
        "area": sum(area(block.box) for block in boxes),
        "area_on_text": on_text,
        "known": len(known.blocks),
        "found": len(boxes),
        "matched": matches(boxes, known.blocks),
    }


def opened(page: accuracy.Page) -> Image.Image:
    """Open the image of a page."""
    source = Source(page.image)
    try:
        return source.page(0).image
    finally:
        source.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="pages with their text")
    parser.add_argument("--limit", type=int, metavar="N", help="read only the first N pages of each data set (default: all)")
    parser.add_argument("--preset", metavar="NAME", help="see mindnlp-ocr --help")
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    options.add_options(parser)
    arguments = parser.parse_args()
    model = opening.load_model(arguments)
    readers = {}
    for way, layout in WAYS.items():
        readers[way] = reader = DocumentReader(model, layout, threads=arguments.threads, preset=arguments.preset)
        if way == "model alone" and (settings := reader.settings.model_layout) is not None:
            alone = settings.model_copy(update={"fill_gaps": False})
            reader.settings = reader.settings.model_copy(update={"model_layout": alone})
    results = Results.start()
    for name in arguments.datasets:
        pages = accuracy.dataset(name)[0][: arguments.limit]
        sums: dict[str, float] = {}
        scores: dict[str, accuracy.WordScore] = {}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        fallen_back = 0
        for reader in readers.values() if len(pages) > 1 else ():  # compiles the graphs before the measurement
            reader.read_image(opened(pages[0]))
        for page in tqdm(pages, unit="page", file=sys.stderr, disable=None):
            image = opened(page)
            read: dict[str, Page] = {}
            for way, reader in readers.items():
                model.clear_cache()
                start = time.perf_counter()
                read[way] = reader.read_image(image)
                seconds[way].append(time.perf_counter() - start)
                score = accuracy.word_score(page.truth, read[way].text, loose=True, ignore_case=True)
                scores[way] = scores[way] + score if way in scores else score
            fallen_back += read["model"].layout == "lines"
            for key, value in agreement(read["model alone"], read["lines"]).items():
                sums[key] = sums.get(key, 0.0) + value
        share: Row = {"pages": len(pages), "read_by_lines": fallen_back}
        for key, part, whole in (
            ("lines_found_percent", "lines_inside", "lines"),
            ("boxes_on_text_percent", "area_on_text", "area"),
            ("block_recall_percent", "matched", "known"),
            ("block_precision_percent", "matched", "found"),
        ):
            share[key] = 100 * sums[part] / sums[whole] if sums[whole] else None
        results.add("layout", f"Blocks of the model compared with those of the detector, {name}", [share], "")
        rows: list[Row] = []
        for way in WAYS:
            score = scores[way]
            words: Row = {"f1_percent": score.f1_percent, "recall_percent": score.recall_percent}
            words |= {"precision_percent": score.precision_percent, "seconds_a_page": statistics.median(seconds[way])}
            rows.append({"layout": way, **words})
        results.add("text", f"Words and times, {name}", rows, "")
    if arguments.output:
        results.save(arguments.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
