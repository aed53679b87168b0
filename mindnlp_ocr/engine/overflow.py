"""Which part of the network first gave numbers that are not finite: looked for only when the logits are not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.vision import VisionTower

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


def vision_parts(tower: VisionTower) -> dict[str, nn.Cell]:
    """Those of the vision tower, in the order in which they run."""
    blocks = {f"visual.blocks.{i}": block for i, block in enumerate(tower.blocks)}
    return {"visual.patch_embed": tower.patch_embed, **blocks, "visual.merger": tower.merger}


def language_parts(language: LanguageModel) -> dict[str, nn.Cell]:
    """Those of the language model, in the order in which they run. A backend that fuses layers runs no part of one."""
    parts: dict[str, nn.Cell] = {}
    for i, layer in enumerate(language.layers):
        name = f"model.layers.{i}"
        parts |= {f"{name}.self_attn": layer.self_attn, f"{name}.mlp": layer.mlp, name: layer}
    return parts


def first_overflow(graph: nn.Cell, parts: Mapping[str, nn.Cell], inputs: Sequence[Tensor], rows: int, last: str) -> str:
    """The first part of whose results some are not finite, in the rows that are no padding.

    The network runs once more, operator by operator, and each of its parts is looked at.

    Args:
        graph: what was compiled, over the same weights and slots.
        rows: of ``inputs`` that are no padding. A part may make one row of several.
        last: what runs behind all parts.
    """
    found: list[str] = []
    padded = len(inputs[0])

    def look(name: str) -> Any:
        def hook(cell: nn.Cell, given: Any, result: Tensor) -> None:
            live = max(1, rows * result.shape[0] // padded)
            if not np.isfinite(result.asnumpy()[:live]).all():
                found.append(name)

        return hook

    hooks = [part.register_forward_hook(look(name)) for name, part in parts.items()]
    try:
        graph(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else last
