#!/usr/bin/env python3
"""Compare our attention with eager attention, PyTorch's scaled_dot_product_attention and the machine's limits (float32).

The engines alternate on the same inputs, so that drifts of the machine's speed affect all of them, and medians are compared.
Times are per layer: a graph contains four layers (PyTorch: a loop of four calls), so that the overhead of the call hardly
counts. Above 4,096 tokens a graph contains one layer, and for decode steps 16. Our prefill also writes its keys and values
to a slot and reads them from there, whereas PyTorch receives them as tensors. The peer runs in a separate environment:

    python -m venv .venv-reference && .venv-reference/bin/pip install --group reference
    uv run tools/benchmark_attention.py --peer-python .venv-reference/bin/python
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mindnlp_ocr.bench.results import Row

VISION = [(tokens, head_dim) for head_dim in (64, 80) for tokens in (1024, 2048, 4096, 8192, 16384)]
PREFILL = [512, 1024, 2048, 4096, 8192]
DECODE = [(slots, live) for slots in (1, 2, 4, 8) for live in (512, 2048, 8192)]
STEPS = 5  # decode steps per turn: as in the decode of a text, threads and caches are warm for all but the first
ABOUT = {
    "vision": "One image: tokens x heads x head_dim. A ratio above 1 means that we are faster.",
    "prefill": "One prompt in an empty slot: tokens x query heads / key-value heads x head_dim.",
    "decode": "One token in each slot, all rows but one live; time of one layer, in a graph of sixteen.",
}
EAGER_LIMIT = 4 << 30  # maximum bytes of the scores of eager attention; larger shapes are skipped


def shapes(work: str) -> list[dict[str, Any]]:
    """Return the head shapes of Qwen2-VL-2B; for vision also head_dim 64, that of the built-in model."""

    def shape(heads: int, kv_heads: int, head_dim: int, tokens: int, live: list[int]) -> dict[str, Any]:
        return {
            "work": work,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "tokens": tokens,
            "live": live,
        }

    if work == "vision":
        return [shape(16, 16, head_dim, tokens, [0, tokens]) for tokens, head_dim in VISION]
    if work == "prefill":
        return [shape(12, 2, 128, tokens, [tokens]) for tokens in PREFILL]
    return [shape(12, 2, 128, length, [length - 1] * slots) for slots, length in DECODE]


def layers(shape: dict[str, Any]) -> int:
    if shape["work"] == "decode":
        return 16
    return 1 if shape["tokens"] > 4096 else 4


def ours(shape: dict[str, Any], implementation: Any) -> Callable[[], Any] | None:
    """Return a function that runs all layers; None if eager attention would need more memory than EAGER_LIMIT."""
    from mindnlp_ocr.bench.attention import Case, compiled
    from mindnlp_ocr.ops.device import Device

    case = Case(**{**shape, "live": tuple(shape["live"])})
    if implementation == "eager" and case.work != "decode" and 8 * case.heads * case.tokens**2 > EAGER_LIMIT:
        return None
    run: Callable[[], Any] = compiled(case, Device("CPU"), implementation, case.inputs(), layers=layers(shape), whole=False)
    return run


def torch_sdpa(shape: dict[str, Any], _: Any) -> Callable[[], Any]:
    """Return this function for PyTorch; q, k and v are views of [tokens, heads, head_dim], as projections return them."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from torch.nn.functional import scaled_dot_product_attention as sdpa  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(os.cpu_count() or 1)
    random, group = np.random.default_rng(0), shape["heads"] // shape["kv_heads"]
    decode, slots = shape["work"] == "decode", len(shape["live"])

    def tensor(*size: int) -> Any:
        return torch.from_numpy(random.standard_normal(size, np.float32))

    lead = (slots, 1) if decode else (1, shape["tokens"])
    q, k, v = (
        tensor(*lead, heads, shape["head_dim"]).transpose(1, 2) for heads in (shape["heads"], *[shape["kv_heads"]] * 2)
    )
    live = shape["live"][-1]
    size = (slots, shape["kv_heads"], shape["tokens"], shape["head_dim"])
    held = [(tensor(*size), tensor(*size)) for _ in range(layers(shape) if decode else 0)]

    def run() -> Any:
        x = q
        for layer in range(layers(shape)):
            if decode:
                keys, values = held[layer]
                keys[:, :, live], values[:, :, live] = k[:, :, 0], v[:, :, 0]
                x = sdpa(x, keys[:, :, : live + 1], values[:, :, : live + 1], enable_gqa=True)
            elif group > 1:
                x = sdpa(x, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True)
            else:
                x = sdpa(x, k, v)
        return x[-1, -1, -1].sum().item()

    return run


