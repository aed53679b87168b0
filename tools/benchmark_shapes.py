#!/usr/bin/env python3
"""Compare vision, prefill and decode at a published checkpoint's shapes with the machine's limits, and measure memory.

The weights are random. Every run is followed by a measurement of the machine's limit (multiply-adds, or reads of memory),
and medians are compared.

uv run tools/benchmark_shapes.py                  # float32: needs 10 GB of memory and about three minutes
uv run tools/benchmark_shapes.py --dtype int8     # or bf16, fp16
uv run tools/benchmark_shapes.py --shapes mineru2.5-1.2b --dtype bf16
uv run tools/benchmark_shapes.py --shapes qwen2.5-3b --dtype int8 --side 64 --max-length 2048
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mindnlp_ocr.backends.select import backends_for, choose_attention, operators_for
from mindnlp_ocr.bench import published
from mindnlp_ocr.bench.machine import READ_MB, Machine, peak_memory_mb
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.shapes import RandomWeights, prefill_flops, vision_flops
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs, NewToken, PromptPart
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.processing.images import Patches
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

CPU = Device("CPU")


def in_turns(run: Callable[[], Any], limit: Callable[[], float], runs: int) -> tuple[float, float]:
    """Return the medians of the seconds of a run and of the limit, measured alternately."""
    seconds, limits = [], []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        limits.append(limit())
    return statistics.median(seconds), statistics.median(limits)


def speeds(graphs: Graphs, config: ModelConfig, side: int, tokens: int, runs: int) -> Iterator[Row]:
    """Yield the speed of the vision tower, of the prefill of a prompt with its image, and of the decode of a token."""
    machine = Machine()
    grid = (1, side, side)
    pixels = np.random.default_rng(1).standard_normal((math.prod(grid), config.vision.patch_dim), dtype=np.float32)
    image = [config.image_token_id] * (math.prod(grid) // config.vision.spatial_merge_size**2)
    ids = np.asarray([1, 2, 3, *image, 4, 5, 6], np.int32)
    positions = mrope_positions(ids, [grid], config.image_token_id, config.vision.spatial_merge_size)
    features = graphs.vision([Patches(pixels, grid)])
    part = PromptPart(ids, features, positions.ids)
    step = graphs.prefill(part)[0]
    for name, rows, work, flops in (
        ("vision", len(pixels), lambda: graphs.vision([Patches(pixels, grid)]), vision_flops(config.vision, grid)),
        ("prefill", len(ids), lambda: graphs.prefill(part), prefill_flops(config, len(ids))),
    ):
        seconds, peak = in_turns(work, machine.gflops, runs)
        rate = flops / seconds / 1e9
        limits: Row = {"rate": f"{rate:.0f} GFLOP/s", "limit": f"{peak:.0f} GFLOP/s", "of_limit_percent": 100 * rate / peak}
        yield {"work": name, "rows": rows, "took_ms": 1e3 * seconds, **limits}
    live = len(ids)

    def decode() -> None:
        nonlocal step, live
        step = graphs.decode([NewToken(step.token_id, live + positions.delta, 0, live)])[0]
        live += 1

    decode()
    seconds, peak = in_turns(decode, machine.read_gbs, tokens)
    rate = graphs.decode_bytes / seconds / 1e9
    limits = {"rate": f"{rate:.1f} GB/s", "limit": f"{peak:.1f} GB/s", "of_limit_percent": 100 * rate / peak}
    yield {"work": "decode", "rows": 1, "took_ms": 1e3 * seconds, **limits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", choices=published.CONFIGS, default="2b", help="checkpoint whose shapes are used (default: 2b)"
    )
    parser.add_argument("--side", type=int, default=32, help="patches along each side of the image (default: 32)")
    parser.add_argument("--tokens", type=int, default=12, help="number of tokens to decode (default: 12)")
    parser.add_argument("--runs", type=int, default=3, help="number of runs of vision and prefill (default: 3)")
    parser.add_argument(
        "--layers", type=int, help="number of layers of the language model and of the vision tower (default: all)"
    )
    parser.add_argument("--max-length", type=int, default=1024, help="length of the KV slot (default: 1024)")
    parser.add_argument("--attn", choices=("auto", "eager", "flash"), default="auto", help="attention (default: auto)")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, default="fp32", help="dtype of weights (default: fp32)")
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    shapes, called = dict(published.CONFIGS[arguments.shapes]), published.NAMES[arguments.shapes]
    if arguments.layers:
        shapes["num_hidden_layers"] = arguments.layers
        shapes["vision_config"] = {**shapes["vision_config"], "depth": arguments.layers}
    config = ModelConfig.from_dict(shapes)
    choice = choose_attention(CPU, arguments.attn, (config.head_dim, config.vision.head_dim))
    backends = backends_for(CPU, choice.implementation, config)
    kv = KVSlots(config, 1, arguments.max_length, backends.text)
    graphs = Graphs(config, RandomWeights(config), arguments.max_length, operators_for(CPU, arguments.dtype), backends, kv)
    results = Results.start()
    rows = speeds(graphs, config, arguments.side, arguments.tokens, arguments.runs)
    about = (
        f"Random weights in {arguments.dtype}, {choice.implementation} attention. Vision and prefill are compared with the "
        "multiply-add rate of this machine, and decoding with its memory read rate, measured in turns with the work."
    )
    results.add("speed", f"The shapes of {called}, {arguments.dtype}", rows, about)
    weights = sum(parameter.nbytes for parameter in graphs.parameters()) / 2**20
    held = sum(parameter.nbytes for parameter in (*kv.keys, *kv.values)) / 2**20
    peak = peak_memory_mb() - READ_MB
    row: Row = {"weights_mb": weights, "kv_mb": held, "peak_mb": peak, "beside_mb": peak - weights - held}
    results.add(
        "memory", f"Memory at the shapes of {called}, {arguments.dtype}", [row], "Peak memory is that of the whole process."
    )
    if arguments.output:
        results.save(arguments.output)


if __name__ == "__main__":
    main()
