"""The backend for our CPU operators (kernels/cpu): tiled attention in O(tokens) memory, and fused blocks and layers."""

from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor

from mindnlp_ocr.backends.base import StepContext, StepInputs, VisionContext
from mindnlp_ocr.backends.eager import EagerBackend
from mindnlp_ocr.ops import native

PACKED_PROMPTS = 32  # per prefill call
DECODE_STEPS = 32


class CpuBackend(EagerBackend):
    """The counterpart of :class:`EagerBackend`. Rows of padding are skipped, and their results are zero.

    It supports float32, float16 and bfloat16 with sums in float32, and head sizes that are multiples of 8 up to 256. The
    bits of a row depend only on its own query and keys, not on the batch or the number of threads.
    """

    fuses_vision = True
    packed_images = 32

    def __init__(self, heads: int, kv_heads: int, head_dim: int, fused: bool = True) -> None:
        """Create the operators. ``fused``: run whole decoder layers and steps as one operator, which a split model
        cannot."""
        super().__init__(heads, kv_heads, head_dim)
        self.vision_op, self.decode_op = native.flash_vision(), native.flash_decode()
        self.vision_block_op, self.gated_vision_block_op = native.vision_block(), native.vision_block(gated=True)
        self.fuses_layers = fused
        if fused:
            self.packed_prompts, self.decode_steps = PACKED_PROMPTS, DECODE_STEPS
            self.decoder_layer_op, self.greedy_decode_op = native.decoder_layer(), native.greedy_decode(DECODE_STEPS)

    def slot_tensor(self, x: Tensor) -> Tensor:
        return x

    def score_bytes(self, tokens: int) -> int:
        return 0

    # Packed images

    def vision_context(self, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> VisionContext:
        if not self.fuses_vision:
            return EagerBackend.vision_context(self, cos, sin, cu_seqlens)
        return cos, sin, cu_seqlens, cu_seqlens[-1:]

    def vision_block(self, block: Any, x: Tensor, context: VisionContext) -> Tensor:
        cos, sin, cu_seqlens, _ = context
        run = self.gated_vision_block_op if block.gated else self.vision_block_op
        return run(x, cos, sin, cu_seqlens, *block.tensors())

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        return cu_seqlens

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return self.vision_op(q, k, v, mask)

    # New tokens over the slots

    def step_context(
        self, cos: Tensor, sin: Tensor, step: StepInputs, rows: Tensor, kv_shape: tuple[int, int, int, int]
    ) -> StepContext:
        if not self.fuses_layers:
            return EagerBackend.step_context(self, cos, sin, step, rows, kv_shape)
        return cos, sin, step, rows, step[0].shape[0]

    def decoder_layer(self, layer: Any, x: Tensor, keys: Parameter, values: Parameter, context: StepContext) -> Tensor:
        cos, sin, step, _, _ = context
        return self.decoder_layer_op(x, cos, sin, *step, layer.eps, *layer.tensors(), keys, values)

    def greedy_decode(
        self,
        language: Any,
        token_ids: Tensor,
        position_ids: Tensor,
        step: StepInputs,
        ends: Tensor,
        layers: ParameterTuple,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, log_probabilities, logits = self.greedy_decode_op(
            token_ids, position_ids, *step, ends, *language.outer_tensors(), *layers
        )
        return tokens, log_probabilities, logits

    def extend_mask(self, kv_shape: tuple[int, int, int, int], tokens: int, step: StepInputs) -> Any:
        return step

    def extend(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        return self.decode_op(q, k, v, keys, values, *mask)
