"""The limits of this machine: multiply-add rate and memory bandwidth, with the threads of our operators."""

import ctypes
import time
from pathlib import Path

import numpy as np

from mindnlp_ocr.ops.native import LIBRARY

READ_MB = 256  # far more than the processor's caches


class Machine:
    """The limits of the machine, measured alternately with other figures."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(LIBRARY))
        self._library.FmaFlops.restype, self._library.ReadAll.restype = ctypes.c_double, ctypes.c_float
        self._memory = np.ones(READ_MB << 18, np.float32)

    def gflops(self) -> float:
        """Return the float32 multiply-add rate in GFLOP/s."""
        start = time.perf_counter()
        done = self._library.FmaFlops(ctypes.c_int64(10_000_000))
        return float(done) / (time.perf_counter() - start) / 1e9

    def read_gbs(self) -> float:
        """Return the memory read bandwidth in GB/s."""
        start = time.perf_counter()
        self._library.ReadAll(self._memory.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(self._memory.size))
        return self._memory.nbytes / (time.perf_counter() - start) / 1e9


def memory_mb() -> float:
    """Return the resident memory of this process in MB."""
    return _status("VmRSS")


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process in MB, since its start or :func:`forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Reset the peak of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _status(name: str) -> float:
    row = next(row for row in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if row.startswith(name))
    return int(row.split()[1]) / 1024
