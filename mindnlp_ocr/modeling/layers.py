"""Layers with weights, and the loader that creates parameters from published weights."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray
from tqdm import tqdm

from mindnlp_ocr.ops.host import on_host
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.weights.quantize import Source, concatenate, flat

Weights = Mapping[str, Source]  # published name -> array of any float dtype, or 8 bits


class _Made(NamedTuple):
    parameter: Parameter
    sources: Sequence[str]
    make: Callable[[Weights], NDArray[Any]]


class Loader:
    """Creates the frozen parameters of a network from published weights, and updates them when some weights change."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._made: list[_Made] = []
        self._bar = tqdm(total=len(weights), unit="weight", desc="loading", delay=2, disable=None, leave=False)

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def parameter(self, name: str, sources: Sequence[str], make: Callable[[Weights], NDArray[Any]]) -> Parameter:
        """Create a parameter with ``make`` from the weights named by ``sources``."""
        held = parameter(name, make(self._weights))
        self._made.append(_Made(held, sources, make))
        self._bar.update(len(sources))
        return held

    def vector(self, name: str) -> Parameter:
        """Create a parameter for a bias or the weight of a norm, in float32."""
        return self.parameter(name, [name], lambda weights: np.asarray(weights[name], np.float32))

    def end(self) -> None:
        """Release the weights, which may be an open file, after all parameters have been created."""
        self._bar.close()
        self._weights = {}

    def update(self, weights: Weights, changed: Collection[str]) -> None:
        """Update all parameters that depend on weights in ``changed``, in place."""
        made = [made for made in self._made if not set(made.sources).isdisjoint(changed)]
        for held, _, make in tqdm(made, unit="weight", desc="changing weights", delay=2, disable=None, leave=False):
            array = np.ascontiguousarray(make(weights))
            with on_host(held) as memory:
                memory.view(np.uint8).reshape(-1)[...] = array.view(np.uint8).reshape(-1)


def parameter(name: str, value: NDArray[Any]) -> Parameter:
    """Return a frozen parameter that shares the array's memory. Parameter(tensor) would copy it."""
    held = Parameter(Tensor(np.zeros(1, value.dtype)), name=name, requires_grad=False)
    held.set_data(Tensor.from_numpy(np.ascontiguousarray(value)), slice_shape=True)
    return held


def bias(weights: Loader, whole: str, names: Sequence[str], no_bias: int) -> Parameter:
    """Return the concatenated biases of the layers ``names`` in float32, or ``no_bias`` zeros if they have none."""
    biases = [f"{name}.bias" for name in names if f"{name}.bias" in weights]
    if not biases:
        return parameter(f"{whole}.bias", np.zeros(no_bias, np.float32))
    return weights.parameter(
        f"{whole}.bias", biases, lambda weights: np.concatenate([np.asarray(weights[x], np.float32) for x in biases])
    )


class Linear(nn.Cell):
    """A linear layer, x [rows, in] -> [rows, out]. Several published layers with the same input (q, k, v) become one
    product.

    ``rows`` int32 [1] is the number of rows without padding; ``no_bias`` is the number of outputs of a layer without biases.
    """

    def __init__(self, weights: Loader, names: str | Sequence[str], operators: Operators, no_bias: int = 0) -> None:
        super().__init__(auto_prefix=False)
        names = [names] if isinstance(names, str) else list(names)
        whole = "+".join(names)
        sources = [f"{name}.weight" for name in names]
        self.weight = weights.parameter(
            f"{whole}.weight", sources, lambda weights: operators.pack(concatenate([flat(weights[x]) for x in sources]))
        )
        self.bias = bias(weights, whole, names, no_bias)
        self.operators = operators

    def construct(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.operators.linear(x, self.weight, self.bias, rows)

    def add(self, x: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return self.operators.linear_add(x, self.weight, self.bias, residual, rows)

    def quick_gelu(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.operators.linear_quick_gelu(x, self.weight, self.bias, rows)

    def gelu(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.operators.linear_gelu(x, self.weight, self.bias, rows)


class Gate(nn.Cell):
    """silu(gate x) * up x, [rows, in] -> [rows, out], from the published layers gate_proj and up_proj of ``name``."""

    def __init__(self, weights: Loader, name: str, operators: Operators, outputs: int) -> None:
        super().__init__(auto_prefix=False)
        whole, (gate, up) = f"{name}.gate_proj+up_proj", (f"{name}.gate_proj", f"{name}.up_proj")
        self.weight = weights.parameter(
            f"{whole}.weight",
            [f"{gate}.weight", f"{up}.weight"],
            lambda weights: operators.pack_gate(weights[f"{gate}.weight"], weights[f"{up}.weight"]),
        )
        self.bias = bias(weights, whole, [gate, up], 2 * outputs)
        self.operators = operators

    def construct(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.operators.gate(x, self.weight, self.bias, rows)


class RMSNorm(nn.Cell):
    """RMSNorm over the last axis in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, weights: Loader, name: str, operators: Operators, eps: float) -> None:
        super().__init__(auto_prefix=False)
        self.weight = weights.vector(f"{name}.weight")
        self.eps = Tensor([eps], ms.float32)
        self.operators = operators

    def construct(self, x: Tensor) -> Tensor:
        return self.operators.rms_norm(x, self.weight, self.eps)

    def tensors(self) -> tuple[Parameter, ...]:
        """Return the weights in the order of the fused operator."""
        return (self.weight,)


class LayerNorm(nn.Cell):
    """LayerNorm over the last axis in float32 (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, weights: Loader, name: str, operators: Operators) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = weights.vector(f"{name}.weight"), weights.vector(f"{name}.bias")
        self.operators = operators

    def construct(self, x: Tensor) -> Tensor:
        return self.operators.layer_norm(x, self.weight, self.bias)

    def tensors(self) -> tuple[Parameter, ...]:
        """Return the weights in the order of the fused operator."""
        return self.weight, self.bias
