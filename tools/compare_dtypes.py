#!/usr/bin/env python3
"""Measure the effect of a weight dtype on the text of pages: character error rates, and tokens that differ from float32.

uv run tools/compare_dtypes.py                       # int8 on all pages of the tests and examples
uv run tools/compare_dtypes.py --dtype bf16 scans/   # pages with their text: a DATASET as for tools/evaluate.py

The exit status is 1 if the error rate over all pages rises by more than --points, or if a page could not be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rapidfuzz.distance import Levenshtein
from tqdm import tqdm

from mindnlp_ocr.bench.accuracy import Score, datasets, own_datasets, score
from mindnlp_ocr.bench.reading import ask
from mindnlp_ocr.bench.tool import run_tool
from mindnlp_ocr.errors import PageError, coded
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

ROOT = Path(__file__).resolve().parent.parent


def differences(ours: Sequence[int], theirs: Sequence[int]) -> list[str]:
    """Return the differences of two sequences of tokens, each as "position: theirs -> ours"."""
    edits = Levenshtein.opcodes(theirs, ours)
    return [
        f"{edit.src_start}: {list(theirs[edit.src_start : edit.src_end])} -> {list(ours[edit.dest_start : edit.dest_end])}"
        for edit in edits
        if edit.tag != "equal"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="default: all pages of the tests and examples")
    parser.add_argument("--model", default=str(EMBEDDED), help="a checkpoint folder (default: the built-in model)")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, default="int8", help="dtype to compare with fp32 (default: int8)")
    parser.add_argument(
        "--points", type=float, default=0.1, help="maximum increase of the error rate in percentage points (default: 0.1)"
    )
    arguments = parser.parse_args()
    pages, _ = datasets(arguments.datasets or own_datasets())
    models = {dtype: Qwen2VLModel(arguments.model, dtype=dtype) for dtype in ("fp32", arguments.dtype)}
    scores, tokens, changed, bad = dict.fromkeys(models, Score()), 0, 0, 0
    for page in tqdm(pages, unit="page", disable=None):
        try:
            readings = {dtype: model.generate(ask(page.image)) for dtype, model in models.items()}
        except PageError as error:
            tqdm.write(f"error: {page.image}: {coded(error, error.code)}", file=sys.stderr)
            bad += 1
            continue
        for dtype, reading in readings.items():
            scores[dtype] += score(page.truth, reading.text)
        wide, narrow = (reading.token_ids for reading in readings.values())
        tokens += len(wide)
        changed += Levenshtein.distance(wide, narrow)
        for line in differences(narrow, wide):
            tqdm.write(f"{Path(page.image).name}: token {line}", file=sys.stdout)
    rates = {dtype: of.cer_percent for dtype, of in scores.items()}
    counts = f"{len(pages) - bad} pages, {scores['fp32'].characters} characters, {tokens} tokens of fp32"
    print(f"{counts}; {changed} token edits in {arguments.dtype}")
    print("character error rate: " + ", ".join(f"{dtype} {rate:.3f} %" for dtype, rate in rates.items()))
    return 1 if bad or rates[arguments.dtype] - rates["fp32"] > arguments.points else 0


if __name__ == "__main__":
    run_tool(main)
