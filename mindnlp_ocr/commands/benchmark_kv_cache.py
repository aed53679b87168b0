"""Measure the speed of reading and the KV cache: latency, batches, long texts and prompts, cache hits and memory.

    mindnlp-ocr benchmark kv-cache                                    # all but endurance, about 5 minutes
    mindnlp-ocr benchmark kv-cache latency hits                       # only some measurements
    mindnlp-ocr benchmark kv-cache --output kv.json --report report   # figures as JSON, and a report with plots

memory      memory of the process and the engine's own accounting, after each page was read once
latency     one page without cached prefixes: mean and percentiles, and the median of every stage
hits        time to the first token of a question about a page that was read before, and about a new page
batch       eight different pages with batch sizes 1, 2, 4 and 8
prompts     prefill of text prompts by length
long        one long text: speed by context length, and memory
statistics  counters of the cache over a short conversation
endurance   memory over 1,000 pages, after 400 others (only if it is named)

Compared variants alternate on the same input and must generate the same tokens. `mindnlp-ocr benchmark comparison` compares
the cache on and off.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from mindnlp_ocr.bench.machine import memory_mb, peak_memory_mb
from mindnlp_ocr.bench.reading import QUESTION, Asked, Tokens, add_options, ask, endless, same
from mindnlp_ocr.bench.results import Results, Row
from mindnlp_ocr.bench.timing import alternate, seconds, spread
from mindnlp_ocr.bench.tool import exit_status, finish, ready
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.commands import command_parser

PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096)  # tokens
STAGES = ("preprocess", "vision", "prefill", "decode")
WINDOW = 256  # tokens of a long text per point of the curve


def memory(asked: Asked) -> Iterator[Row]:
    """Measure memory. This runs first, so that the peak belongs to it."""
    yield {"after": "import", "resident_mb": memory_mb(), "peak_mb": peak_memory_mb()}
    model = asked.model()

    def row(after: str) -> Row:
        stats = model.get_cache_stats()
        held = {"weights_mb": model.get_model_info()["weights_mb"], "kv_mb": stats["kv_bytes"] / 2**20}
        held["features_mb"] = stats["feature_bytes"] / 2**20
        return {"after": after, "resident_mb": memory_mb(), "peak_mb": peak_memory_mb(), **held}

    yield row("load")
    for page in asked.pages:
        model.generate(ask(page), 8 if asked.smoke else None)
        yield row(page.name)


def latency(asked: Asked) -> Iterator[Row]:
    model = asked.model()
    for page in asked.pages:
        readings = []
        for _ in range(asked.runs + 1):
            model.clear_cache()
            readings.append(model.generate(ask(page), 8 if asked.smoke else None))
        same([reading.token_ids for reading in readings])
        times = [reading.timings_ms for reading in readings[1:]]
        stages = {f"{stage}_ms": statistics.median(each[stage] for each in times) for stage in STAGES}
        tokens = {"prompt_tokens": readings[0].prompt_tokens, "new_tokens": len(readings[0].token_ids)}
        yield {"page": page.name, **tokens, **spread([each["total"] for each in times]), **stages}


def hits(asked: Asked) -> Iterator[Row]:
    model = asked.model()
    for page in asked.pages:
        texts: list[list[int]] = []

        def first(page: Any, texts: list[list[int]]) -> float:
            start = time.perf_counter()
            pieces = model.scheduler.run(generation := model.requests.generation(ask(page, "What is the total?"), 1))
            next(pieces)
            taken = time.perf_counter() - start
            pieces.close()
            texts.append(generation.token_ids)
            return taken

        def cold(first: Callable[[], float]) -> float:
            model.clear_cache()
            return first()

        def hit(page: Any, first: Callable[[], float]) -> float:
            model.clear_cache()
            model.generate(ask(page), 1)
            return first()

        question = partial(first, page, texts)
        slow, fast = alternate(asked.runs, partial(cold, question), partial(hit, page, question))
        same(texts)
        yield {"page": page.name, "cold_ms": slow * 1e3, "hit_ms": fast * 1e3, "ratio": slow / fast}


def batch(asked: Asked) -> Iterator[Row]:
    model = asked.model()
    images = [Image.open(page).convert("RGB") for page in asked.pages]
    images += [image.crop((0, 0, image.width, max(28, image.height // 2))) for image in images]
    images = (images * 8)[:8]
    texts: list[list[str]] = []

    def run(batch_size: int) -> float:
        model.clear_cache()
        messages, tokens = map(ask, images), 4 if asked.smoke else 256
        return seconds(lambda: texts.append(model.infer_batch(messages, tokens, batch_size=batch_size)))

    slots = int(model.get_model_info()["kv_slots"])
    sizes = [size for size in (1, 2, 4, 8) if size <= slots]
    taken = alternate(max(1, asked.runs // 3), *[partial(run, size) for size in sizes])
    same(texts)
    for size, time_ in zip(sizes, taken, strict=True):
        pages = len(images) / time_
        yield {"batch_size": size, "seconds": time_, "pages_per_s": pages, "ratio_to_one_by_one": taken[0] / time_}


def prompts(asked: Asked) -> Iterator[Row]:
    """Measure the prefill with answers of one token. Graphs are compiled beforehand."""
    model = asked.model(max_length=max(PROMPTS) + 256, max_new_tokens=64, cache_config=CacheConfig(slots=1))
    few, many = (model.generate(ask_text("the " * words), 1).prompt_tokens for words in (1, 65))
    for length in PROMPTS[:2] if asked.smoke else PROMPTS:
        words = "the " * max(1, round(1 + (length - few) * 64 / (many - few)))
        readings = []
        for _ in range(max(1, asked.runs // 2) + 1):
            model.clear_cache()
            readings.append(model.generate(ask_text(words), 1))
        prefill = statistics.median(reading.timings_ms["prefill"] for reading in readings[1:])
        tokens = readings[0].prompt_tokens
        yield {"prompt_tokens": tokens, "prefill_ms": prefill, "tokens_per_s": tokens / prefill * 1e3}


def ask_text(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def long(asked: Asked) -> Iterator[Row]:
    tokens = asked.tokens["max_tokens"]
    settings = {"max_length": tokens + 1024, "max_pixels": 100_352, "cache_config": CacheConfig(slots=1)}
    model = endless(asked.model(**settings))
    model.generate(ask(asked.pages[-1]), 64)  # compiles
    model.clear_cache()
    generation = model.requests.generation(ask(asked.pages[-1]), tokens)
    prompt = len(generation.key)
    moments: list[float] = []
    windows: list[Row] = []
    for number, _ in enumerate(model.scheduler.run(generation), 1):
        moments.append(time.perf_counter())
        if number % WINDOW == 0:
            windows.append({"new_tokens": number, "context_tokens": prompt + number, "resident_mb": memory_mb()})
    # Tokens arrive in bursts: measure from the start of one burst to the start of another.
    bursts = np.concatenate([[0], 1 + np.flatnonzero(np.diff(moments) > 1e-3)])
    for start, row in enumerate(windows):
        inside = [int(burst) for burst in bursts if start * WINDOW <= burst < (start + 1) * WINDOW]
        apart = inside[-1] - inside[0] if inside else 0
        speed = apart / (moments[inside[-1]] - moments[inside[0]]) if apart else None
        yield {**row, "tokens_per_s": speed, "ms_per_token": 1e3 / speed if speed else None}


def conversation(asked: Asked) -> Iterator[Row]:
    """Read each page twice, then ask a second question about it."""
    model = asked.model()
    for page in asked.pages:
        for question in (QUESTION, QUESTION, "What is the total?"):
            model.generate(ask(page, question), 8)
    for name, value in model.get_cache_stats().items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, figure in parts.items():
            yield {"statistic": f"{name} {part}".strip(), "value": figure}


def endurance(asked: Asked) -> Iterator[Row]:
    # Small pages and a small budget: the first 400 pages fill the cache and all memory pools. Later growth would be a leak.
    model, random = asked.model(cache_config=CacheConfig(max_cache_size_mb=98)), np.random.default_rng(0)
    if not asked.smoke:
        model.warm_up()
    before, last = (4, 14) if asked.smoke else (400, 1400)
    first = None
    for number in range(1, last + 1):
        width, height = (int(side) for side in random.integers(60, 400, 2))
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        model.generate(ask(noise), 2)
        if number % (last // 14) == 0:
            now = memory_mb()
            first = now if number == before else first
            yield {"pages": number, "resident_mb": now, "growth_percent": 100 * (now / first - 1) if first else None}


WORK: dict[str, tuple[Callable[[Asked], Iterator[Row]], str, str]] = {
    "memory": (
        memory,
        "Memory",
        "Memory of the process, and the engine's own accounting. Pages are read one after another.",
    ),
    "latency": (
        latency,
        "Latency of one page",
        "The whole text without cached prefixes: mean and percentiles of the runs, and the median of each stage. "
        "The first token follows preprocess, vision and prefill.",
    ),
    "hits": (
        hits,
        "First token of a new question",
        "Cold: the page is new. Hit: its keys and values are cached. The time includes reading the file.",
    ),
    "batch": (batch, "Throughput by batch size", "Eight different pages, at most 256 new tokens each."),
    "prompts": (prompts, "Prefill by prompt length", "Text prompts without cached prefixes."),
    "long": (long, "One long text", f"One page, whose text never ends; windows of {WINDOW} tokens."),
    "statistics": (
        conversation,
        "Cache statistics",
        "Every page is read twice, then asked another question, with 8 tokens each.",
    ),
    "endurance": (endurance, "Memory over many pages", "Random images of 60 to 400 pixels a side, a budget of 98 MB."),
}


def run(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("benchmark kv-cache", __doc__)
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"{', '.join(WORK)} (default: all but endurance)")
    add_options(parser, runs=10, max_tokens=Tokens(2048, WINDOW, "new tokens of the long text"))
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.work) - set(WORK):
        parser.error(f"{', '.join(sorted(unknown))} is unknown: use {', '.join(WORK)}")
    ready(arguments)
    asked, results = Asked.of(arguments, argv), Results.start("benchmark_kv_cache", smoke=arguments.smoke)
    for name in arguments.work or [name for name in WORK if name != "endurance"]:
        work, title, about = WORK[name]
        results.add(name, title, work(asked), about)
        gc.collect()  # free the model before the next measurement loads its own
    finish(results, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return exit_status(lambda: run(argv))
