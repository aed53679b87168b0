"""Run the linalg IR that triton-ascend generates from our kernels on x86, and compare the results with float64 NumPy.

    python contrib/triton/run_adapter.py

The launchers of `flash_attention` call a replacement of each kernel: it lowers the kernel as `lower.py` does, compiles the
IR with LLVM 19, and calls the machine code once per program. This checks the adapter's masks, bounds and addresses, but not
the later stages. README.md lists what must be installed.
"""

import ctypes
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flash_attention as flash
import numpy as np
from lower import lower

sys.path.insert(0, str(Path(__file__).parent / "tests"))
import reference
from interpreter import Rows

TOLERANCE = 1e-3  # for float16 results
GROUPS = ((12, 2), (4, 4), (4, 1))
# Errors that an adapter could introduce, as a pattern and its replacement. The comparison must detect each of them.
MUTATIONS = {
    "hides one key too many": (r"arith\.cmpi sle", "arith.cmpi slt"),
    "takes the largest weight for their sum": (r"arith\.addf %in, %init", "arith.maxnumf %in, %init"),
    "rescales the wrong way": (r"arith\.subf (%\w+), (%\S+) : tensor<(\d+)xf32>", r"arith.subf \2, \1 : tensor<\3xf32>"),
}
BUFFERS = (
    "--convert-elementwise-to-linalg",
    "--eliminate-empty-tensors",
    "--empty-tensor-to-alloc-tensor",
    "--one-shot-bufferize=allow-return-allocs-from-loops=true",
    "--buffer-deallocation-pipeline",
)
TO_LLVM = (
    "--convert-linalg-to-loops",
    "--lower-affine",
    "--convert-scf-to-cf",
    "--expand-strided-metadata",
    "--lower-affine",  # the pass before it creates new affine operations
    *(f"--convert-{dialect}-to-llvm" for dialect in ("math", "arith", "index")),
    "--finalize-memref-to-llvm",
    "--convert-func-to-llvm",
    "--convert-cf-to-llvm",
    "--reconcile-unrealized-casts",
)


