"""What this machine can do at most: multiply-adds and reading memory, on the threads that our operators run on."""

import ctypes
import time
from pathlib import Path

import numpy as np

from mindnlp_ocr.ops.native import LIBRARY

READ_MB = 256  # far more than the processor's caches


class Machine:
    """Two figures that stand beside others, measured in turns with them."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(LIBRARY))
        self._library.FmaFlops.restype, self._library.ReadAll.restype = ctypes.c_double, ctypes.c_float
        self._memory = np.ones(READ_MB << 18, np.float32)

    def gflops(self) -> float:
        """float32 multiply-adds a second, in GFLOP/s."""
        start = time.perf_counter()
        done = self._library.FmaFlops(ctypes.c_int64(10_000_000))
        return float(done) / (time.perf_counter() - start) / 1e9

    def read_gbs(self) -> float:
        """Bytes read a second, in GB/s."""
        start = time.perf_counter()
        self._library.ReadAll(self._memory.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(self._memory.size))
        return self._memory.nbytes / (time.perf_counter() - start) / 1e9


def memory_mb() -> float:
    """What this process has resident."""
    return _status("VmRSS")


def peak_memory_mb() -> float:
    """The most memory that this process has had resident so far, or since :func:`forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _status(name: str) -> float:
    row = next(row for row in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if row.startswith(name))
    return int(row.split()[1]) / 1024
