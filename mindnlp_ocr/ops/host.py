"""Parameters as NumPy arrays that may be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mindspore import Parameter, Tensor
from numpy.typing import NDArray


@contextmanager
def on_host(parameter: Parameter) -> Iterator[NDArray[Any]]:
    """The numbers of a parameter, to be changed: on a CPU they are its own memory, elsewhere they are sent back."""
    array: NDArray[Any] = parameter.asnumpy()
    in_place = array.ctypes.data == parameter.data_ptr()
    array = array if in_place else array.copy()
    yield array
    if not in_place:
        parameter.set_data(Tensor(array))