def build(adapter: str, kernel: str) -> Callable[..., None]:
    """Compile the linalg IR of a kernel to machine code."""

    def tool(name: str, *arguments: str, source: str | bytes) -> bytes:
        data = source.encode() if isinstance(source, str) else source
        done = subprocess.run([f"{name}-19", *arguments], input=data, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{name}-19 {' '.join(arguments)}:\n{done.stderr.decode()[:2000]}")
        return done.stdout

    # triton-ascend marks branches and arguments with attributes of dialects that LLVM's tools do not have.
    buffers = tool("mlir-opt", "--allow-unregistered-dialect", *BUFFERS, source=adapter).decode()
    # A copy between strided buffers would call a runtime library, whereas linalg.copy becomes a loop.
    buffers = re.sub(r"memref\.copy (%\S+), (%\S+) : (.+) to (.+)", r"linalg.copy ins(\1 : \3) outs(\2 : \4)", buffers)
    code = tool("mlir-opt", "--allow-unregistered-dialect", *TO_LLVM, source=buffers)
    code = tool("mlir-translate", "--mlir-to-llvmir", "--allow-unregistered-dialect", source=code)
    code = tool(
        "llc", "-O2", "-mcpu=native", "-filetype=obj", "-relocation-model=pic", source=tool("opt", "-O2", source=code)
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.o").write_bytes(code)
        subprocess.run(["cc", "-shared", "-o", f"{folder}/kernel.so", f"{folder}/kernel.o", "-lm"], check=True)
        function: Callable[..., None] = getattr(ctypes.CDLL(f"{folder}/kernel.so"), kernel)
    return function


def buffer(address: int) -> list[Any]:
    """Return a one-dimensional memref as LLVM passes it: two pointers, offset, size and stride."""
    return [ctypes.c_void_p(address), ctypes.c_void_p(address), *map(ctypes.c_int64, (0, 2**31, 1))]


class OnX86:
    """Replaces a kernel: ``kernel[grid](*arguments, **constants)`` calls its machine code for each program."""

    def __init__(self, kernel: Any, mutate: Callable[[str], str] = str) -> None:
        self.kernel, self.mutate = kernel, mutate
        self.built: dict[str, Callable[..., None]] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            key = str(constants)
            if key not in self.built:
                self.built[key] = build(self.mutate(lower(self.kernel, constants)[1]), self.kernel.__name__)
            flat = buffer(0) + buffer(0)  # the NPU's lock and workspace
            for argument in arguments:
                if isinstance(argument, Rows):
                    flat += buffer(argument.data_ptr())
                else:
                    flat.append(ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int32(argument))
            sizes = [*grid, 1, 1][:3]
            for program in itertools.product(*map(range, sizes)):
                self.built[key](*flat, *map(ctypes.c_int32, (*sizes, *program)))

        return launch


def segments(use: str, dim: int, heads: int, kv_heads: int, tokens: int, bounds: list[int]) -> float:
    """Return the largest error of a prefill or vision call whose dead rows contain NaN and inf."""
    q, *kv = (reference.rng("float16", tokens, count, dim) for count in (heads, kv_heads, kv_heads))
    kv[1] = kv[1] + np.float16(1)
    for array in (q, *kv):
        reference.poison(array[bounds[-1] :])
    out = np.full_like(q, np.nan)
    getattr(flash, use)(*map(Rows, (q, *kv, out, np.array(bounds, np.int32))))
    return worst(out, reference.segments_expected(q, *kv, bounds, use == "prefill"))


def decode(dim: int, heads: int, kv_heads: int, new: int) -> float:
    """Return the largest error of a decode call with three slots whose unwritten rows contain NaN and inf."""
    live, rows = [0, 57, 140 - new], 140
    q = reference.rng("float16", 3, new, heads, dim)
    k, v = (reference.rng("float16", 3, kv_heads, rows, dim) + np.float16(i) for i in range(2))
    for slot, length in enumerate(live):
        reference.poison(k[slot, :, length + new :])
        reference.poison(v[slot, :, length + new :])
    out = np.full_like(q, np.nan)
    flash.decode(*map(Rows, (q, k, v, out, np.array(live, np.int32))))
    return worst(out, reference.decoded_expected(q, k, v, live))


def worst(answer: reference.Array, expected: reference.Array) -> float:
    """Return the largest error, relative for numbers above 1."""
    error = (np.abs(answer.astype(np.float64) - expected) / np.maximum(1, np.abs(expected))).max()
    return float("inf") if np.isnan(error) else float(error)


def main() -> int:
    kernels = {name: getattr(flash, name) for name in ("segments_kernel", "decode_kernel")}

    def swap(mutate: Callable[[str], str] = str) -> None:
        for name, kernel in kernels.items():
            setattr(flash, name, OnX86(kernel, mutate))

    swap()
    failed = 0
    for use, dim in itertools.product(flash.TILES, flash.HEAD_DIMS):
        if use == "decode":
            errors = [decode(dim, *group, new) for group in GROUPS for new in (1, 2, 4)]
        else:
            errors = [segments(use, dim, *group, 200, [0, 3, 64, 64, 193]) for group in GROUPS]
            errors += [segments(use, dim, 6, 1, 150, [0, live]) for live in (0, 1, 63, 64, 65, 127, 128, 129, 150)]
        failed += max(errors) > TOLERANCE
        print(f"{use}, head_dim {dim}: {len(errors)} cases, largest error {max(errors):.1e}", flush=True)
    for name, (pattern, replacement) in MUTATIONS.items():
        swap(lambda text, change=(pattern, replacement): re.sub(*change, text))
        errors = [segments("prefill", 64, 4, 4, 200, [0, 193]), decode(64, 4, 4, 2)]
        failed += min(errors) <= TOLERANCE
        print(f"a kernel that {name}: errors {', '.join(f'{error:.1e}' for error in errors)}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
