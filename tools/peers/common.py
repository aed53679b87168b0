"""Code shared by the readers of tools/benchmark_peers.py. They run in other environments, so it imports only the standard
library."""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

CHECKPOINT = Path(__file__).resolve().parents[2] / "mindnlp_ocr" / "assets" / "qwen2vl-ocr-tiny"
PROMPT = "Extract all text from this image."
MAX_NEW_TOKENS = 1024


class Reader:
    """Reads pages. Each process creates one reader.

    Attributes:
        packages: packages whose versions are reported with the figures.
    """

    packages: tuple[str, ...] = ()

    def read(self, path: str) -> dict[str, Any]:
        """Return the text and times of a page, as :func:`figures` or :func:`untokenized` returns them."""
        raise NotImplementedError

    def version(self) -> str:
        return ", ".join(f"{package} {metadata.version(package)}" for package in self.packages)

    def peak_mb(self) -> float:
        """Return the peak resident memory of this process in MB."""
        rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(row for row in rows if row.startswith("VmHWM")).split()[1]) / 1024


def prompt(image: str) -> str:
    """Return the whole prompt as text, with ``image`` between the tokens that mark an image."""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{image}<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )


def figures(text: str, page_ms: float, first_ms: float, prompt_tokens: int, tokens: list[int]) -> dict[str, Any]:
    """Return the result of an engine that generates tokens."""
    per_token = (page_ms - first_ms) / max(1, len(tokens) - 1)
    times = {"page_ms": page_ms, "first_token_ms": first_ms, "per_token_ms": per_token}
    return {"text": text, **times, "prompt_tokens": prompt_tokens, "token_ids": tokens}


def untokenized(text: str, start: float) -> dict[str, Any]:
    """Return the result of an engine without tokens, which has finished just now."""
    page = (time.perf_counter() - start) * 1e3
    times = {"page_ms": page, "first_token_ms": None, "per_token_ms": None}
    return {"text": text, **times, "prompt_tokens": None, "token_ids": None}
