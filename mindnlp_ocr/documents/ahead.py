"""Processing of pages in other threads ahead of their use, in order, and the timings of their stages."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(
    pages: Iterable[Given], make: Callable[[Given], Made], depth: int, threads: int = 1
) -> Generator[Made, None, None]:
    """Yield ``make(page)`` for every page in order, computing up to ``depth`` results in advance.

    Args:
        depth: number of results to compute in advance. 0: every result is computed in this thread when it is needed.
        threads: number of pages processed concurrently.
    """
    if depth == 0:
        yield from map(make, pages)
        return
    with ThreadPoolExecutor(threads, "pages") as pool:
        ready: deque[Future[Made]] = deque()
        try:
            for page in pages:
                ready.append(pool.submit(make, page))
                if len(ready) > depth:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()
        finally:
            for future in ready:
                future.cancel()


def added(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the milliseconds of each stage, summed over several requests."""
    total: dict[str, float] = {}
    for one in timings:
        for name, value in one.items():
            if name != "total":  # totals include waiting for other requests, so they do not add up
                total[name] = total.get(name, 0.0) + value
    return total


def since(start: float) -> float:
    """Return the milliseconds since ``start``, a value of ``time.perf_counter``."""
    return (time.perf_counter() - start) * 1e3
