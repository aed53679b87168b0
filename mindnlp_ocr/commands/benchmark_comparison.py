"""Compare the KV cache on and off, and flash with eager attention, and check the acceptance criteria.

    mindnlp-ocr benchmark comparison                                   # all measurements, about 10 minutes
    mindnlp-ocr benchmark comparison --output comparison.json --report report
    mindnlp-ocr benchmark comparison attention_memory                  # only some measurements

single_image      one page, `--tokens` new tokens
batch             four pages, `--tokens` new tokens each: batched with the cache, and one by one without it
long_sequence     one page, `--long-tokens` new tokens
past_2048         `--max-tokens` new tokens with the cache, in a separate process, which may run out of memory
attention_memory  flash and eager attention with 2k, 4k, 8k and 16k patches

Without the cache, every token recomputes the whole prompt. The two variants alternate on the same input and must generate
the same tokens. Exit status: 0 all criteria were measured and met; 1 some were not; 2 wrong usage, or a model or device that
cannot be used.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mindnlp_ocr.bench import criteria
from mindnlp_ocr.bench.attention_memory import ABOUT, PATCHES, attention_memory
from mindnlp_ocr.bench.machine import memory_mb, peak_memory_mb
from mindnlp_ocr.bench.reading import OFF, Asked, Tokens, add_options, ask, endless, same
from mindnlp_ocr.bench.results import Results, Row, Value, shown
from mindnlp_ocr.bench.timing import alternate, seconds
from mindnlp_ocr.bench.tool import exit_status, finish, ready
from mindnlp_ocr.cache.config import CacheConfig
from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.ops.device import Device

BATCH = 4
EARLY = 128  # number of tokens after which memory should not grow
SIDES = ("disabled_ms", "enabled_ms")
MARKS = {True: "✓", False: "✗", None: "-"}


def on_off(asked: Asked, runs: int, read: Callable[[Qwen2VLModel], Any]) -> tuple[float, float]:
    """Return the median seconds with and without the cache."""
    on, off = endless(asked.model()), endless(asked.model(cache_config=OFF))
    texts: list[Any] = []

    def side(model: Qwen2VLModel) -> float:
        model.clear_cache()
        return seconds(lambda: texts.append(read(model)))

    fast, slow = alternate(runs, partial(side, on), partial(side, off))
    same(texts)
    return fast, slow


def single_image(asked: Asked) -> Iterator[Row]:
    tokens = asked.tokens["tokens"]
    for page in asked.pages:

        def read(model: Qwen2VLModel, page: Path = page) -> list[int]:
            return model.generate(ask(page), tokens).token_ids

        on, off = on_off(asked, asked.runs, read)
        times = {"disabled_ms": off * 1e3, "enabled_ms": on * 1e3}
        yield {"page": page.name, "new_tokens": tokens, **times, "ratio": off / on, "saved_percent": 100 * (1 - on / off)}


def batch(asked: Asked) -> Iterator[Row]:
    messages = [ask(page) for page in (asked.pages * BATCH)[:BATCH]]

    def read(model: Qwen2VLModel) -> list[str]:
        cached = bool(model.get_model_info()["kv_cache_enabled"])
        return model.infer_batch(messages, asked.tokens["tokens"], batch_size=BATCH if cached else 1)

    on, off = on_off(asked, 1, read)
    speeds = {"disabled_img_s": BATCH / off, "enabled_img_s": BATCH / on}
    yield {"pages": BATCH, "new_tokens": asked.tokens["tokens"], **speeds, "ratio": off / on}


def long_sequence(asked: Asked) -> Iterator[Row]:
    tokens = asked.tokens["long_tokens"]
    on, off = on_off(asked, 1, lambda model: model.generate(ask(asked.pages[-1]), tokens).token_ids)
    speeds = {"disabled_tokens_s": tokens / off, "enabled_tokens_s": tokens / on}
    yield {"page": asked.pages[-1].name, "new_tokens": tokens, **speeds, "ratio": off / on}


def past_2048(asked: Asked) -> Iterator[Row]:
    command = [sys.executable, "-m", __spec__.name, *asked.argv, "--child"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lost: Row = {"new_tokens": 0, "ended": f"exit status {done.returncode}"}
    yield json.loads(done.stdout) if done.returncode == 0 else lost


def child(asked: Asked) -> Row:
    """Generate one long text. Returns its length, and the memory after the first tokens and at the end."""
    tokens = asked.tokens["max_tokens"]
    model = endless(asked.model(max_length=tokens + 1024, max_pixels=100_352, cache_config=CacheConfig(slots=1)))
    early, made = 0.0, 0
    for made, _ in enumerate(model.scheduler.run(model.requests.generation(ask(asked.pages[-1]), tokens)), 1):
        early = memory_mb() if made == min(EARLY, tokens) else early
    growth = 100 * (memory_mb() / early - 1)
    return {"new_tokens": made, "ended": "whole", "peak_mb": peak_memory_mb(), "growth_percent": growth}


def memory_of_attention(asked: Asked) -> Iterator[Row]:
    """Yield the memory of attention on a CPU. The memory of an NPU does not belong to this process."""
    patches = (256,) if asked.smoke else PATCHES
    if Device.parse(asked.device).kind == "CPU":
        yield from attention_memory(patches)
    else:
        for size in patches:
            yield {"patches": size, "flash_mb": None, "eager_mb": None, "saved_percent": None}


WORK: dict[str, tuple[Callable[[Asked], Iterator[Row]], str, str]] = {
    "single_image": (single_image, "One page, with and without the KV cache", "The text is continued beyond its end."),
    "batch": (batch, "Four pages, with and without the KV cache", "With the cache, four at a time; without it, one by one."),
    "long_sequence": (
        long_sequence,
        "A long text, with and without the KV cache",
        "Without the cache, time grows quadratically.",
    ),
    "past_2048": (
        past_2048,
        "A text of more than 2,048 tokens",
        "With the cache. growth_percent is the growth of memory after the 128th token.",
    ),
    "attention_memory": (
        memory_of_attention,
        "Memory of flash and eager attention",
        ABOUT,
    ),
}


def summary(results: Results) -> str:
    """Return the summary of the measured figures, with the acceptance criteria."""
    four, long = (results.row(name) for name in ("batch", "long_sequence"))
    pages = results.sections["single_image"].rows if "single_image" in results.sections else []
    single: Row = {name: statistics.mean(float(row[name] or 0) for row in pages) for name in SIDES if pages}
    single["ratio"] = float(single["disabled_ms"] or 0) / float(single["enabled_ms"] or 1) if pages else None

    def figure(value: Value, unit: str) -> str:
        return shown(value) if value is None else f"{shown(value)} {unit}"

    def lines(title: str, row: Row, column: str, unit: str, gain: str) -> list[str]:
        sides = {side: figure(row.get(f"{side}_{column}"), unit) for side in ("disabled", "enabled")}
        ratio = row.get("ratio")
        sides[gain] = figure(100 * (float(ratio) - 1) if ratio else None, "%")
        return [f"{title}:", *(f"  {name:25}{value:>16}" for name, value in sides.items()), ""]

    text = ["KV CACHE COMPARISON SUMMARY", ""]
    text += lines(f"Single Image Inference (mean of {len(pages)} pages)", single, "ms", "ms", "speedup")
    text += lines(f"Batch Inference (batch={BATCH})", four, "img_s", "img/s", "throughput improvement")
    text += lines("Long Sequence Generation", long, "tokens_s", "tokens/s", "speedup")
    rows = criteria.check(results)
    text.append("Acceptance Criteria Check:")
    for row in rows:
        mark = MARKS[row["met"]]  # type: ignore[index]
        text.append(f"  {mark} {row['criterion']}: {shown(row['measured'])}, target {row['target']}")
    met = sum(row["met"] is True for row in rows)
    return "\n".join([*text, "", f"Overall: {met}/{len(rows)} criteria passed"])


def run(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("benchmark comparison", __doc__)
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"{', '.join(WORK)} (default: all)")
    add_options(
        parser,
        runs=3,
        tokens=Tokens(128, 4, "new tokens of a page"),
        long_tokens=Tokens(512, 8, "new tokens of a long text, with and without the cache"),
        max_tokens=Tokens(2304, 16, "new tokens of the longest text, with the cache"),
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    if arguments.child:
        print(json.dumps(child(Asked.of(arguments, argv))))
        return 0
    if unknown := set(arguments.work) - set(WORK):
        parser.error(f"{', '.join(sorted(unknown))} is unknown: use {', '.join(WORK)}")
    ready(arguments)
    asked, results = Asked.of(arguments, argv), Results.start("benchmark_comparison", smoke=arguments.smoke)
    for name in arguments.work or WORK:
        work, title, about = WORK[name]
        results.add(name, title, work(asked), about)
    finish(results, arguments)
    print("\n" + summary(results))
    return 0 if criteria.passed(criteria.check(results)) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
