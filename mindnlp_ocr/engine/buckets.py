"""The bucket sizes for which graphs are compiled: powers of two and their midpoints."""

from collections.abc import Iterable, Iterator


def bucket_sizes(smallest: int, largest: int) -> Iterator[int]:
    """Yield ``smallest`` (a power of two), 1.5 times and twice this size, and so on, and finally ``largest``."""
    size = smallest
    while size < largest:
        yield size
        if size * 3 // 2 < largest:
            yield size * 3 // 2
        size *= 2
    yield largest


def bucket_for(size: int, smallest: int, largest: int) -> int:
    """Return the smallest bucket of at least ``size``; ``size`` must not exceed ``largest``."""
    return next(bucket for bucket in bucket_sizes(smallest, largest) if bucket >= size)


def until(size: int, buckets: Iterable[int]) -> Iterator[int]:
    """Yield the buckets up to the one that contains ``size``."""
    for bucket in buckets:
        yield bucket
        if bucket >= size:
            return
