"""Tests of the CPU operators in builds with other compilers and with sanitizers."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindnlp_ocr.ops import native

ROOT = Path(__file__).parents[2]
SANITIZERS = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}

pytestmark = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])


def setup_flags() -> list[str]:
    """What setup.py compiles with."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "extra_compile_args":
            flags: list[str] = ast.literal_eval(node.value)
            return flags
    raise AssertionError("setup.py has no extra_compile_args")


def compiler(name: str) -> list[str]:
    """The command of a C++ compiler. Where there is no clang++, the Clang inside of Zig, a package of the tests.

    Zig compiles for the processor it runs on unless told otherwise. For one without AVX-512 it switches vectors of 512 bits
    off (evex512), and then refuses the functions for other processors that use them.
    """
    if found := shutil.which(name):
        return [found]
    if name == "clang++" and importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline+evex512"]
    pytest.skip(f"{name} is not installed")


def build(command: list[str], library: Path, *flags: str) -> Path:
    sources = sorted(map(str, (ROOT / "kernels" / "cpu").glob("*.cc")))
    built = [*command, *setup_flags(), *flags, "-fPIC", "-shared", *sources, "-o", str(library)]
    done = subprocess.run(built, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return library


def calls(library: Path, answers: Path | None = None, **environment: str) -> None:
    """Call every operator in a process of its own."""
    command = [sys.executable, "-m", "tests.ops.operator_calls", str(library), "3", *([str(answers)] if answers else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def test_clang_builds_operators_with_the_same_answers(tmp_path: Path) -> None:
    library = build(compiler("clang++"), tmp_path / "clang.so")
    calls(library, tmp_path / "clang.npz")
    calls(native.LIBRARY, tmp_path / "installed.npz")
    with np.load(tmp_path / "clang.npz") as ours, np.load(tmp_path / "installed.npz") as theirs:
        assert ours.files == theirs.files
        assert len(ours.files) > 100 * len(native.instruction_sets())
        for name in ours.files:
            np.testing.assert_allclose(
                ours[name].astype(np.float64), theirs[name].astype(np.float64), 2e-3, 2e-3, err_msg=name
            )


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_every_operator_runs_clean_under(sanitizer: str, tmp_path: Path) -> None:
    gcc = compiler("g++")
    flags = ("-O1", "-g1", "-fno-omit-frame-pointer", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    library = build(gcc, tmp_path / "sanitized.so", *flags)
    names = (*SANITIZERS[sanitizer], "libstdc++.so.6")
    runtime = [subprocess.check_output([*gcc, f"-print-file-name={name}"], text=True).strip() for name in names]
    if missing := [path for path in runtime if not Path(path).exists()]:
        pytest.skip(f"g++ has no {', '.join(missing)}")
    calls(
        library,
        LD_PRELOAD=" ".join(runtime),
        ASAN_OPTIONS="detect_leaks=0",  # Python's own
        TSAN_OPTIONS="halt_on_error=1",
        OPENBLAS_NUM_THREADS="1",
    )


def setup_build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """setup.py, as an install of the package runs it."""
    command = ["uv", "run", "--no-project", "--with", "setuptools>=77", "python", "setup.py", "build_ext", "--build-lib",
               str(folder / "lib"), "--build-temp", str(folder / "temp")]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv brings setuptools")
def test_an_install_without_a_compiler_stops_and_names_the_switch_that_goes_on(tmp_path: Path) -> None:
    without = {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    failed = setup_build(tmp_path, **without)
    assert failed.returncode == 1
    assert "The CPU operators could not be built" in failed.stderr
    assert "MINDNLP_OCR_WITHOUT_OPERATORS=1" in failed.stderr
    done = setup_build(tmp_path, MINDNLP_OCR_WITHOUT_OPERATORS="1", **without)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("_cpu*"))
