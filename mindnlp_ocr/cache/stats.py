"""Counters of the cache."""

from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["lru", "ttl", "resize"]


@dataclass
class CacheStats:
    """Counters of cache requests, hits and evictions.

    Attributes:
        hits: requests that reused a prefix.
        misses: requests that reused no prefix.
        tokens_reused: prompt tokens whose keys and values were cached.
        tokens_computed: prompt tokens that had to be run.
        feature_hits: images whose features were cached.
        superseded: entries dropped because a newer entry contains them.
        refused: entries not kept because LRU is off and the cache was full.
        evictions_by_cause: evicted entries and features. "lru": to make room for others; "ttl": expired; "resize": because
            settings changed.
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
        """Return the counters in the documented format of ``get_cache_stats``."""
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
