#!/usr/bin/env python3
"""What the KV cache is worth: each side in turn in one process, on the same input and the same tokens; medians.

    uv run tools/benchmark_kv_cache.py                        # all of it, some 15 minutes
    uv run tools/benchmark_kv_cache.py first-token batch      # some of it
    uv run tools/benchmark_kv_cache.py --output kv.json

first-token  a question about a page that was read before, against one about a page that was not
on-off       one page, the cache on against off (every token runs the whole prompt again), at 128 and 512 new tokens
throughput   four pages at a time, on against off
batch        eight different pages in slots against one after another
pages        memory over 1,000 pages, after 400 others
long         8,192 new tokens: memory, and speed at token 8,000 against token 100
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from mindnlp_ocr import __version__
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.models.qwen2vl import EMBEDDED, Qwen2VLModel

PAGES = ("invoice", "letter", "notice_zh", "receipt")
QUESTION = "Extract all text from this image."
OFF = CacheConfig(enable_kv_cache=False)


def ask(image: Any, question: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]


def page(name: str) -> Path:
    return Path(__file__).parent.parent / "examples" / f"{name}.png"


def alternate(runs: int, *sides: Callable[[], float]) -> list[float]:
    """The median of each side, after one round to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(runs + 1):
        for times, side in zip(taken, sides, strict=True):
            times.append(side())
    return [statistics.median(times[1:]) for times in taken]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def endless(model: Qwen2VLModel) -> Qwen2VLModel:
    """A model that never ends a text by itself, so that both sides make as many tokens as they are asked for."""
    positions = max(model.config.max_position_embeddings, 1 << 18)
    model.config = model.config.model_copy(update={"eos_token_ids": (), "max_position_embeddings": positions})
    return model


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def first_token(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    cached = model()
    for name in PAGES:
        texts: list[list[int]] = []

        def first(name: str = name, texts: list[list[int]] = texts) -> float:
            start = time.perf_counter()
            pieces = cached._engine.run(generation := cached._generation(ask(page(name), "What is the total?"), 1))
            next(pieces)
            taken = time.perf_counter() - start
            pieces.close()
            texts.append(generation.token_ids)
            return taken

        def cold(first: Callable[[], float] = first) -> float:
            cached.clear_cache()
            return first()

        def hit(name: str = name, first: Callable[[], float] = first) -> float:
            cached.clear_cache()
            cached.generate(ask(page(name)), 1)
            return first()

        slow, fast = alternate(runs, cold, hit)
        assert all(text == texts[0] for text in texts)
        yield {"work": "first token", "page": name, "cold_ms": slow * 1e3, "hit_ms": fast * 1e3, "ratio": slow / fast}


def on_off(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    on, off = endless(model()), endless(model(cache_config=OFF))
    for tokens in (128, 512):
        texts: list[list[int]] = []

        def run(side: Qwen2VLModel, tokens: int = tokens, texts: list[list[int]] = texts) -> float:
            side.clear_cache()
            return seconds(lambda: texts.append(side.generate(ask(page("receipt")), tokens).token_ids))

        fast, slow = alternate(1 if tokens > 128 else min(runs, 2), lambda: run(on), lambda: run(off))
        assert all(text == texts[0] for text in texts)
        yield {"work": "one page", "new_tokens": tokens, "on_s": fast, "off_s": slow, "ratio": slow / fast}


def throughput(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    on, off = endless(model()), endless(model(cache_config=OFF))
    messages = [ask(page(name)) for name in PAGES]
    texts: list[list[str]] = []

    def run(side: Qwen2VLModel) -> float:
        side.clear_cache()
        return seconds(lambda: texts.append(side.infer_batch(messages, 128, batch_size=4 if side is on else 1)))

    fast, slow = alternate(1, lambda: run(on), lambda: run(off))
    assert all(text == texts[0] for text in texts)
    yield {"work": "four pages, 128 new tokens", "on_pages_s": 4 / fast, "off_pages_s": 4 / slow, "ratio": slow / fast}


def batch(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    reader = model()
    images = [Image.open(page(name)).convert("RGB") for name in PAGES]
    images += [image.crop((0, 0, image.width, image.height // 2)) for image in images]
    messages = [ask(image) for image in images]
    texts: list[list[str]] = []

    def run(batch_size: int) -> float:
        reader.clear_cache()
        if batch_size == 1:
            return seconds(lambda: texts.append([reader.infer(message, 256) for message in messages]))
        return seconds(lambda: texts.append(reader.infer_batch(messages, 256, batch_size=batch_size)))

    taken = alternate(runs, *[lambda size=size: run(size) for size in (1, 2, 4, 8)])
    assert all(text == texts[0] for text in texts)
    for size, time_ in zip((2, 4, 8), taken[1:], strict=True):
        yield {"work": f"eight pages, {size} at a time", "s": time_, "one_by_one_s": taken[0], "ratio": taken[0] / time_}


def pages(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    # Small pages against a small budget: the first 400 fill it, and whatever pools grow. What grows later would be a leak.
    reader, random = model(cache_config=CacheConfig(max_cache_size_mb=98)), np.random.default_rng(0)
    reader.warm_up()
    after: dict[int, int] = {}
    for number in range(1, 1401):
        width, height = (int(side) for side in random.integers(60, 400, 2))
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        reader.generate(ask(noise), 2)
        if number in (400, 1400):
            after[number] = resident()
    growth = 100 * (after[1400] / after[400] - 1)
    yield {"work": "1,000 pages", "mb_before": after[400] / 2**20, "mb_after": after[1400] / 2**20, "growth_%": growth}


def long(model: Callable[..., Qwen2VLModel], runs: int) -> Iterator[dict[str, Any]]:
    reader = endless(model(max_length=16384, max_pixels=100_352, cache_config=CacheConfig(slots=1)))
    moments: list[float] = []
    memory: dict[int, int] = {}
    for number, _ in enumerate(reader._engine.run(reader._generation(ask(page("receipt")), 8192)), 1):
        moments.append(time.perf_counter())
        if number in (100, 8192):
            memory[number] = resident()
    # Tokens come in bursts: from the first of one to the first of another.
    first = 1 + np.flatnonzero(np.diff(moments) > 1e-3)
    inside = [first[abs(first - at) < 128] for at in (100, 8000)]
    early, late = ((moments[near[-1]] - moments[near[0]]) / float(near[-1] - near[0]) for near in inside)
    yield {
        "work": "8,192 new tokens",
        "ms_at_100": early * 1e3,
        "ms_at_8000": late * 1e3,
        "speed_%": 100 * early / late,
        "growth_%": 100 * (memory[8192] / memory[100] - 1),
    }


WORK = {
    "first-token": first_token,
    "on-off": on_off,
    "throughput": throughput,
    "batch": batch,
    "pages": pages,
    "long": long,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"{', '.join(WORK)} (default: all)")
    parser.add_argument(
        "--model-path", "--model_path", default=EMBEDDED, help="a Qwen2-VL folder (default: the built-in one)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    parser.add_argument("--runs", type=int, default=5, help="counted runs a side (default: 5)")
    parser.add_argument("--output", help="write the figures as JSON there")
    arguments = parser.parse_args()
    if unknown := set(arguments.work) - set(WORK):
        parser.error(f"{', '.join(sorted(unknown))}: give {', '.join(WORK)}")

    def model(**settings: Any) -> Qwen2VLModel:
        return Qwen2VLModel(arguments.model_path, arguments.device, **settings)

    rows = []
    for name in arguments.work or WORK:
        for row in WORK[name](model, arguments.runs):
            rows.append(row)
            figures = (f"{key} {value:.2f}" if isinstance(value, float) else f"{value}" for key, value in row.items())
            print(", ".join(figures), flush=True)
    if arguments.output:
        import mindspore

        versions = {"mindnlp_ocr": __version__, "mindspore": mindspore.__version__, "python": platform.python_version()}
        report = {"command": sys.argv, "machine": platform.platform(), "versions": versions, "rows": rows}
        Path(arguments.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
