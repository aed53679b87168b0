"""Products with weights, norms and the embedding: MindSpore's own operators, and ours for a CPU.

A weight is packed once, when it is loaded, in the form that its operators read.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.ops import activation as activations
from mindnlp_ocr.ops import linear as products
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops import norm as norms

Array = NDArray[np.float32]
PANEL = 32  # outputs side by side: kPanel of kernels/cpu/kernels.h


class Operators(nn.Cell):
    """The definition. ``live`` int32 [1] says how many rows are not padding; what comes of padding has no meaning.

    All x are float32 [rows, in], all results float32 [rows, out].
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def pack(self, weight: Array) -> Array:
        """A published weight [out, in]."""
        return products.pack(weight)

    def pack_gate(self, gate: Array, up: Array) -> Array:
        """Two weights [inner, in] for :meth:`gate`."""
        return products.pack(np.concatenate([gate, up]))

    def pack_table(self, table: Array) -> Array:
        """An embedding [vocab, hidden] for :meth:`embed` and :meth:`tied_head`."""
        return table[None]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return products.linear_bias(x, weight, bias)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, live: Tensor) -> Tensor:
        return residual + products.linear_bias(x, weight, bias)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return activations.quick_gelu(products.linear_bias(x, weight, bias))

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return activations.gelu(products.linear_bias(x, weight, bias))

    def gate(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        """silu(x gate) * (x up); ``bias`` is zero and has as many elements as the result columns."""
        gate, up = products.halves(products.linear(x, weight))
        return activations.silu_gate(gate, up)

    def embed(self, token_ids: Tensor, table: Tensor) -> Tensor:
        return products.embed(token_ids, table)

    def tied_head(self, x: Tensor, table: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return products.tied_head(x, table)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        return norms.rms_norm(x, weight, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return norms.layer_norm(x, weight, bias)


class CpuOperators(Operators):
    """On our own operators (kernels/cpu/linear.cc): a row's bits depend on its own row alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_op = native.linear("Linear")
        self.linear_add_op = native.linear("LinearAdd")
        self.linear_quick_gelu_op = native.linear("LinearQuickGelu")
        self.linear_gelu_op = native.linear("LinearGelu")
        self.gate_op = native.linear("LinearSiluGate")
        self.embed_op, self.rms_norm_op, self.layer_norm_op = native.embed(), native.rms_norm(), native.layer_norm()
        self.layer_norm_eps = Tensor([norms.LAYER_NORM_EPS], ms.float32)

    def pack(self, weight: Array) -> Array:
        """[out, in] as [panels, in, PANEL], the last panel filled up with zeros."""
        out, width = weight.shape
        if out % PANEL:
            weight = np.concatenate([weight, np.zeros((-out % PANEL, width), np.float32)])
        return np.ascontiguousarray(weight.reshape(-1, PANEL, width).transpose(0, 2, 1))

    def pack_gate(self, gate: Array, up: Array) -> Array:
        """Panels of gate and up in turns, so that what is multiplied is computed together."""
        both = np.stack([self.pack(gate), self.pack(up)], 1)
        return both.reshape(-1, *both.shape[2:])

    def pack_table(self, table: Array) -> Array:
        return self.pack(table)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return self.linear_op(x, weight, bias, live)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, live: Tensor) -> Tensor:
        return self.linear_add_op(x, weight, bias, residual, live)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return self.linear_quick_gelu_op(x, weight, bias, live)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return self.linear_gelu_op(x, weight, bias, live)

    def gate(self, x: Tensor, weight: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return self.gate_op(x, weight, bias, live)

    def embed(self, token_ids: Tensor, table: Tensor) -> Tensor:
        return self.embed_op(token_ids, table)

    def tied_head(self, x: Tensor, table: Tensor, bias: Tensor, live: Tensor) -> Tensor:
        return self.linear_op(x, table, bias, live)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        return self.rms_norm_op(x, weight, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.layer_norm_op(x, weight, bias, self.layer_norm_eps)
