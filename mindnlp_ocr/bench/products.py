"""Test cases of products, norms and the embedding: inputs, the expected result in float64, and a graph that runs them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.bench.reference import Array
from mindnlp_ocr.ops.norm import NORM_EPS
from mindnlp_ocr.ops.operators import Operators

Method = Literal[
    "linear", "linear_add", "linear_quick_gelu", "linear_gelu", "gate", "embed", "tied_head", "rms_norm", "layer_norm"
]
RMS_NORM_EPS = 1e-6


@dataclass(frozen=True)
class ProductCase:
    """A method of :class:`Operators` on ``rows`` rows of ``width`` numbers. ``out`` is the number of columns of a product's
    result, and of the tokens of an embedding table."""

    work: Method
    rows: int
    width: int
    out: int = 0

    def __str__(self) -> str:
        return f"{self.rows} x {self.width}" + (f" -> {self.out}" if self.out else "")

    def inputs(self, seed: int = 0) -> list[NDArray[Any]]:
        """Return the method's inputs without ``live``: float32, weights [out, in] as in checkpoints, token ids int32."""
        random = np.random.default_rng(seed)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.standard_normal(shape, np.float32)

        x, scale = normal(self.rows, self.width), np.float32(self.width**-0.5)
        if self.work == "rms_norm":
            return [x, normal(self.width)]
        if self.work == "layer_norm":
            return [x, normal(self.width), normal(self.width)]
        weight = normal(self.out, self.width)
        if self.work == "embed":
            return [random.integers(0, self.out, self.rows).astype(np.int32), weight]
        if self.work == "tied_head":
            return [x, weight * scale]
        if self.work == "gate":
            return [x, weight * scale, normal(self.out, self.width) * scale, normal(2 * self.out) / 4]
        residual = [normal(self.rows, self.out)] if self.work == "linear_add" else []
        return [x, weight * scale, normal(self.out), *residual]

    def expected(self, inputs: list[NDArray[Any]]) -> Array:
        """Return the expected answer in float64."""
        if self.work == "embed":
            return np.take(self._float64(inputs[1]), inputs[0], 0)
        x, weight, *others = (self._float64(array) for array in inputs)
        if self.work == "rms_norm":
            return _over_root(x, RMS_NORM_EPS) * weight
        if self.work == "layer_norm":
            return _over_root(x - x.mean(-1, keepdims=True), NORM_EPS) * weight + others[0]
        y: Array = x @ weight.T
        if self.work == "tied_head":
            return y
        if self.work == "gate":
            gate, up = np.split(others[1], 2)
            return _times_sigmoid(y + gate, 1.0) * (x @ others[0].T + up)
        y = y + others[0]
        if self.work == "linear_quick_gelu":
            return _times_sigmoid(y, 1.702)
        if self.work == "linear_gelu":
            return y * 0.5 * (1 + self._float64(np.vectorize(math.erf)(y / math.sqrt(2))))
        return y + others[1] if self.work == "linear_add" else y

    @staticmethod
    def _float64(array: NDArray[Any]) -> Array:
        return array.astype(np.float64)

    def tensors(self, operators: Operators, inputs: list[NDArray[Any]], live: int | None = None) -> list[Tensor]:
        """Return the method's arguments, with packed weights. The first ``live`` rows are not padding, by default all."""
        first, *others = inputs
        rows = [np.array([self.rows if live is None else live], np.int32)]
        if self.work == "gate":
            packed = [operators.pack_gate(*others[:2]), others[2]]
        elif self.work == "tied_head":
            packed = [operators.pack_table(others[0]), np.zeros(self.out, np.float32)]
        elif self.work == "embed":
            packed, rows = [operators.pack_table(others[0])], []
        elif self.work in ("rms_norm", "layer_norm"):
            packed, rows = others, [np.array([RMS_NORM_EPS], np.float32)] if self.work == "rms_norm" else []
        else:
            packed = [operators.pack(others[0]), *others[1:]]
        return [Tensor(array) for array in (first, *packed, *rows)]


class Call(nn.Cell):
    """A graph of one method of the operators."""

    def __init__(self, operators: Operators, method: Method) -> None:
        super().__init__(auto_prefix=False)
        self.operators, self.method = operators, method

    def construct(self, *arguments: Tensor) -> Tensor:
        return getattr(self.operators, self.method)(*arguments)


def compiled(
    case: ProductCase, operators: Operators, inputs: list[NDArray[Any]], live: int | None = None
) -> Callable[[], NDArray[np.float32]]:
    """Return a function without arguments that runs a case in one graph and returns its answer."""
    graph, tensors = ms.jit(Call(operators, case.work)), case.tensors(operators, inputs, live)
    return lambda: np.asarray(graph(*tensors).asnumpy())


def _over_root(x: Array, eps: float) -> Array:
    answer: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return answer


def _times_sigmoid(x: Array, slope: float) -> Array:
    answer: Array = x * (0.5 + 0.5 * np.tanh(0.5 * slope * x))  # this form never overflows
    return answer
