"""Which part of the network first gave numbers that are not finite: looked for only when the logits are not."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.compiled import forget, phases
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.vision import VisionTower
from mindnlp_ocr.ops.attention import EagerAttention
from mindnlp_ocr.ops.rotary import per_head

_row_sum = ops.ReduceSum()


class OverflowedError(PageError):
    """The network gave numbers that are not finite; the slot may hold some."""


def overflowed(part: str, dtype: str) -> OverflowedError:
    """The error of a part of the network, where they began, and of the dtype that weights are held in."""
    remedy = {
        "fp16": "float16 ends at 65504: use --dtype bf16 or fp32, and --kv-dtype bf16 with flash attention",
        "bf16": "use --dtype fp32, and --kv-dtype bf16 with flash attention",
    }.get(dtype, "look whether the checkpoint itself holds such numbers, and copy it again")
    return OverflowedError(f"{part} gives numbers that are not finite (weights in {dtype}): {remedy}")


def all_finite(x: Tensor) -> Tensor:
    """bool [rows], whether each of the rows [rows, n] is finite, which its sum tells."""
    return ops.isfinite(_row_sum(x, -1))


def _noted(found: Any, x: Tensor) -> Any:
    return (*found, all_finite(x))


class LanguageProbe(nn.Cell):
    """What a prefill does, part by part: after each, whether the rows are finite."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language, self.attention, self.kv = language, attention, kv
        layers = [f"model.layers.{i}" for i in range(len(language.layers))]
        if attention.decoder_layer is None:
            layers = [f"{layer}.{part}" for layer in layers for part in ("self_attn", "mlp")]
        self.parts = ["the image features", "model.embed_tokens", *layers, "the head"]

    def construct(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        slots: Tensor,
        live: Tensor,
        count: Tensor,
    ) -> Any:
        language, attention, kv = self.language, self.attention, self.kv
        x = language.operators.embed(token_ids, language.embed_tokens) * (1.0 - is_image) + image_rows * is_image
        found = _noted(_noted((), image_rows), x)
        cos, sin = language.rotary(position_ids)
        if attention.decoder_layer is not None:
            for layer in language.layers:
                x = layer.fused(x, cos, sin, slots, live, count, attention, kv)
                found = _noted(found, x)
        else:
            mask = attention.extend_mask(kv.shape, x.shape[0], slots, live, count)
            cos, sin = per_head(cos, language.heads), per_head(sin, language.heads)
            for layer in language.layers:
                x = layer.self_attn(layer.input_layernorm(x), x, cos, sin, 1, count, attention, mask, kv)
                found = _noted(found, x)
                x = layer.mlp(layer.post_attention_layernorm(x), x, count)
                found = _noted(found, x)
        return _noted(found, language.head(ops.gather(x, count - 1, 0), language.one_row))


class VisionProbe(nn.Cell):
    """What the vision tower does, part by part: after each, whether the rows are finite."""

    def __init__(self, tower: VisionTower, attention: EagerAttention) -> None:
        super().__init__(auto_prefix=False)
        self.tower, self.attention = tower, attention
        self.parts = ["visual.patch_embed", *(f"visual.blocks.{i}" for i in range(len(tower.blocks))), "visual.merger"]

    def construct(self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> Any:
        tower, attention = self.tower, self.attention
        live = cu_seqlens[-1:]
        x = tower.patch_embed(patches, live)
        found = _noted((), x)
        if attention.vision_block is not None:
            for block in tower.blocks:
                x = block.fused(x, cos, sin, cu_seqlens, attention)
                found = _noted(found, x)
        else:
            mask = attention.vision_mask(patches.shape[0], cu_seqlens)
            cos, sin = per_head(cos, 2 * tower.heads), per_head(sin, 2 * tower.heads)
            for block in tower.blocks:
                x = block(x, cos, sin, attention, mask, live)
                found = _noted(found, x)
        return _noted(found, tower.merger(x, live))


def first_overflow(probe: Any, inputs: Sequence[Tensor], rows: int) -> str:
    """The first part of a probe of whose first ``rows`` rows some are not finite."""
    before = phases()
    found = [x.asnumpy() for x in ms.jit(probe)(*inputs)]
    forget(phases() - before)
    # Of the merger a row is four patches, of the head there is one.
    sound = [finite[: max(1, rows * len(finite) // len(found[0]))].all() for finite in found]
    return next((part for part, finite in zip(probe.parts, sound, strict=True) if not finite), "the network")
