"""The two layers that hold weights everywhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.ops.linear import linear, linear_bias, pack

Weights = Mapping[str, NDArray[np.float32]]


def parameter(name: str, value: NDArray[np.float32]) -> Parameter:
    """A frozen parameter under its published name, sharing the array's memory where MindSpore allows it."""
    return Parameter(Tensor.from_numpy(np.ascontiguousarray(value)), name=name, requires_grad=False)


class Linear(nn.Cell):
    """x [rows, in] -> [rows, out]. Several published layers of one input (q, k, v) become one product."""

    def __init__(self, weights: Weights, names: str | Sequence[str], bias: bool = True) -> None:
        super().__init__()
        names = [names] if isinstance(names, str) else list(names)
        stacked = np.concatenate([weights[f"{name}.weight"] for name in names])
        self.weight = parameter("+".join(names) + ".weight", pack(stacked))
        self.has_bias = bias
        if bias:
            self.bias = parameter("+".join(names) + ".bias", np.concatenate([weights[f"{name}.bias"] for name in names]))

    def construct(self, x: Tensor) -> Tensor:
        if self.has_bias:
            return linear_bias(x, self.weight, self.bias)
        return linear(x, self.weight)
