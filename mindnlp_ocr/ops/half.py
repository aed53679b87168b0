"""Matrix products with 16-bit weights on MindSpore's own operators; all else is float32."""

from typing import Any, Literal

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops import activation as activations
from mindnlp_ocr.ops import linear as products
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.weights.quantize import Source

_DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
_bias_add = ops.BiasAdd()


class HalfOperators(Operators):
    """:class:`Operators` with weights and products in float16 or bfloat16.

    Values that overflow or are rounded too coarsely in 16 bits with the published model are float32: the residual stream,
    norms, biases, activations and logits. For the logits, the head (and an embedding that is tied to it) is float32, too.

    Raises:
        SetupError: a weight exceeds the range of float16.
    """

    def __init__(self, dtype: Literal["fp16", "bf16"]) -> None:
        super().__init__()
        self.weight_dtype = dtype

    def for_logits(self) -> Operators:
        return Operators()

    def pack(self, weight: Source) -> NDArray[Any]:
        return self._rounded(super().pack(weight))

    def pack_gate(self, gate: Source, up: Source) -> NDArray[Any]:
        return self._rounded(super().pack_gate(gate, up))

    def _rounded(self, weight: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            rounded: NDArray[Any] = weight.astype(_DTYPES[self.weight_dtype])
        if self.weight_dtype == "fp16" and (beyond := np.isinf(rounded) & np.isfinite(weight)).any():
            raise SetupError(
                f"a weight of the checkpoint is {float(weight[beyond][0]):g}, but the limit of float16 is 65504: use dtype "
                "bf16 or fp32",
                code="fp16_overflow",
            )
        return rounded

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return products.linear(x.astype(weight.dtype), weight).astype(ms.float32)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return _bias_add(self.product(x, weight), bias)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + _bias_add(self.product(x, weight), bias)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return activations.quick_gelu(_bias_add(self.product(x, weight), bias))

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return activations.gelu(_bias_add(self.product(x, weight), bias))

    def gate(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        gate, up = products.halves(_bias_add(self.product(x, weight), bias))
        return activations.silu_gate(gate, up)
