"""int8 products between pages that nobody may touch, then again in a forked child. A read or write beyond a buffer ends the
process, which sanitizers do not see of tile loads and stores.

Run as a program by test_weight_dtypes.py: python -m tests.ops.guarded_calls LIBRARY INSTRUCTION_SET
"""

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.ops.packing import pack
from tests.ops.direct import run

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
MAPS: list[mmap.mmap] = []


def guarded(array: NDArray[Any], at_end: bool) -> NDArray[Any]:
    """A copy that begins just behind a forbidden page, or ends just before one."""
    pages = -(-array.nbytes // PAGE)
    MAPS.append(mmap.mmap(-1, (pages + 2) * PAGE))
    start = ctypes.addressof(ctypes.c_char.from_buffer(MAPS[-1]))
    offset = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = np.frombuffer(MAPS[-1], array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    for page in (start, start + (pages + 1) * PAGE):
        if LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return copy


def product(library: str, rows: int, width: int, out: int, at_end: bool | None) -> bytes:
    random = np.random.default_rng(rows * width + out)
    x, weight = random.standard_normal((rows, width), np.float32), random.standard_normal((out, width), np.float32)
    arrays = [x, pack(weight, "int8"), np.zeros(out, np.float32), x[:, :1] * weight[:, 0], np.array([rows], np.int32)]
    arrays.append(np.empty((rows, out), np.float32))
    held = arrays if at_end is None else [guarded(array, at_end) for array in arrays]
    if code := run(library, "LinearAdd", *held):
        raise SystemExit(f"LinearAdd returned {code}")
    return held[-1].tobytes()


def main() -> None:
    path, name = sys.argv[1:]
    library = ctypes.CDLL(path)
    if library.UseInstructionSet(name.encode()):
        raise SystemExit(f"there is no {name}")
    library.UseThreads(2)
    sizes = [
        (rows, width, out) for rows in (1, 8, 17, 97) for width in (4, 60, 64, 68, 124, 132, 196, 320) for out in (1, 32, 33)
    ]
    answers = [product(path, *size, None) for size in sizes]
    for at_end in (False, True):
        if answers != [product(path, *size, at_end) for size in sizes]:
            raise SystemExit("other answers between guarded pages")
    if (child := os.fork()) == 0:
        os._exit(answers != [product(path, *size, True) for size in sizes])
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(f"the forked child ended with {code}")


if __name__ == "__main__":
    main()
