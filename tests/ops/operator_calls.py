"""Every CPU operator once on each dtype and instruction set, from several threads at once, on teams of several sizes.

Run as a program by test_builds.py, also under sanitizers, which end the process at the first error: python -m
tests.ops.operator_calls LIBRARY THREADS [ANSWERS.npz]
"""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.ops.packing import pack, pack_gate
from mindnlp_ocr.weights.quantize import WEIGHT_DTYPES
from tests.ops.direct import run

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512vnni", "amx")
HIDDEN, INNER, HEADS, KV_HEADS, DIM, VOCAB, SLOTS, LENGTH = 48, 84, 3, 1, 16, 100, 3, 140
EPS = np.array([1e-6], np.float32)


def integers(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


class Calls:
    """Inputs that no other thread writes to."""

    def __init__(self, library: str, seed: int) -> None:
        self.library, self.random = library, np.random.default_rng(seed)
        self.answers: list[NDArray[Any]] = []

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self.random.standard_normal(shape).astype(np.float32)

    def run(self, name: str, *arrays: NDArray[Any], outputs: int = 1, code: int = 0) -> None:
        returned = run(self.library, name, *arrays)
        if returned != code:
            raise SystemExit(f"{name} returned {returned}")
        if code == 0:
            self.answers += [answer.copy() for answer in arrays[-outputs:]]

    def layer(self, dtype: Any, kv_dtype: Any) -> list[NDArray[Any]]:
        qkv = (HEADS + 2 * KV_HEADS) * DIM
        return [
            self.normal(HIDDEN),
            pack(self.normal(qkv, HIDDEN), dtype),
            self.normal(qkv),
            pack(self.normal(HIDDEN, HEADS * DIM), dtype),
            self.normal(HIDDEN),
            pack_gate(self.normal(INNER, HIDDEN), self.normal(INNER, HIDDEN), dtype),
            pack(self.normal(HIDDEN, INNER), dtype),
            np.zeros((SLOTS, KV_HEADS, LENGTH, DIM), kv_dtype),
            np.zeros((SLOTS, KV_HEADS, LENGTH, DIM), kv_dtype),
        ]

    def all(self) -> None:
        for dtype in WEIGHT_DTYPES:
            self.products(dtype)
            self.decoder(dtype)
        self.attention()

    def products(self, dtype: Any) -> None:
        for rows in (1, 7, 100):
            x, weight, bias = self.normal(rows, HIDDEN), pack(self.normal(VOCAB, HIDDEN), dtype), self.normal(VOCAB)
            y, live = np.empty((rows, VOCAB), np.float32), integers(rows)
            for name in ("Linear", "LinearGelu", "LinearQuickGelu"):
                self.run(name, x, weight, bias, live, y)
            self.run("LinearAdd", x, weight, bias, self.normal(rows, VOCAB), live, y)
            gate = pack_gate(self.normal(VOCAB, HIDDEN), self.normal(VOCAB, HIDDEN), dtype)
            self.run("LinearSiluGate", x, gate, self.normal(2 * VOCAB), live, y)
            self.run("Choose", y, np.empty(rows, np.int32), np.empty(rows, np.float32), outputs=2)
            self.run("Embed", integers(*range(rows)), weight, np.empty((rows, HIDDEN), np.float32))
            self.run("RmsNorm", x, self.normal(HIDDEN), EPS, np.empty_like(x))
            self.run("LayerNorm", x, self.normal(HIDDEN), self.normal(HIDDEN), EPS, np.empty_like(x))
            self.run("Linear", x, weight, bias, integers(rows + 1), y, code=6)

    def decoder(self, dtype: Any) -> None:
        for kv_dtype in (np.float32, np.float16):
            layer = self.layer(dtype, kv_dtype)
            rows, half = 120, DIM // 2
            x, cos, sin = self.normal(rows, HIDDEN), self.normal(rows, half), self.normal(rows, half)
            segments = [integers(2, 0), integers(0, 5), integers(110, 3)]
            self.run("DecoderLayer", x, cos, sin, *segments, EPS, *layer, np.empty_like(x))
            self.run("DecoderLayer", x, cos, sin, integers(1, 0), integers(LENGTH, 5), integers(1, 3), EPS, *layer,
                     np.empty_like(x), code=5)  # fmt: skip
            texts = [integers(3, 4, 5), integers(110, 0, 8), integers(2, 1, 0), integers(110, 0, 8), integers(4, 0, 4)]
            tables = [integers(7), self.normal(LENGTH, half), self.normal(LENGTH, half)]
            head = pack(self.normal(VOCAB, HIDDEN), dtype)
            outputs = np.empty((4, 3), np.int32), np.empty((4, 3), np.float32), np.empty((3, VOCAB), np.float32)
            self.run("GreedyDecode", *texts, *tables, head, self.normal(HIDDEN), head, self.normal(VOCAB), EPS,
                     *layer, *layer, *outputs, outputs=3)  # fmt: skip
        self.vision(dtype)

    def vision(self, dtype: Any) -> None:
        rows, width, half = 130, HEADS * DIM, DIM // 2
        x = self.normal(rows, width)
        self.run(
            "VisionBlock",
            x, self.normal(rows, half), self.normal(rows, half), integers(0, 20, 128), EPS,
            self.normal(width), self.normal(width), pack(self.normal(3 * width, width), dtype), self.normal(3 * width),
            pack(self.normal(width, width), dtype), self.normal(width), self.normal(width), self.normal(width),
            pack(self.normal(INNER, width), dtype), self.normal(INNER),
            pack(self.normal(width, INNER), dtype), self.normal(width), np.empty_like(x),
        )  # fmt: skip
        self.run(
            "GatedVisionBlock",
            x, self.normal(rows, half), self.normal(rows, half), integers(0, 64, 80, 128, 128), EPS,
            self.normal(width), pack(self.normal(3 * width, width), dtype), self.normal(3 * width),
            pack(self.normal(width, width), dtype), self.normal(width), self.normal(width),
            pack_gate(self.normal(INNER, width), self.normal(INNER, width), dtype), self.normal(2 * INNER),
            pack(self.normal(width, INNER), dtype), self.normal(width), np.empty_like(x),
        )  # fmt: skip

    def attention(self) -> None:
        for dtype in (np.float32, np.float16):
            q, k = self.normal(300, HEADS, DIM).astype(dtype), self.normal(300, HEADS, DIM).astype(dtype)
            self.run("FlashVision", q, k, k, integers(0, 40, 290), np.empty_like(q))
            keys = np.zeros((SLOTS, KV_HEADS, LENGTH, DIM), np.float16)
            q, k = self.normal(2, 60, HEADS, DIM).astype(dtype), self.normal(2, 60, KV_HEADS, DIM).astype(dtype)
            table = integers(1, 0), integers(70, 3), integers(60, 1)
            self.run("FlashDecode", q, k, k, keys, keys.copy(), *table, np.empty_like(q))


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    library = ctypes.CDLL(path)
    answers: dict[str, NDArray[Any]] = {}
    for name in INSTRUCTION_SETS:
        if library.UseInstructionSet(name.encode()) == 0:
            library.UseThreads(threads)
            calls = Calls(path, 0)
            calls.all()
            answers |= {f"{name} {number}": answer for number, answer in enumerate(calls.answers)}
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(Calls(path, seed).attention) for seed in range(6)]:
            library.UseThreads(1 + threads)
            done.result()
            library.UseThreads(threads)
    if len(sys.argv) > 3:
        np.savez(sys.argv[3], **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
