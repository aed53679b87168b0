"""Sizes that graphs are compiled for: powers of two and their midpoints."""

from collections.abc import Iterable, Iterator


def bucket_sizes(smallest: int, largest: int) -> Iterator[int]:
    """``smallest`` (a power of two), its 1.5-fold, its double, ... and ``largest`` itself as the last."""
    size = smallest
    while size < largest:
        yield size
        if size * 3 // 2 < largest:
            yield size * 3 // 2
        size *= 2
    yield largest


def bucket_for(size: int, smallest: int, largest: int) -> int:
    """The smallest bucket that holds ``size``; ``size`` must not exceed ``largest``."""
    return next(bucket for bucket in bucket_sizes(smallest, largest) if bucket >= size)


def until(size: int, buckets: Iterable[int]) -> Iterator[int]:
    """The buckets up to the one that holds ``size``."""
    for bucket in buckets:
        yield bucket
        if bucket >= size:
            return
