"""Lower the kernels with the tiles of the source for Ascend (triton-ascend), and plan their memory on a 910B3
(bishengir-compile).

    python contrib/triton/lower.py [--save FOLDER]

The script needs neither CANN nor an NPU, but a separate environment (see README.md in this folder). The compiler stops
before `hivmc`, the part of CANN that generates NPU code. By then it has split the kernel between cube and vector cores and
assigned an address to each buffer, which this script reads. No kernel is run.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flash_attention as flash
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

CHIP = "Ascend910B3"
# The address spaces of a plan, with their names and sizes on a 910B in KiB.
SPACES = {"ub": ("UB", 192), "cbuf": ("L1", 512), "cc": ("L0C", 128)}
BYTES = {"i1": 1 / 8, "i8": 1, "f16": 2, "i16": 2, "f32": 4, "i32": 4, "i64": 8}
TOO_LARGE = ((128, 256), (256, 128), (256, 256))


@dataclass(frozen=True)
class Job:
    """A kernel with all its compile-time settings."""

    use: str
    dim: int
    tile: tuple[int, int]
    new: int = 1

    @property
    def name(self) -> str:
        return f"{self.use}, {self.new} new" if self.use == "decode" else self.use

    @property
    def kernel(self) -> Any:
        return flash.decode_kernel if self.use == "decode" else flash.segments_kernel

    @property
    def constants(self) -> dict[str, Any]:
        """Return the compile-time arguments. Published models have 6 query heads per key head, and 1 in the vision tower."""
        shape = {"DIM": self.dim, "DIMS": flash._block(self.dim), "ROWS": self.tile[0], "COLUMNS": self.tile[1]}
        if self.use == "decode":
            return {"GROUP": 6, "NEW": self.new, **shape}
        return {"GROUP": 6 if self.use == "prefill" else 1, "CAUSAL": self.use == "prefill", **shape}


def shipped() -> list[Job]:
    """Return every use, head size and tile of `flash_attention`; decode with one and with four new tokens."""
    jobs = [Job(use, dim, tile) for use, tile in flash.TILES.items() for dim in flash.HEAD_DIMS]
    return jobs + [Job("decode", dim, flash.TILES["decode"], new=4) for dim in flash.HEAD_DIMS]


def lower(kernel: Any, constants: dict[str, Any]) -> tuple[str, str]:
    """Return the kernel as Triton IR, and as the linalg IR that triton-ascend's adapter generates."""
    types = dict.fromkeys(("q", "k", "v", "out"), "*fp16") | {"bounds": "*i32", "live": "*i32", "scale": "fp32"}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constants}
    source = ASTSource(kernel, signature, constants)
    target = GPUTarget("npu", CHIP, 0)
    backend = make_backend(target)
    options = backend.parse_options({})
    metadata = {"hash": kernel.__name__, "target": target, **options.__dict__}
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options)
    context = ir.context()
    ir.load_dialects(context)
    module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
    module = stages["ttir"](module, metadata)
    try:
        return str(module), stages["ttadapter"](module, metadata)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"{kernel.__name__} with {constants} could not be lowered:\n{error.stderr.decode()[-2000:]}"
        ) from error


def plan(adapter: str) -> tuple[str, list[str]]:
    """Return the planned module, and the options that the compiler disabled to make it fit; or ("", reasons)."""
    package = importlib.util.find_spec("ascendnpuir")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("ascendnpu-ir is not installed: see contrib/triton/README.md")
    compiler = Path(next(iter(package.submodule_search_locations))) / "bin" / "bishengir-compile"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.mlir")
        # triton-ascend also removes this attribute before it calls the compiler.
        source.write_text(re.sub(r', mix_mode\s*=\s*"[^"]*"', "", adapter))
        switches = ["auto-multi-buffer", "auto-bind-sub-block", "hfusion-compile", "hivm-compile", "triton-kernel-compile"]
        command = [compiler, source, f"--target={CHIP}", *(f"--enable-{switch}=true" for switch in switches)]
        done = subprocess.run([*command, f"--save-temps={folder}", "-o", f"{folder}/o"], capture_output=True, text=True)
        output, planned = done.stdout + done.stderr, Path(folder, "module.hivm.opt.mlir")
        if planned.exists() and "Cannot find hivmc" in output:
            return planned.read_text(), re.findall(r"automatically set (\S+) to false and retrying", output)
        return "", re.findall(r"(\w+ overflow, requires \d+ bits while \d+ bits available)", output) or [output[-500:]]


def memory(planned: str) -> dict[str, float]:
    """Return the KiB up to the end of the last buffer in each address space of a planned module."""
    ends = dict.fromkeys(SPACES, 0.0)
    buffers = r"pointer_cast\(([^)]+)\) : memref<([\dx]+)x(\w+), #hivm\.address_space<(\w+)>"
    for addresses, sizes, kind, space in re.findall(buffers, planned):
        length = BYTES[kind]
        for size in sizes.split("x"):
            length *= int(size)
        for address in re.findall(r"%c(\d+)_i64", addresses):
            if space in ends:
                ends[space] = max(ends[space], int(address) + length)
    return {SPACES[space][0]: end / 1024 for space, end in ends.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep the IR of every stage in FOLDER")
    save = parser.parse_args().save
    failures = 0
    print(
        "| kernel | head_dim | tile | "
        + " | ".join(f"{name} of {size} KiB" for name, size in SPACES.values())
        + " | disabled to fit |"
    )
    print("|---" * (4 + len(SPACES)) + "|")
    for job in shipped():
        ttir, adapter = lower(job.kernel, job.constants)
        planned, notes = plan(adapter)
        if save:
            save.mkdir(parents=True, exist_ok=True)
            for stage, text in (("ttir", ttir), ("ttadapter", adapter), ("hivm", planned)):
                Path(save, f"{job.use}{job.new}_{job.dim}.{stage}.mlir").write_text(text)
        cells = [f"{kib:.1f}" for kib in memory(planned).values()] if planned else ["rejected"] * len(SPACES)
        failures += not planned
        print(f"| {job.name} | {job.dim} | {job.tile[0]}x{job.tile[1]} | {' | '.join(cells)} | {', '.join(notes) or '-'} |")
    for tile in TOO_LARGE:
        job = Job("prefill", 128, tile)
        planned, notes = plan(lower(job.kernel, job.constants)[1])
        failures += bool(planned)
        print(f"prefill, head_dim 128, {tile[0]}x{tile[1]}: {'FITS' if planned else 'rejected'}: {'; '.join(notes)}")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
