"""What holds weights everywhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.ops.operators import Operators

Weights = Mapping[str, NDArray[np.float32]]


def parameter(name: str, value: NDArray[np.float32]) -> Parameter:
    """A frozen parameter under its published name, sharing the array's memory where MindSpore allows it."""
    return Parameter(Tensor.from_numpy(np.ascontiguousarray(value)), name=name, requires_grad=False)


class Linear(nn.Cell):
    """x [rows, in] -> [rows, out]. Several published layers of one input (q, k, v) become one product.

    ``live`` int32 [1] says how many rows are not padding.
    """

    def __init__(self, weights: Weights, names: str | Sequence[str], operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        names = [names] if isinstance(names, str) else list(names)
        stacked = np.concatenate([weights[f"{name}.weight"] for name in names])
        biases = [weights[f"{name}.bias"] for name in names if f"{name}.bias" in weights]
        bias = np.concatenate(biases) if biases else np.zeros(len(stacked), np.float32)
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
