"""Attention on our own tiled CPU operators (kernels/cpu/flash_attention.cc): memory O(tokens), not O(tokens^2)."""

from typing import Any

from mindspore import Parameter, Tensor

from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.attention import EagerAttention

PACKED_PROMPTS = 32  # in one prefill call


class FlashAttention(EagerAttention):
    """As :class:`EagerAttention`, on the tensors' live parts alone; answers for padding are zero.

    float32, float16 and bfloat16, sums in float32; head_dim a multiple of 8 up to 256. A row's bits depend on its own query
    and keys alone: not on its neighbours in the batch, nor on the number of threads.
    """

    decode_steps = 32
    packed_images = 32

    def __init__(self, heads: int, kv_heads: int, head_dim: int, fused: bool = True) -> None:
        """``fused``: whole decoder layers and steps are one operator, which a sum over ranks would have to cut."""
        super().__init__(heads, kv_heads, head_dim)
        self.vision_op = native.flash_vision()
        self.decode_op = native.flash_decode()
        self.vision_block = native.vision_block()
        if fused:
            self.decoder_layer = native.decoder_layer()
            self.packed_prompts = PACKED_PROMPTS
            self.greedy_decode = native.greedy_decode(self.decode_steps)
        else:
            self.decode_steps = 1

    def slot_tensor(self, x: Tensor) -> Tensor:
        return x

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        return cu_seqlens

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return self.vision_op(q, k, v, mask)

    def extend_mask(
        self, kv_shape: tuple[int, int, int, int], tokens: int, slots: Tensor, live: Tensor, count: Tensor
    ) -> Any:
        return slots, live, count

    def extend(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        return self.decode_op(q, k, v, keys, values, mask[0], mask[1], mask[2])

    def score_bytes(self, tokens: int) -> int:
        """Nothing worth counting: scores exist a tile at a time."""
        return 0
