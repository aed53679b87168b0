"""Counters of the cache, in the words of the request."""

from dataclasses import dataclass


@dataclass
class CacheStats:
    """Requests that asked the cache, and what they found."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0

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
