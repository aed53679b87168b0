"""Cache of the vision features of images, keyed by the digest of their pixels."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Features(NamedTuple):
    array: NDArray[Any]
    used: float


class FeatureTier:
    """Read-only feature arrays, ordered from least to most recently used.

    Not thread-safe by itself: CacheManager holds its lock during every call.
    """

    def __init__(self) -> None:
        self._items: dict[bytes, _Features] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        return sum(item.array.nbytes for item in self._items.values())

    @property
    def uses(self) -> list[float]:
        """Time of the last use of every array, in order of eviction."""
        return [item.used for item in self._items.values()]

    def get(self, digest: bytes, now: float) -> NDArray[Any] | None:
        if digest not in self._items:
            return None
        self._items[digest] = self._items.pop(digest)._replace(used=now)
        return self._items[digest].array

    def put(self, digest: bytes, array: NDArray[Any], now: float) -> None:
        own = np.array(array)
        own.flags.writeable = False
        self.drop(digest)
        self._items[digest] = _Features(own, now)

    def drop(self, digest: bytes) -> None:
        self._items.pop(digest, None)

    def clear(self) -> None:
        self._items.clear()

    def expire(self, now: float, ttl_seconds: float) -> int:
        """Drop arrays that were not used for ``ttl_seconds``, and return how many."""
        old = [digest for digest, item in self._items.items() if now - item.used >= ttl_seconds]
        for digest in old:
            del self._items[digest]
        return len(old)

    def shrink(self, max_bytes: int) -> int:
        """Drop the least recently used arrays until the others take at most ``max_bytes``, and return how many."""
        before = len(self._items)
        while self.nbytes > max_bytes:
            del self._items[next(iter(self._items))]
        return before - len(self._items)
