#!/usr/bin/env python3
"""Measure small calls of a CPU operator with several numbers of threads, and after a call with more threads.

uv run tools/benchmark_threads.py [LIBRARY ...]
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.ops.cores import usable_cores
from mindnlp_ocr.ops.packing import pack

BUILT = next((Path(__file__).resolve().parent.parent / "mindnlp_ocr" / "ops").glob("_cpu*.so"), None)


def caller(library: ctypes.CDLL, name: str, arrays: list[NDArray[Any]]) -> Callable[[], None]:
    """Return a call of an operator with its inputs and outputs, whose ctypes arguments are created in advance."""
    n = len(arrays)
    shapes = [(ctypes.c_int64 * x.ndim)(*x.shape) for x in arrays]
    arguments = (
        n,
        (ctypes.c_void_p * n)(*(x.ctypes.data for x in arrays)),
        (ctypes.c_int * n)(*(x.ndim for x in arrays)),
        (ctypes.POINTER(ctypes.c_int64) * n)(*(ctypes.cast(x, ctypes.POINTER(ctypes.c_int64)) for x in shapes)),
        (ctypes.c_char_p * n)(*(str(x.dtype).encode() for x in arrays)),
        None,
        None,
    )
    function = getattr(library, name)

    def run(_: Any = (arrays, shapes)) -> None:  # the default keeps the arrays alive
        if code := function(*arguments):
            raise SystemExit(f"{name} returned {code}")

    return run


def calls(library: ctypes.CDLL) -> dict[str, Callable[[], None]]:
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((8, 256), np.float32), random.standard_normal((256, 256), np.float32)
    one, eps = np.ones(256, np.float32), np.array([1e-6], np.float32)
    return {
        "RmsNorm [8, 256]": caller(library, "RmsNorm", [x, one, eps, np.empty_like(x)]),
        "Linear [8, 256] x [256, 256]": caller(
            library, "Linear", [x, pack(weight, "fp32"), one, np.array([8], np.int32), np.empty_like(x)]
        ),
    }


def microseconds(run: Callable[[], None], count: int) -> float:
    """Return the microseconds per call in a series of ``count`` calls."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "libraries", nargs="*", default=[BUILT], help="built operators to compare (default: those installed)"
    )
    parser.add_argument(
        "--runs", type=int, default=21, help="number of series of calls, whose median is shown (default: 21)"
    )
    parser.add_argument("--calls", type=int, default=300, help="number of calls per series (default: 300)")
    arguments = parser.parse_args()
    if None in arguments.libraries:
        raise SystemExit("error: the CPU operators are not built: pass the path of a library")
    libraries = {str(path): ctypes.CDLL(str(path)) for path in arguments.libraries}
    print(f"{usable_cores()} cores; microseconds per call, median of {arguments.runs} series of {arguments.calls} calls")
    for lowered in (False, True):
        for threads in (1, 2, 8):
            taken: dict[tuple[str, str], list[float]] = {}
            for _ in range(arguments.runs):
                for path, library in libraries.items():  # in turns, since the machine's speed drifts
                    for name, run in calls(library).items():
                        if lowered:
                            library.UseThreads(8)
                            run()
                        library.UseThreads(threads)
                        taken.setdefault((name, path), []).append(microseconds(run, arguments.calls))
            for (name, path), times in taken.items():
                after = " after 8" if lowered else ""
                print(f"{name:30} {threads} threads{after:8} {statistics.median(times):9.1f}  {Path(path).name}")
        if not lowered:
            print()


if __name__ == "__main__":
    main()
