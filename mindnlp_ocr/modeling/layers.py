"""What holds weights everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.weights.quantize import Source, concatenate

Weights = Mapping[str, Source]  # published name -> array of any float dtype, or 8 bits


def parameter(name: str, value: NDArray[Any]) -> Parameter:
    """A frozen parameter under its published name, over the array's own memory: Parameter(tensor) would copy it."""
    held = Parameter(Tensor(np.zeros(1, value.dtype)), name=name, requires_grad=False)
    held.set_data(Tensor.from_numpy(np.ascontiguousarray(value)), slice_shape=True)
    return held


def vector(weights: Weights, name: str) -> Parameter:
    """A bias or the weight of a norm, in float32 whatever it is stored in."""
    return parameter(name, np.asarray(weights[name], np.float32))


class Linear(nn.Cell):
    """x [rows, in] -> [rows, out]. Several published layers of one input (q, k, v) become one product.

    ``live`` int32 [1] says how many rows are not padding.
    """

    def __init__(self, weights: Weights, names: str | Sequence[str], operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        names = [names] if isinstance(names, str) else list(names)
        stacked = concatenate([weights[f"{name}.weight"] for name in names])
        biases = [np.asarray(weights[f"{name}.bias"], np.float32) for name in names if f"{name}.bias" in weights]
        bias = np.concatenate(biases) if biases else np.zeros(stacked.shape[0], np.float32)
        self.weight = parameter("+".join(names) + ".weight", operators.pack(stacked))
        self.bias = parameter("+".join(names) + ".bias", bias)
        self.operators = operators

    def construct(self, x: Tensor, live: Tensor) -> Tensor:
        return self.operators.linear(x, self.weight, self.bias, live)

    def add(self, x: Tensor, residual: Tensor, live: Tensor) -> Tensor:
        return self.operators.linear_add(x, self.weight, self.bias, residual, live)

    def quick_gelu(self, x: Tensor, live: Tensor) -> Tensor:
        return self.operators.linear_quick_gelu(x, self.weight, self.bias, live)

    def gelu(self, x: Tensor, live: Tensor) -> Tensor:
        return self.operators.linear_gelu(x, self.weight, self.bias, live)
