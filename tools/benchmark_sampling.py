#!/usr/bin/env python3
"""Measure the time per token of each rule, filter and check of sampling on the host, compared with the network's time.

Each setting is measured separately, on logits like those of a network: a few tokens far above all others. The times are
medians on one thread.

uv run tools/benchmark_sampling.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mindnlp_ocr.bench.tool import positive
from mindnlp_ocr.sampling import GrammarCompiler, Sampler, SamplingParams, StopStrings, find_loop
from mindnlp_ocr.sampling.rules import Logits

ROOT = Path(__file__).resolve().parent.parent
SIZES = (8_192, 151_936)  # vocabularies of the built-in checkpoint and of Qwen2-VL-2B
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy, its log-probability": {},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "presence and frequency": {"presence_penalty": 0.5, "frequency_penalty": 0.1},
    "no_repeat_ngram_size 4": {"no_repeat_ngram_size": 4},
    "bad_words, 3 of them": {"bad_words": ("total", "Sum due", "page")},
    "min_new_tokens": {"min_new_tokens": 4000},
    "top_logprobs 20": {"logprobs": True, "top_logprobs": 20},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 0.8, top_k 50": {"temperature": 0.8, "top_k": 50},
    "temperature 0.8, top_p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "temperature 0.8, min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "temperature, top_k, top_p, min_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
    "json_schema": {"json_schema": {"type": "array", "items": {"type": "string"}}},
}


def network_logits(vocab: int, flat: bool) -> Logits:
    """Return logits of a token that the network is sure of, or nearly equal ones if ``flat``."""
    random = np.random.default_rng(1)
    logits = random.standard_normal(vocab).astype(np.float32)
    if not flat:
        logits *= 2.5
        logits[random.integers(0, vocab, 20)] += np.linspace(8, 18, 20, dtype=np.float32)
    return logits


def microseconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call in microseconds."""
    times = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) * 1e6


def costs(vocab: int, tokens: int, rounds: int, flat: bool, tokenizer: Tokenizer) -> dict[str, float]:
    """Return the microseconds per token of each setting, after the given number of generated tokens."""
    logits = network_logits(vocab, flat)
    eos = (tokenizer.token_to_id("<|im_end|>"),)
    compiler = GrammarCompiler(tokenizer, vocab, eos)
    generated = np.random.default_rng(2).integers(0, 8000, tokens).tolist()
    found = {}
    for name, settings in SETTINGS.items():
        params = SamplingParams(seed=1, **settings)
        sampler = Sampler(params, vocab, eos, tokenizer=tokenizer, grammar=compiler.grammar(params))
        before = generated
        if params.constrained:
            words = '"' + "the net weight of all goods " * (tokens // 4)
            before = tokenizer.encode("[" + words, add_special_tokens=False).ids[:tokens]
        found[name] = microseconds(lambda sampler=sampler, before=before: sampler.choose(logits, before), rounds)  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=positive, default=1000, metavar="N", help="number of previously generated tokens (default: 1000)"
    )
    parser.add_argument("--rounds", type=positive, default=50, metavar="N", help="number of timed calls (default: 50)")
    parser.add_argument("--flat", action="store_true", help="use nearly equal logits, the most expensive case for filters")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(ROOT / "mindnlp_ocr/assets/qwen2vl-ocr-tiny/tokenizer.json"))
    columns = [costs(vocab, arguments.tokens, arguments.rounds, arguments.flat, tokenizer) for vocab in SIZES]
    print(
        f"| microseconds per token, after {arguments.tokens} tokens | "
        + " | ".join(f"vocab {vocab:,}" for vocab in SIZES)
        + " |"
    )
    print("|---|" + "---|" * len(SIZES))
    for name in SETTINGS:
        print(f"| {name} | " + " | ".join(f"{column[name]:.0f}" for column in columns) + " |")
    random = np.random.default_rng(3).integers(0, 8000, arguments.tokens).tolist()
    dots = [13] * 200
    stops = StopStrings(["</page>", "\n\n\n", "END OF PAGE"])
    for name, work in (
        ("repetition guard, once every 16 tokens, any text", lambda: find_loop(random)),
        ("repetition guard, once every 16 tokens, leader dots", lambda: find_loop(random + dots)),
        ("stop strings, 3 of them", lambda: stops.feed(" word")),
    ):
        print(f"| {name} | {microseconds(work, arguments.rounds):.0f} | |")


if __name__ == "__main__":
    main()
