"""Peak memory of flash and eager attention over an image, each measured in a separate process."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import psutil

from mindnlp_ocr.bench.results import Row

PATCHES = (2048, 4096, 8192, 16384)
HEADS, HEAD_DIM = 4, 64
ABOUT = (
    f"Attention over one image, {HEADS} heads of {HEAD_DIM}, float32: peak memory including the answer, without q, k and v; "
    "each in a separate process. Not measured: eager attention would not fit into memory, or the device is not a CPU."
)


def attention_memory(patches: Iterable[int] = PATCHES) -> Iterator[Row]:
    """Yield the peak memory of flash and eager attention for every number of patches, and the saving of flash attention."""
    for tokens in patches:
        flash, eager = _peak_mb("flash", tokens), None
        if 3 * 4 * HEADS * tokens**2 < psutil.virtual_memory().available:  # scores, softmax, and a reserve
            eager = _peak_mb("eager", tokens)
        saved = None if eager is None else 100 * (1 - flash / eager)
        yield {"patches": tokens, "flash_mb": flash, "eager_mb": eager, "saved_percent": saved}


def _peak_mb(implementation: str, tokens: int) -> float:
    command = [sys.executable, "-m", __name__, implementation, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def _added_mb(implementation: Any, tokens: int) -> float:
    from mindnlp_ocr.bench.attention import Case, compiled
    from mindnlp_ocr.bench.machine import forget_peak, memory_mb, peak_memory_mb
    from mindnlp_ocr.ops.device import Device

    case = Case("vision", HEADS, HEADS, HEAD_DIM, tokens, (0, tokens))
    run = compiled(case, Device("CPU"), implementation, case.inputs(), whole=False)
    forget_peak()
    before = memory_mb()
    run()
    return peak_memory_mb() - before


if __name__ == "__main__":
    _added_mb(sys.argv[1], 64)  # warm-up: memory that only the first run allocates must not count
    print(_added_mb(sys.argv[1], int(sys.argv[2])))  # noqa: T201
