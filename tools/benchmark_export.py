#!/usr/bin/env python3
"""An exported model beside the live one on a page, in turns, nothing cached; same tokens, asserted. Exports it first.

uv run tools/benchmark_export.py [PAGE ...]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mindnlp_ocr.cli import DEFAULT_PROMPT
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel

ROOT = Path(__file__).resolve().parent.parent


def seconds(start: float) -> float:
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=[str(path) for path in sorted((ROOT / "examples").glob("*.png"))])
    parser.add_argument("--model", default=EMBEDDED, help="what to export (default: the built-in model)")
    parser.add_argument("--runs", type=int, default=7, help="of each, after one to warm up (default: 7)")
    parser.add_argument("--max-length", type=int, help="of the export, as that of tools/export.py")
    parser.add_argument("--vision-patches", type=int, nargs="*", default=[], help="of the export, likewise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "exported"
        start = time.perf_counter()
        limits = Limits(max_length=arguments.max_length)
        manifest = export_model(arguments.model, folder, limits=limits, vision_patches=arguments.vision_patches)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        print(f"exported {len(manifest.graphs)} graphs in {seconds(start):.1f} s, {size:.0f} MB")
        models = {"live": Qwen2VLModel(arguments.model), "exported": Qwen2VLModel.from_exported(folder)}
        for page in arguments.pages:
            content = [{"type": "image", "image": page}, {"type": "text", "text": DEFAULT_PROMPT}]
            readings: dict[str, list[Any]] = {name: [] for name in models}
            for _ in range(arguments.runs + 1):
                for name, model in models.items():
                    model.clear_cache()
                    readings[name].append(model.generate([{"role": "user", "content": content}]))
            tokens = readings["live"][0].token_ids
            assert all(reading.token_ids == tokens for taken in readings.values() for reading in taken), "other tokens"
            live, exported = (
                statistics.median(reading.timings_ms["total"] for reading in readings[name][1:]) for name in models
            )
            ratio = f"live {live:.0f} ms, exported {exported:.0f}: {exported / live:.2f}"
            print(f"{Path(page).name}: {len(tokens)} tokens; {ratio}")


if __name__ == "__main__":
    main()
