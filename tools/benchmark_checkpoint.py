#!/usr/bin/env python3
"""Compare a checkpoint with transformers on PyTorch: time to the first token, time per token, and peak memory.

uv run tools/benchmark_load.py --make /tmp/mineru --shapes mineru2.5-1.2b --runs 0     # random weights at these shapes
uv run tools/benchmark_checkpoint.py /tmp/mineru --peer-python .venv-reference/bin/python

Every engine and dtype runs in its own process, and the processes take turns. The image is noise, and the text has a fixed
length. For int8, torch quantizes the linear layers of transformers dynamically. Without --peer-python, only our engine runs.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.tool import positive, run_tool

READER = Path(__file__).resolve().parent / "peers" / "shapes_reader.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="FOLDER", help="a checkpoint folder")
    parser.add_argument("--peer-python", metavar="FILE", help="Python interpreter of an environment with transformers")
    parser.add_argument(
        "--dtypes", default="bf16,int8", metavar="A,B", help="dtypes of weights: fp32, bf16, int8 (default: bf16,int8)"
    )
    parser.add_argument("--pixels", type=positive, default=448, help="side length of the image in pixels (default: 448)")
    parser.add_argument("--tokens", type=positive, default=16, help="number of generated tokens (default: 16)")
    parser.add_argument(
        "--runs", type=positive, default=2, help="number of measured runs per process, after a warm-up run (default: 2)"
    )
    parser.add_argument("--turns", type=positive, default=2, help="number of processes per engine (default: 2)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to FILE as JSON")
    arguments = parser.parse_args()
    engines = {"ours": sys.executable} | ({"transformers": arguments.peer_python} if arguments.peer_python else {})
    measured: dict[tuple[str, str], list[list[float]]] = {}
    numbers = [str(value) for value in (arguments.pixels, arguments.tokens, arguments.runs)]
    for _ in range(arguments.turns):
        for dtype in arguments.dtypes.split(","):
            for engine, python in engines.items():
                command = [python, str(READER), engine, arguments.model, dtype, *numbers]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                measured.setdefault((dtype, engine), []).append(json.loads(done.stdout.splitlines()[-1]))
    rows: list[Row] = []
    for (dtype, engine), runs in measured.items():
        first, further, length, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        times: Row = {"prompt_tokens": int(length), "first_token_ms": first, "ms_a_token": further, "peak_mb": peak}
        rows.append({"dtype": dtype, "engine": engine, **times})
    results = Results.start()
    about = f"Medians of {arguments.turns} processes per engine in turns, with {arguments.runs} measured runs in each."
    results.add("checkpoint", f"{Path(arguments.model).name} and transformers", rows, about)
    if arguments.output:
        results.save(arguments.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
