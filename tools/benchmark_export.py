#!/usr/bin/env python3
"""Compare an exported model with the original on a page, without cached prefixes. The tokens must be equal.

uv run tools/benchmark_export.py [PAGE ...]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindnlp_ocr.bench.reading import ask, same
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.models.export import export_model
from mindnlp_ocr.models.limits import Limits
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel

ROOT = Path(__file__).resolve().parent.parent


def compare(models: dict[str, Qwen2VLModel], pages: list[str], runs: int) -> Iterator[Row]:
    """Yield one row per page. Both models must generate the same tokens."""
    for page in pages:
        readings: dict[str, list[Any]] = {name: [] for name in models}
        for _ in range(runs + 1):
            for name, model in models.items():
                model.clear_cache()
                readings[name].append(model.generate(ask(page)))
        same([reading.token_ids for taken in readings.values() for reading in taken])
        live, exported = (
            statistics.median(reading.timings_ms["total"] for reading in readings[name][1:]) for name in models
        )
        row: Row = {"page": Path(page).name, "new_tokens": len(readings["live"][0].token_ids)}
        yield {**row, "live_ms": live, "exported_ms": exported, "ratio": exported / live}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=[str(path) for path in sorted((ROOT / "examples").glob("*.png"))])
    parser.add_argument("--model", default=EMBEDDED, help="model to export (default: the built-in model)")
    parser.add_argument("--runs", type=int, default=7, help="number of measured runs, after a warm-up run (default: 7)")
    parser.add_argument("--max-length", type=int, help="maximum length of the export, see tools/export.py")
    parser.add_argument(
        "--vision-patches", type=int, nargs="*", default=[], help="sizes of the export's vision graphs, see tools/export.py"
    )
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "exported"
        limits = Limits(max_length=arguments.max_length)
        start = time.perf_counter()
        manifest = export_model(arguments.model, folder, limits=limits, vision_patches=arguments.vision_patches)
        row: Row = {"graphs": len(manifest.graphs), "seconds": time.perf_counter() - start}
        row["size_mb"] = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        results = Results.start()
        results.add("export", "Exporting", [row], "Size of all graphs that pages can need, and of the weights.")
        models = {"live": Qwen2VLModel(arguments.model), "exported": Qwen2VLModel.from_exported(folder)}
        rows = compare(models, arguments.pages, arguments.runs)
        about = "A ratio above 1 means that the exported model is slower."
        results.add("exported", "An exported model and the original", rows, about)
    if arguments.output:
        results.save(arguments.output)


if __name__ == "__main__":
    main()
