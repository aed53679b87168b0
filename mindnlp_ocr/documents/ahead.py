"""Pages that are prepared or read in other threads before they are needed, in their order; and what their stages took."""

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
    """What is made of each page, in their order, ``depth`` of them before they are needed.

    Args:
        depth: 0: in this thread, when a page is needed.
        threads: how many pages are worked on at a time.
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
    """Milliseconds of each stage over several requests."""
    total: dict[str, float] = {}
    for one in timings:
        for name, value in one.items():
            if name != "total":  # from the request to its end: the waiting of one line is the reading of another
                total[name] = total.get(name, 0.0) + value
    return total


def since(start: float) -> float:
    """Milliseconds since a moment of ``time.perf_counter``."""
    return (time.perf_counter() - start) * 1e3
