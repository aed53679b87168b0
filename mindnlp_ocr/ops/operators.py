"""Matrix products with weights, norms and the embedding, with MindSpore's operators and with our CPU operators.

Weights are packed once, when they are loaded, in the layout of the operators.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.ops import activation as activations
from mindnlp_ocr.ops import linear as products
from mindnlp_ocr.ops import native, packing
from mindnlp_ocr.ops import norm as norms
from mindnlp_ocr.weights.quantize import Quantized, Source, WeightDtype, dequantize

Array = NDArray[Any]


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely token of each row of logits, int32 [rows], and its log-probability, float32 [rows]."""
    above = logits - ops.expand_dims(ops.amax(logits, -1), -1)
    return ops.argmax(logits, -1).astype(ms.int32), -ops.log(ops.exp(above).sum(-1))


class Operators(nn.Cell):
    """The definition of the operators. ``rows`` int32 [1] is the number of rows without padding; padding gives no valid
    results.

    All x are float32 [rows, in], all results float32 [rows, out].
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    weight_dtype: WeightDtype = "fp32"

    def for_logits(self) -> "Operators":
        """Return the operators for a head that is not tied to the embedding."""
        return self

    def pack(self, weight: Source) -> Array:
        """Pack a published weight [out, in] in any float dtype or in 8 bits."""
        return products.pack(_float32(weight))

    def pack_gate(self, gate: Source, up: Source) -> Array:
        """Pack two weights [inner, in] for :meth:`gate`."""
        return products.pack(np.concatenate([_float32(gate), _float32(up)]))

    def pack_table(self, table: Source) -> Array:
        """Pack an embedding [vocab, hidden] for :meth:`embed` and :meth:`tied_head`."""
        return _float32(table)[None]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return products.linear_bias(x, weight, bias)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + products.linear_bias(x, weight, bias)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return activations.quick_gelu(products.linear_bias(x, weight, bias))

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return activations.gelu(products.linear_bias(x, weight, bias))

    def gate(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        """Return silu(x gate) * (x up); ``bias`` contains the biases of gate, followed by those of up."""
        gate, up = products.halves(products.linear_bias(x, weight, bias))
        return activations.silu_gate(gate, up)

    def embed(self, token_ids: Tensor, table: Tensor) -> Tensor:
        return products.embed(token_ids, table)

    def tied_head(self, x: Tensor, table: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return products.tied_head(x, table)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely token of each row, int32 [rows], and its log-probability, float32 [rows]."""
        return most_likely(logits)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        return norms.rms_norm(x, weight, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return norms.layer_norm(x, weight, bias)


class CpuOperators(Operators):
    """Our CPU operators (kernels/cpu/linear.cc), with which the result of a row does not depend on other rows.

    Args:
        dtype: dtype of the weights. Sums and all else are float32; with int8 weights, rows are also quantized to 8 bits.
    """

    def __init__(self, dtype: WeightDtype = "fp32") -> None:
        super().__init__()
        self.weight_dtype = dtype
        self.linear_op = native.linear("Linear")
        self.linear_add_op = native.linear("LinearAdd")
        self.linear_quick_gelu_op = native.linear("LinearQuickGelu")
        self.linear_gelu_op = native.linear("LinearGelu")
        self.gate_op = native.linear("LinearSiluGate")
        self.embed_op, self.rms_norm_op, self.layer_norm_op = native.embed(dtype), native.rms_norm(), native.layer_norm()
        self.choose_op = native.choose()
        self.layer_norm_eps = Tensor([norms.NORM_EPS], ms.float32)

    def pack(self, weight: Source) -> Array:
        return packing.pack(weight, self.weight_dtype)

    def pack_gate(self, gate: Source, up: Source) -> Array:
        return packing.pack_gate(gate, up, self.weight_dtype)

    def pack_table(self, table: Source) -> Array:
        return self.pack(table)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return self.linear_op(x, weight, bias, rows)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        return self.linear_add_op(x, weight, bias, residual, rows)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return self.linear_quick_gelu_op(x, weight, bias, rows)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return self.linear_gelu_op(x, weight, bias, rows)

    def gate(self, x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return self.gate_op(x, weight, bias, rows)

    def embed(self, token_ids: Tensor, table: Tensor) -> Tensor:
        return self.embed_op(token_ids, table)

    def tied_head(self, x: Tensor, table: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        return self.linear_op(x, table, bias, rows)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        tokens, log_probabilities = self.choose_op(logits)
        return tokens, log_probabilities

    def rms_norm(self, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        return self.rms_norm_op(x, weight, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.layer_norm_op(x, weight, bias, self.layer_norm_eps)


def _float32(weight: Source) -> NDArray[np.float32]:
    return dequantize(weight) if isinstance(weight, Quantized) else weight.astype(np.float32, copy=False)
