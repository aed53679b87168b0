"""Timing of variants that alternate, so that drifts of the machine's speed affect all, and statistics of times."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from mindnlp_ocr.bench.results import Row


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(runs: int, *sides: Callable[[], float]) -> list[float]:
    """Return the median time of each variant over ``runs`` rounds, after a warm-up round."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(runs + 1):
        for times, side in zip(taken, sides, strict=True):
            times.append(side())
    return [statistics.median(times[1:]) for times in taken]


def spread(times: Sequence[float]) -> Row:
    """Return the mean and percentiles, which are interpolated between two runs."""
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return {"mean_ms": float(np.mean(times)), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}
