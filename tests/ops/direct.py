"""Calls of our CPU operators without MindSpore, with any library and from any thread or process."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run(library: str | Path, name: str, *arrays: NDArray[Any]) -> int:
    """The code that an operator returns; other threads of Python run meanwhile.

    Args:
        arrays: its inputs, then its outputs.
    """
    n = len(arrays)
    shapes = [(ctypes.c_int64 * x.ndim)(*x.shape) for x in arrays]
    code: int = getattr(ctypes.CDLL(str(library)), name)(
        n,
        (ctypes.c_void_p * n)(*(x.ctypes.data for x in arrays)),
        (ctypes.c_int * n)(*(x.ndim for x in arrays)),
        (ctypes.POINTER(ctypes.c_int64) * n)(*(ctypes.cast(x, ctypes.POINTER(ctypes.c_int64)) for x in shapes)),
        (ctypes.c_char_p * n)(*(str(x.dtype).encode() for x in arrays)),
        None,
        None,
    )
    return code


def call(library: str | Path, name: str, *inputs: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The answer of an operator of one output."""
    answer = np.full(shape, np.nan, np.float32)
    assert run(library, name, *inputs, answer) == 0
    return answer
