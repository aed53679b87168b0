#!/usr/bin/env python3
"""Estimate the gain of speculative decoding by prompt lookup: tokens per step if correct guesses cost nothing.

The guessed tokens are those that followed the previous occurrence of the newest n tokens (Saxena 2023, "Prompt Lookup
Decoding"). The prompt of a page is its image, so only the text generated so far can be searched. The engine does not
implement prompt lookup.

uv run tools/benchmark_lookup.py
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def steps_of(tokens: list[int], n: int, guesses: int) -> tuple[int, int]:
    """Return the number of steps for a text, and the total number of guessed tokens."""
    done, steps, guessed = 1, 0, 0  # the prefill yields the first token
    while done < len(tokens):
        newest, guess = tokens[done - n : done] if done >= n else [], list[int]()
        for start in range(done - n - 1, -1, -1):
            if newest and tokens[start : start + n] == newest:
                guess = tokens[start + n : min(start + n + guesses, done)]
                break
        right = 0
        while right < len(guess) and done + right < len(tokens) and guess[right] == tokens[done + right]:
            right += 1
        steps, guessed, done = steps + 1, guessed + len(guess), done + right + 1
    return steps, guessed


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases = json.loads((ROOT / "tests" / "goldens" / "pages.json").read_text(encoding="utf-8"))["cases"]
    texts = [case["token_ids"] for case in cases]
    tokens = sum(len(text) - 1 for text in texts)
    print(f"{len(texts)} golden texts, {tokens} decoded tokens")
    for n in (1, 2, 3):
        for guesses in (2, 4, 8):
            steps, guessed = (sum(column) for column in zip(*(steps_of(text, n, guesses) for text in texts), strict=True))
            print(f"n {n}, up to {guesses} guesses: {tokens / steps:.3f} tokens per step, {guessed / steps:.2f} guessed")


if __name__ == "__main__":
    main()
