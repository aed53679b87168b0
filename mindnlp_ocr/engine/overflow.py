"""Search for the part of the network that first produced values that are not finite, if the logits are not finite."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindnlp_ocr.backends.base import Backend
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.compiled import forget, phases
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.vision import VisionTower

_row_sum = ops.ReduceSum()


class OverflowedError(PageError):
    """The network produced values that are not finite; the slot may contain some of them."""


def overflowed(part: str, dtype: str) -> OverflowedError:
    """Create the error for the part of the network in which they began, and for the dtype of the weights."""
    remedy = {
        "fp16": "the limit of float16 is 65504: use --dtype bf16 or fp32, and --kv-dtype bf16 with flash attention",
        "bf16": "use --dtype fp32, and --kv-dtype bf16 with flash attention",
    }.get(dtype, "check whether the checkpoint itself contains such values, and copy it again")
    return OverflowedError(
        f"{part} produced values that are not finite (weights in {dtype}): {remedy}", code="values_not_finite"
    )


def all_finite(x: Tensor) -> Tensor:
    """Return whether each row of [rows, n] is finite, bool [rows], from the sum of the row."""
    return ops.isfinite(_row_sum(x, -1))


class VisionProbe(nn.Cell):
    """Checks whether the rows of each part of the vision tower are finite."""

    def __init__(self, tower: VisionTower, backend: Backend) -> None:
        super().__init__(auto_prefix=False)
        self.tower, self.backend = tower, backend
        self.names = tower.part_names()

    def construct(
        self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, cu_windows: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        parts = self.tower(patches, cos, sin, cu_seqlens, cu_windows, self.backend)
        return tuple([all_finite(x) for x in parts])


class PrefillProbe(nn.Cell):
    """Checks whether the rows of each part of the language model are finite in a prefill."""

    def __init__(self, language: LanguageModel, backend: Backend, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language, self.backend, self.kv = language, backend, kv
        self.names = ["the image features", *language.part_names(backend), "the head"]

    def construct(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        slots: Tensor,
        cached: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, ...]:
        step = (slots, cached, count)
        logits, parts = self.language.prefill(token_ids, image_rows, is_image, position_ids, step, self.backend, self.kv)
        return tuple([all_finite(x) for x in (image_rows, *parts, logits)])


def first_overflow(probe: Any, inputs: Sequence[Tensor], rows: int) -> str:
    """Return the first part of a probe in which one of the first ``rows`` rows is not finite."""
    before = phases()
    found = [x.asnumpy() for x in ms.jit(probe)(*inputs)]
    forget(phases() - before)
    # A row of the merger is four patches, and the head has one row.
    sound = [finite[: max(1, rows * len(finite) // len(found[0]))].all() for finite in found]
    return next((part for part, finite in zip(probe.names, sound, strict=True) if not finite), "the network")
