"""Attention on our own tiled CPU operators (kernels/cpu/flash_attention.cc): memory O(tokens), not O(tokens^2)."""

from typing import Any

from mindspore import Parameter, Tensor

from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.attention import EagerAttention


class FlashAttention(EagerAttention):
    """As :class:`EagerAttention`, on the tensors' live parts alone; answers for padding are zero.

    float32, float16 and bfloat16, sums in float32; head_dim a multiple of 8 up to 256. A row's bits depend on its own query
    and keys alone: not on its neighbours in the batch, nor on the number of threads.
    """

    def __init__(self, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__(heads, kv_heads, head_dim)
        self.vision_op = native.flash_vision()
        self.prefill_op = native.flash_prefill()
        self.decode_op = native.flash_decode()
        self.decoder_layer = native.decoder_step()

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        return cu_seqlens

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return self.vision_op(q, k, v, mask)

    def prefill_mask(self, tokens: int, live: Tensor) -> Any:
        return live

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return self.prefill_op(q, k, v, mask)

    def decode_mask(self, kv_shape: tuple[int, int, int, int], tokens: int, live: Tensor, count: Tensor) -> Any:
        return live, count

    def decode(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        return self.decode_op(q, k, v, keys, values, mask[0], mask[1])

    def score_bytes(self, tokens: int) -> int:
        """Nothing worth counting: scores exist a tile at a time."""
        return 0
