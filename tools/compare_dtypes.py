#!/usr/bin/env python3
"""What a weight dtype changes in the text of pages: character error rates, and the tokens that differ from float32's.

uv run tools/compare_dtypes.py                       # int8 on all pages of the tests and examples
uv run tools/compare_dtypes.py --dtype bf16 scans/   # pages with their text beside them: page.png, page.txt

Exit status 1 if the error rate over all pages rises by more than --points.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rapidfuzz.distance import Levenshtein
from tqdm import tqdm

from mindnlp_ocr.cli import DEFAULT_PROMPT, IMAGE_SUFFIXES
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

ROOT = Path(__file__).resolve().parent.parent


def pages_of(names: Sequence[str]) -> list[Path]:
    """Images that have their text beside them."""
    files = [file for name in names for file in ([Path(name)] if Path(name).is_file() else sorted(Path(name).iterdir()))]
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.with_suffix(".txt").exists()]


def differences(ours: Sequence[int], theirs: Sequence[int]) -> list[str]:
    """Where two sequences of tokens differ, as "position: ours -> theirs"."""
    edits = Levenshtein.opcodes(theirs, ours)
    return [
        f"{edit.src_start}: {list(theirs[edit.src_start : edit.src_end])} -> {list(ours[edit.dest_start : edit.dest_end])}"
        for edit in edits
        if edit.tag != "equal"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=[str(ROOT / "tests" / "pages"), str(ROOT / "examples")])
    parser.add_argument("--model", default=str(EMBEDDED), help="a Qwen2-VL folder (default: the one that is built in)")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, default="int8", help="compared with fp32 (default: int8)")
    parser.add_argument("--points", type=float, default=0.1, help="that the error rate may rise by (default: 0.1)")
    arguments = parser.parse_args()
    models = {dtype: Qwen2VLModel(arguments.model, dtype=dtype) for dtype in ("fp32", arguments.dtype)}
    errors, letters, tokens, changed = dict.fromkeys(models, 0), 0, 0, 0
    pages = pages_of(arguments.pages)
    if not pages:
        parser.error("none of these pages has its text beside it, as page.png has page.txt")
    for page in tqdm(pages, unit="page", disable=None):
        content = [{"type": "image", "image": str(page)}, {"type": "text", "text": DEFAULT_PROMPT}]
        readings = {dtype: model.generate([{"role": "user", "content": content}]) for dtype, model in models.items()}
        truth = page.with_suffix(".txt").read_text(encoding="utf-8").strip()
        for dtype, reading in readings.items():
            errors[dtype] += Levenshtein.distance(reading.text.strip(), truth)
        letters += len(truth)
        wide, narrow = (reading.token_ids for reading in readings.values())
        tokens += len(wide)
        changed += Levenshtein.distance(wide, narrow)
        for line in differences(narrow, wide):
            tqdm.write(f"{page.name}: token {line}", file=sys.stdout)
    rates = {dtype: 100 * count / letters for dtype, count in errors.items()}
    print(f"{len(pages)} pages, {letters} characters, {tokens} tokens of fp32; {changed} token edits in {arguments.dtype}")
    print("character error rate: " + ", ".join(f"{dtype} {rate:.3f} %" for dtype, rate in rates.items()))
    return 1 if rates[arguments.dtype] - rates["fp32"] > arguments.points else 0


if __name__ == "__main__":
    sys.exit(main())
