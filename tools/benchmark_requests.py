#!/usr/bin/env python3
"""Measure many small requests, requests that arrive at random, and the cost of sampling.

    uv run tools/benchmark_requests.py                       # all sections
    uv run tools/benchmark_requests.py lines --dtype int8    # one section, other weights
    uv run tools/benchmark_requests.py arrivals --openvino-python PYTHON --openvino-model FOLDER

lines     different images of one line, 392 x 28 pixels: lines per second with 1, 8, 32 and 64 slots, and the times per line
          of vision, prefill and decode
prompts   the same prompts in one call of the prefill graph, and one by one
arrivals  requests that arrive at random (Poisson), half of them a line and half a page: time to the first token and between
          tokens for 1, 8 and 32 requests, compared with OpenVINO GenAI's continuous batching on the same arrivals
sampling  time per token of a page's decode with each setting, in turns with plain greedy decoding

Without sampling, a call decodes several tokens: the time between tokens is that between two moments at which a text grows.
Exit status: 0; 2 for wrong usage.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.timing import spread
from mindnlp_ocr.bench.tool import finish, positive, ready, run_tool
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.cli import DEFAULT_PROMPT
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import RequestHandle
from mindnlp_ocr.sampling import SamplingParams

ROOT = Path(__file__).resolve().parent.parent
LINE = ROOT / "tests" / "pages" / "line_392x28.png"
PAGE = ROOT / "examples" / "receipt.png"
SECTIONS = ("lines", "prompts", "arrivals", "sampling")
SLOTS = (1, 8, 32, 64)
STAGES = ("preprocess", "vision", "prefill", "decode")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy, fused": {},
    "greedy, stop string": {"stop": ["\\u0000\\u0000"]},
    "greedy, no guard": {"repetition_guard": False},
    "top_logprobs 5": {"logprobs": True, "top_logprobs": 5},
    "temperature": {"temperature": 1e-5, "seed": 1},
    "temperature, top_k 50": {"temperature": 1e-5, "seed": 1, "top_k": 50},
    "temperature, top_p 0.9": {"temperature": 1e-5, "seed": 1, "top_p": 0.9},
    "temperature, min_p 0.05": {"temperature": 1e-5, "seed": 1, "min_p": 0.05},
    "presence and frequency": {"presence_penalty": 1e-4, "frequency_penalty": 1e-4},
    "repetition_penalty": {"repetition_penalty": 1.0001},
    "no_repeat_ngram_size 100": {"no_repeat_ngram_size": 100},
    "min_new_tokens 1": {"min_new_tokens": 1},
}


def ask(image: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": DEFAULT_PROMPT}]
    return [{"role": "user", "content": content}]


def varied(path: Path, count: int) -> list[Any]:
    """Return ``count`` variants of an image that differ in one pixel, so that none of them is found in the cache."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    images = []
    for number in range(count):
        image = pixels.copy()
        image[0, 0] = (number % 256, number // 256, 7)
        images.append(image)
    return images


def model_of(slots: int, dtype: Any, max_length: int = 512) -> Qwen2VLModel:
    config = CacheConfig(slots=slots, max_cache_size_mb=8192)
    return Qwen2VLModel(cache_config=config, max_length=max_length, max_pixels=200_704, dtype=dtype)


def lines(arguments: argparse.Namespace) -> Iterator[Row]:
    models = {slots: model_of(slots, arguments.dtype, 256) for slots in SLOTS}
    taken: dict[int, list[dict[str, float]]] = {slots: [] for slots in SLOTS}
    for number in range(arguments.runs + 1):
        for slots, model in models.items():
            model.clear_cache()
            requests = [ask(image) for image in varied(LINE, arguments.lines)]
            start = time.perf_counter()
            readings = [r for _, r in model.generate_batch(requests, batch_size=slots) if isinstance(r, Reading)]
            seconds = time.perf_counter() - start
            if number > 0:
                sums = {f"{stage}_ms": sum(r.timings_ms[stage] for r in readings) / len(readings) for stage in STAGES}
                taken[slots].append(
                    {"lines_per_s": len(readings) / seconds, "line_ms": seconds / len(readings) * 1e3, **sums}
                )
    for slots, runs in taken.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        yield {"slots": slots, "lines": arguments.lines, **medians}


def prompts(arguments: argparse.Namespace) -> Iterator[Row]:
    model = model_of(32, arguments.dtype, 256)
    engine, rates = model.engine, {"packed": list[float](), "one by one": list[float]()}
    for number in range(arguments.runs + 1):
        for way, found in rates.items():
            model.clear_cache()
            generations = [model.requests.generation(ask(image), 1) for image in varied(LINE, 32)]
            with engine.lock:
                for generation in generations:
                    engine.begin(generation)
                engine.run_vision(generations)
                start = time.perf_counter()
                for group in [generations] if way == "packed" else [[each] for each in generations]:
                    engine.prefill(group)
                seconds = time.perf_counter() - start
                for generation in generations:
                    engine.end(generation)
            if number > 0:
                found.append(sum(len(generation.key) for generation in generations) / seconds)
    tokens = len(generations[0].key)
    for way, found in rates.items():
        rate = statistics.median(found)
        yield {"way": way, "prompts": 32, "tokens_each": tokens, "tokens_per_s": rate, "prompt_ms": tokens / rate * 1e3}


def schedule(requests: int, rate: float) -> list[tuple[float, Path]]:
    """Return the arrival time of each request in seconds, and the page that it reads."""
    random = np.random.default_rng(requests)
    times = np.cumsum(random.exponential(1 / rate, requests))
    return [(float(at), LINE if number % 2 else PAGE) for number, at in enumerate(times)]


def arrived(model: Qwen2VLModel, requests: int, rate: float) -> tuple[list[float], list[float], float]:
    """Return the milliseconds to the first token, the milliseconds between the growths of a text, and tokens per second."""
    moments: dict[RequestHandle, list[float]] = {}
    began: dict[RequestHandle, float] = {}
    images = {path: varied(path, requests) for path in (LINE, PAGE)}
    model.clear_cache()
    start = time.perf_counter()
    with model.serving():
        handles = []
        for number, (at, path) in enumerate(schedule(requests, rate)):
            time.sleep(max(0.0, start + at - time.perf_counter()))
            came = time.perf_counter()
            handle = model.submit(
                ask(images[path][number]),
                SamplingParams(max_new_tokens=128),
                on_change=lambda handle: moments.setdefault(handle, []).append(time.perf_counter()),
            )
            began[handle] = came
            handles.append(handle)
        tokens = sum(handle.result().new_tokens for handle in handles)
    seconds = time.perf_counter() - start
    first = [(moments[handle][0] - began[handle]) * 1e3 for handle in handles]
    between = [(b - a) * 1e3 for times in moments.values() for a, b in itertools.pairwise(times)]
    return first, between, tokens / seconds


def arrivals(arguments: argparse.Namespace) -> Iterator[Row]:
    model = model_of(32, arguments.dtype)
    arrived(model, 4, 50.0)  # compiles
    for requests in arguments.requests:
        first, between, rate = list[float](), list[float](), list[float]()
        theirs: list[dict[str, Any]] = []
        for _ in range(arguments.runs):
            ours = arrived(model, requests, arguments.rate)
            first, between, rate = first + ours[0], between + ours[1], [*rate, ours[2]]
            if arguments.openvino_python:
                theirs.append(openvino(arguments, requests))
        yield timings("ours", requests, first, between, rate)
        if theirs:
            joined = {name: [value for run in theirs for value in run[name]] for name in ("first", "between")}
            yield timings("OpenVINO", requests, joined["first"], joined["between"], [run["rate"] for run in theirs])


def timings(engine: str, requests: int, first: list[float], between: list[float], rates: list[float]) -> Row:
    row: Row = {"engine": engine, "requests": requests}
    for name, values in (("first", first), ("between", between)):
        numbers = spread(values or [0.0])
        row |= {f"{name}_p50_ms": numbers["p50_ms"], f"{name}_p99_ms": numbers["p99_ms"]}
    return {**row, "tokens_per_s": statistics.median(rates)}


def openvino(arguments: argparse.Namespace, requests: int) -> dict[str, Any]:
    """Send the same requests to OpenVINO GenAI, in a process that runs in its own environment."""
    times = [(at, str(path)) for at, path in schedule(requests, arguments.rate)]
    command = [arguments.openvino_python, str(ROOT / "tools" / "peers" / "openvino_arrivals.py"), arguments.openvino_model]
    done = subprocess.run(command, input=json.dumps(times), capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def sampling(arguments: argparse.Namespace) -> Iterator[Row]:
    model = model_of(8, arguments.dtype)
    messages, plain = ask(str(PAGE)), list[float]()
    for name, settings in SETTINGS.items():
        ours, base = list[float](), list[float]()
        for number in range(arguments.runs + 1):
            for times, params in ((base, {}), (ours, settings)):
                model.clear_cache()
                reading = model.generate(messages, sampling=SamplingParams(max_new_tokens=100, **params))
                if number > 0:
                    times.append(reading.timings_ms["decode"] / (reading.new_tokens - 1) * 1e3)
        plain = base
        yield {
            "setting": name,
            "token_us": statistics.median(ours),
            "greedy_token_us": statistics.median(plain),
            "times": statistics.median(ours) / statistics.median(plain),
        }


TITLES = {
    "lines": "Lines of 392 x 28 pixels",
    "prompts": "Prompts in one call, and one by one",
    "arrivals": "Requests that arrive at random",
    "sampling": "The cost of each setting",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--dtype", default="auto", help="dtype of weights (default: auto)")
    parser.add_argument("--runs", type=positive, default=3, help="number of measured runs, after a warm-up run (default: 3)")
    parser.add_argument("--lines", type=positive, default=256, help="number of lines per run (default: 256)")
    parser.add_argument("--rate", type=float, default=2.0, help="mean number of requests per second (default: 2)")
    parser.add_argument(
        "--requests", type=positive, nargs="+", default=[1, 8, 32], help="numbers of requests (default: 1 8 32)"
    )
    parser.add_argument("--openvino-python", help="Python interpreter of an environment with OpenVINO GenAI")
    parser.add_argument("--openvino-model", help="export of the checkpoint, see tools/benchmark_peers.py")
    parser.add_argument("--output", help="write the figures to FILE as JSON")
    parser.set_defaults(report=None)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sections if name not in SECTIONS]:
        parser.error(f"{unknown[0]!r} is not a section: use {', '.join(SECTIONS)}")
    ready(arguments)
    results = Results.start()
    work = {"lines": lines, "prompts": prompts, "arrivals": arrivals, "sampling": sampling}
    for name in arguments.sections or SECTIONS:
        results.add(name, TITLES[name], work[name](arguments))
    finish(results, arguments)


if __name__ == "__main__":
    run_tool(main)
