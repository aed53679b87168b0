#!/usr/bin/env python3
"""Measure the gain of each fused operator and weight dtype on a page. The tokens must be equal.

uv run tools/benchmark_fusion.py [PAGE]
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.cli import DEFAULT_PROMPT
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel

ROOT = Path(__file__).resolve().parent.parent
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> weight dtype, attention, changed backend attributes
    "all, bf16": ("bf16", "auto", {}),
    "all, fp32": ("fp32", "auto", {}),
    "all, fp16": ("fp16", "auto", {}),
    "all, int8": ("int8", "auto", {}),
    "fp32, one token per call": ("fp32", "auto", {"decode_steps": 1}),
    "and no decoder layer": ("fp32", "auto", {"decode_steps": 1, "fuses_layers": False, "packed_prompts": 1}),
    "fp32, no vision block": ("fp32", "auto", {"fuses_vision": False}),
    "fp32, eager attention": ("fp32", "eager", {}),
}
TIMES = ("vision", "prefill", "decode", "total")


def model_of(dtype: Any, attention: Any, without: dict[str, Any]) -> Qwen2VLModel:
    model = Qwen2VLModel(dtype=dtype, attn=attention)
    for backend in model._backends:
        for name, value in without.items():
            setattr(backend, name, value)
    model.engine.graphs.attach(model._backends, model.engine.kv)
    return model


def rows_of(readings: dict[str, list[Any]]) -> Iterator[Row]:
    """Yield one row per variant, without its first reading. All variants must have generated the same tokens."""
    tokens = readings["all, fp32"][0].token_ids
    for name, taken in readings.items():
        if any(reading.token_ids != tokens for reading in taken):
            raise SystemExit(f"error: {name} generated other tokens than float32")
        times = {f"{time}_ms": statistics.median(reading.timings_ms[time] for reading in taken[1:]) for time in TIMES}
        yield {"variant": name, "new_tokens": len(tokens), **times, "per_token_ms": times["decode_ms"] / (len(tokens) - 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", default=str(ROOT / "examples" / "invoice.png"))
    parser.add_argument(
        "--runs", type=int, default=7, help="number of measured runs per variant, after a warm-up run (default: 7)"
    )
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    content = [{"type": "image", "image": arguments.page}, {"type": "text", "text": DEFAULT_PROMPT}]
    models = {name: model_of(*variant) for name, variant in VARIANTS.items()}
    readings: dict[str, list[Any]] = {name: [] for name in models}
    for _ in range(arguments.runs + 1):
        for name, model in models.items():
            model.clear_cache()
            readings[name].append(model.generate([{"role": "user", "content": content}]))
    results = Results.start()
    title, about = f"Gain of each operator: {Path(arguments.page).name}", "Medians; rows differ in one dtype or operator."
    results.add("fusion", title, rows_of(readings), about)
    if arguments.output:
        results.save(arguments.output)


if __name__ == "__main__":
    main()