def serve(engine: str) -> None:
    """Run as a worker: read one shape per line and write one time in milliseconds per line. An empty line repeats the
    measurement of the last shape."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    build = torch_sdpa if engine == "torch" else ours
    run: Callable[[], Any] | None = None
    shape: dict[str, Any] = {}
    for line in sys.stdin:
        if line.strip():
            run = None  # frees the memory of the previous shape before the next is allocated
            shape = json.loads(line)
            run = build(shape, engine)
            if run is not None:
                run()
        times = []
        for _ in range(STEPS if shape["work"] == "decode" else 1):
            start = time.perf_counter()
            if run is not None:
                run()
            times.append((time.perf_counter() - start) * 1e3 / layers(shape))
        print(json.dumps(statistics.median(times) if run else None), file=answers, flush=True)


class Worker:
    """A process that times one engine when asked."""

    def __init__(self, python: str, engine: str) -> None:
        command = [python, __file__, "--serve", engine]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def time(self, shape: dict[str, Any] | None = None) -> float | None:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(shape) if shape else "", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self._process.args!r} stopped: run it manually to see why")
        answer: float | None = json.loads(line)
        return answer


def limits() -> tuple[float, float]:
    """Return the float32 multiply-add rate (GFLOP/s) and memory read rate (GB/s) of all cores, each the best of seven."""
    from mindnlp_ocr.bench.machine import Machine

    machine = Machine()
    return max(machine.gflops() for _ in range(7)), max(machine.read_gbs() for _ in range(7))


def times(work: str, workers: dict[str, Worker], runs: int, smoke: bool) -> Iterator["Row"]:
    """Yield the median times per layer, their ratios to ours, and our best run as a share of the machine's limit."""
    from mindnlp_ocr.bench.attention import Case

    for shape in shapes(work)[: 1 if smoke else None]:
        case = Case(**{**shape, "live": tuple(shape["live"])})
        peak, bandwidth = limits()
        taken: dict[str, list[float]] = {name: [] for name in workers}
        active = [name for name, worker in workers.items() if worker.time(shape) is not None]
        for _ in range(runs):
            for name in active:
                taken[name].append(workers[name].time() or 0.0)
        medians = {name: statistics.median(taken[name]) for name in active}
        best = min(taken["flash"])
        share = case.kv_bytes / best / 1e6 / bandwidth if work == "decode" else case.flops / best / 1e6 / peak
        row: Row = {"case": str(case), "flash_ms": medians["flash"], "of_limit_percent": 100 * share}
        row["limit"] = f"{bandwidth:.0f} GB/s" if work == "decode" else f"{peak:.0f} GFLOP/s"
        for name in [name for name in workers if name != "flash"]:
            row[f"{name}_ms"] = medians.get(name)
            row[f"{name}_ratio"] = medians[name] / medians["flash"] if name in medians else None
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", metavar="WORK", help="vision, prefill, decode (default: all)")
    parser.add_argument("--peer-python", help="Python interpreter of an environment with torch")
    parser.add_argument(
        "--runs", type=int, default=5, help="number of measured runs per shape, after two warm-up runs (default: 5)"
    )
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs: one run of the smallest shapes")
    parser.add_argument("--serve", choices=("flash", "eager", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    if unknown := set(arguments.work) - set(ABOUT):
        parser.error(f"{', '.join(sorted(unknown))} is unknown: use {', '.join(ABOUT)}")
    workers = {name: Worker(sys.executable, name) for name in ("flash", "eager")}
    if arguments.peer_python:
        workers["torch"] = Worker(arguments.peer_python, "torch")
    # Imported after the workers start: MindSpore's import sets LD_LIBRARY_PATH, with which a child runs at half the speed.
    from mindnlp_ocr.bench.results import Results

    results = Results.start(smoke=arguments.smoke)
    for work in arguments.work or ABOUT:
        rows = times(work, workers, 1 if arguments.smoke else arguments.runs, arguments.smoke)
        results.add(work, f"Attention: {work}", rows, ABOUT[work])
    if arguments.output:
        results.save(arguments.output)
    return None


if __name__ == "__main__":
    main()
