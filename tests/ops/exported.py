"""A Cell in a file of its own, as graph code must be: the three operators in one MindIR."""

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindnlp_ocr.ops import native


class ThreeShapes(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.vision, self.prefill, self.decode = native.flash_vision(), native.flash_prefill(), native.flash_decode()
        rows = np.random.default_rng(0).standard_normal((2 * 50, 16)).astype(np.float32)
        self.keys, self.values = Parameter(Tensor(rows), name="keys"), Parameter(Tensor(rows), name="values")

    def construct(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, live: Tensor, held: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        new = self.decode(q[None, :1], k[None, :1], v[None, :1], self.keys, self.values, held, held // held)
        return self.vision(q, q, q, cu_seqlens), self.prefill(q, k, v, live), new
