"""Access to parameters as writable NumPy arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mindspore import Parameter, Tensor
from numpy.typing import NDArray


@contextmanager
def on_host(parameter: Parameter) -> Iterator[NDArray[Any]]:
    """Provide the values of a parameter for modification: its own memory on a CPU, else a copy that is written back."""
    array: NDArray[Any] = parameter.asnumpy()
    in_place = array.ctypes.data == parameter.data_ptr()
    array = array if in_place else array.copy()
    yield array
    if not in_place:
        parameter.set_data(Tensor(array))
