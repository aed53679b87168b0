"""NumPy arrays as tensors, so that Triton's interpreter works without torch. run_adapter.py uses them as well."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray


class Rows:
    """A NumPy array with the attributes of torch's Tensor that Triton's interpreter and our launchers use; never copied."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape = array, array.shape
        self.dtype: Any = array.dtype

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    # The interpreter copies the storage of a device tensor to the host and back. Ours is already on the host.
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
