"""A cell with all of our operators, for export to MindIR. Graph code must be in a separate file."""

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindnlp_ocr.ops import native


class EveryOperator(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.vision, self.extend = native.flash_vision(), native.flash_decode()
        self.linear, self.gate = native.linear("Linear"), native.linear("LinearSiluGate")
        self.rms_norm, self.layer_norm, self.embed = native.rms_norm(), native.layer_norm(), native.embed()
        random = np.random.default_rng(0)

        def parameter(name: str, *shape: int) -> Parameter:
            return Parameter(Tensor(random.standard_normal(shape).astype(np.float32)), name=name, requires_grad=False)

        self.keys, self.values = parameter("keys", 3, 2, 50, 16), parameter("values", 3, 2, 50, 16)
        self.weight, self.gate_up, self.table = (
            parameter("w", 2, 64, 32),
            parameter("g", 4, 64, 32),
            parameter("t", 2, 8, 32),
        )
        self.bias, self.scale, self.biases = parameter("b", 40), parameter("s", 40), parameter("bb", 80)
        self.eps = Tensor(np.array([1e-6], np.float32))

    def construct(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, slots: Tensor, live: Tensor, count: Tensor, ids: Tensor
    ) -> tuple[Tensor, ...]:
        """q [tokens, 4, 16]; k, v [tokens, 2, 16]."""
        attended = self.extend(q[None], k[None], v[None], self.keys, self.values, slots, live, count)
        x = self.linear(q.reshape(q.shape[0], 64), self.weight, self.bias, count)
        norms = self.rms_norm(x, self.scale, self.eps), self.layer_norm(x, self.scale, self.bias, self.eps)
        gated = self.gate(q.reshape(q.shape[0], 64), self.gate_up, self.biases, count)
        return self.vision(q, q, q, cu_seqlens), attended, x, gated, *norms, self.embed(ids, self.table)
