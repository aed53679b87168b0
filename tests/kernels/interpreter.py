"""Triton's interpreter without torch: NumPy arrays for tensors, and our kernels loaded in interpreted form."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numpy.typing import NDArray


class Rows:
    """A NumPy array with as much of torch's Tensor as Triton's interpreter and our launchers ask for; never copied."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape = array, array.shape
        self.dtype: Any = array.dtype

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    # The interpreter copies a device tensor's storage to the host and back. Ours is there already.
    def untyped_storage(self) -> "Rows":
        return self

    def new_empty(self, *_: Any, **__: Any) -> "Rows":
        return self

    def set_(self, *_: Any) -> None:
        pass

    def storage_offset(self) -> int:
        return 0

    def size(self) -> Sequence[int]:
        return self.shape

    def cpu(self) -> "Rows":
        return self

    def copy_(self, _: Any) -> None:
        pass


def load(name: str) -> ModuleType:
    """kernels/triton/<name>.py with its kernels interpreted; skips the calling module where Triton is missing."""
    pytest.importorskip("triton", reason="Triton is not installed: `uv sync` installs it on x86-64 Linux")
    path = Path(__file__).parents[2] / "kernels" / "triton" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"interpreted_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
