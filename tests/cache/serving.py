"""Helpers for tests of the cache manager: prompts, a manual clock, and complete requests in one call."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.lease import Lease
from mindnlp_ocr.cache.manager import CacheManager

SLOT = 1000  # bytes
A, B = b"a" * 32, b"b" * 32  # digests of images


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text(*runs: Iterable[int], base: str = "base") -> PrefixKey:
    return PrefixKey(base, np.array([token for run in runs for token in run]))


def page(digest: bytes, question: Iterable[int], preamble: int = 3, tokens: int = 5) -> PrefixKey:
    """Create a prompt of a preamble, an image and a question, in the form of the chat template."""
    ids = [*range(preamble), *[7] * tokens, *question]
    return PrefixKey("base", np.array(ids), (ImageSpan(preamble, tokens, digest),))


def run(manager: CacheManager, prompt: PrefixKey, answer: Iterable[int] = (90, 91)) -> Lease:
    """Run a complete request, and return its original lease."""
    lease = manager.acquire(prompt)
    assert lease is not None
    given = Lease(lease.slot, lease.reused, lease.source, prompt, lease.valid)
    manager.copied(lease)
    manager.progress(lease, len(prompt))
    manager.release(lease, prompt.extended(list(answer)))
    manager.check_integrity()
    return given


def live(manager: CacheManager, prompt: PrefixKey, valid: int | None = None) -> Lease:
    """Start a request whose first tokens are in its slot."""
    lease = manager.acquire(prompt)
    assert lease is not None
    manager.copied(lease)
    manager.progress(lease, len(prompt) if valid is None else valid)
    return lease


def cached(manager: CacheManager) -> dict[int, list[int]]:
    return {slot: key.token_ids.tolist() for slot, key in manager.entries()}


def counts(manager: CacheManager) -> dict[str, int]:
    slots = manager.stats()["slots"]
    assert isinstance(slots, dict)
    return slots


def causes(manager: CacheManager) -> Any:
    return manager.stats()["evictions_by_cause"]


def pinned_entry(manager: CacheManager) -> Lease:
    """Slot 0 is cached, and the lease in slot 1 is to copy 40 tokens from it."""
    run(manager, text(range(50)), answer=[])
    lease = manager.acquire(text(range(40), [1]))
    assert lease is not None
    assert (lease.slot, lease.source) == (1, 0)
    return lease
