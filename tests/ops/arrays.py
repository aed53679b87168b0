"""Helpers for tests of our operators: float64 arrays and tensors."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

Array = NDArray[np.float64]
DTYPES = {"float32": (ms.float32, 1e-5), "float16": (ms.float16, 2e-3), "bfloat16": (ms.bfloat16, 2e-2)}


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def tensor(array: NDArray[Any], dtype: str = "float32") -> Tensor:
    return Tensor(array.astype(np.float32)).astype(DTYPES[dtype][0])


def parameter(array: NDArray[Any], name: str, dtype: str = "float32") -> Parameter:
    return Parameter(tensor(array, dtype), name=name, requires_grad=False)


def back(x: Tensor) -> Array:
    answer: Array = x.astype(ms.float32).asnumpy().astype(np.float64)
    return answer


def as_held(array: NDArray[Any], dtype: str) -> Array:
    """What is left of an array in a dtype."""
    return back(tensor(array, dtype))


def integers(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32))


def tokens_first(slot: Array) -> Array:
    """[kv_heads, length, head_dim] of a slot as [length, kv_heads, head_dim]."""
    return slot.transpose(1, 0, 2)
