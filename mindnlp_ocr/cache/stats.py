"""Counters of the cache, in the words of the request."""

from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["lru", "ttl", "resize"]


@dataclass
class CacheStats:
    """Requests that asked the cache, what they found, and what the cache gave up.

    Attributes:
        hits: requests that reused a prefix.
        misses: requests that reused none.
        tokens_reused: tokens of prompts whose keys and values were there.
        tokens_computed: tokens of prompts that had to be run.
        feature_hits: images whose features were there.
        superseded: entries dropped because a newer one holds all of them.
        refused: entries not kept because LRU is off and no room was left.
        evictions_by_cause: entries and features given up. "lru": for others; "ttl": unused for too long; "resize": other
            settings.
    """

    hits: int = 0
    misses: int = 0
    tokens_reused: int = 0
    tokens_computed: int = 0
    feature_hits: int = 0
    superseded: int = 0
    refused: int = 0
    evictions_by_cause: dict[Cause, int] = field(default_factory=lambda: {"lru": 0, "ttl": 0, "resize": 0})

    @property
    def evictions(self) -> int:
        return sum(self.evictions_by_cause.values())

    def as_dict(self, memory_bytes: int, items: int) -> dict[str, int | str]:
        """The form that ``get_cache_stats`` promises."""
        total = self.hits + self.misses
        return {
            "total_requests": total,
            "cache_hits": self.hits,
            "cache_misses": self.misses,
            "hit_rate": f"{100 * self.hits / max(total, 1):.2f}%",
            "total_memory_mb": f"{memory_bytes / 2**20:.2f}MB",
            "evictions": self.evictions,
            "cache_items": items,
        }
