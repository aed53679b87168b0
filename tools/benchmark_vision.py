#!/usr/bin/env python3
"""Compare the speed of a published vision tower, with random weights, with transformers on PyTorch and the machine's limit.

uv run tools/benchmark_vision.py --peer-python .venv-reference/bin/python
uv run tools/benchmark_vision.py --shapes 2b                       # the same images in a tower without windows

transformers runs in float32. The engines take turns, each of our runs is followed by a measurement of the multiply-add rate,
and medians are compared. --blocks sets the number of blocks, counted from the first. In Qwen2.5-VL, every 8 blocks are 7
with windows and one without, so 8 of the 32 blocks are representative. Images are square.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from mindnlp_ocr.backends.select import backends_for, operators_for
from mindnlp_ocr.bench import published
from mindnlp_ocr.bench.machine import Machine
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.shapes import RandomWeights, vision_flops
from mindnlp_ocr.bench.tool import positive, run_tool
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import Graphs
from mindnlp_ocr.ops.device import Device
from mindnlp_ocr.processing.images import Patches
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES

PEER = Path(__file__).resolve().parent / "peers" / "vision_tower.py"
CPU = Device("CPU")
# The smallest possible language model, which the graphs require.
SMALL = {"num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 4}
SMALL |= {"image_token_id": 0, "video_token_id": 1, "vision_start_token_id": 2, "eos_token_id": 3}


class Peer:
    """transformers' vision tower, in a separate process."""

    def __init__(self, python: str, shapes: dict[str, Any]) -> None:
        self._process = subprocess.Popen([python, str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(shapes)

    def seconds(self, grid: tuple[int, int, int]) -> float:
        return float(self._ask(grid))

    def _ask(self, what: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate()


def tower(config: ModelConfig, dtype: Any) -> Graphs:
    """Return the graphs of the tower, which are compiled at the first run."""
    backends = backends_for(CPU, "flash", config)
    kv = KVSlots(config, 1, 64, backends.text)
    return Graphs(config, RandomWeights(config), 64, operators_for(CPU, dtype), backends, kv)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes",
        choices=published.CONFIGS,
        default="qwen2.5-3b",
        help="checkpoint whose shapes are used (default: qwen2.5-3b)",
    )
    parser.add_argument("--blocks", type=positive, default=8, help="number of blocks of the tower (default: 8)")
    parser.add_argument("--sides", default="64,90,128", metavar="A,B", help="patches along each side (default: 64,90,128)")
    parser.add_argument("--runs", type=positive, default=3, help="number of runs per engine and image (default: 3)")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, default="fp32", help="dtype of our weights (default: fp32)")
    parser.add_argument("--peer-python", metavar="FILE", help="Python interpreter of an environment with transformers")
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    shapes = dict(published.CONFIGS[arguments.shapes])
    shapes |= {**SMALL, "vision_config": {**shapes["vision_config"], "depth": arguments.blocks}}
    config = ModelConfig.from_dict(shapes)
    graphs, machine = tower(config, arguments.dtype), Machine()
    peer = Peer(arguments.peer_python, shapes) if arguments.peer_python else None
    rows: list[Row] = []
    for side in map(int, arguments.sides.split(",")):
        grid = (1, side, side)
        image = Patches(np.random.default_rng(1).standard_normal((side * side, config.vision.patch_dim), np.float32), grid)
        graphs.vision([image])
        ours, theirs, limits = [], [], []
        for _ in range(arguments.runs):
            start = time.perf_counter()
            graphs.vision([image])
            ours.append(time.perf_counter() - start)
            limits.append(machine.gflops())
            if peer is not None:
                theirs.append(peer.seconds(grid))
        seconds, peak = statistics.median(ours), statistics.median(limits)
        rate = vision_flops(config.vision, grid) / seconds / 1e9
        row: Row = {"patches": side * side, "ours_s": seconds, "gflops": rate, "of_limit_percent": 100 * rate / peak}
        if theirs:
            row |= {"transformers_s": statistics.median(theirs), "times_as_fast": statistics.median(theirs) / seconds}
        rows.append(row)
    if peer is not None:
        peer.close()
    results = Results.start()
    about = f"{arguments.blocks} blocks and the merger; medians of {arguments.runs} runs in turns."
    results.add("vision", f"The vision tower of {published.NAMES[arguments.shapes]}, {arguments.dtype}", rows, about)
    if arguments.output:
        results.save(arguments.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
