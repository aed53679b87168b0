"""The cells that are compiled: networks with a backend and its slots, from flat inputs to tokens."""

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn

from mindnlp_ocr.backends.base import Backend
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.overflow import all_finite
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.vision import VisionTower


class Vision(nn.Cell):
    """The vision tower for packed images; it takes ``cu_windows`` if blocks have windows."""

    def __init__(self, tower: VisionTower, backend: Backend) -> None:
        super().__init__(auto_prefix=False)
        self.tower = tower
        self.backend = backend

    def construct(
        self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, cu_windows: Tensor | None = None
    ) -> Tensor:
        return self.tower(patches, cos, sin, cu_seqlens, cu_windows, self.backend)[-1]


class Prefill(nn.Cell):
    """The prefill: runs prompts, or the rest of each, and writes their keys and values to the slots."""

    def __init__(self, language: LanguageModel, backend: Backend, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.backend = backend
        self.kv = kv

    def construct(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        slots: Tensor,
        cached: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = self.language.prefill(
            token_ids, image_rows, is_image, position_ids, (slots, cached, count), self.backend, self.kv
        )[0]
        tokens, log_probabilities = self.language.operators.choose(logits)
        return tokens, log_probabilities, logits, all_finite(logits)


class Decode(nn.Cell):
    """A decode step: one more token in some slots."""

    def __init__(self, language: LanguageModel, backend: Backend, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.backend = backend
        self.kv = kv

    def construct(
        self, token_ids: Tensor, position_ids: Tensor, slots: Tensor, cached: Tensor, count: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, log_probabilities, logits = self.language.decode(
            token_ids, position_ids, (slots, cached, count), rows, self.backend, self.kv
        )
        return tokens, log_probabilities, logits, all_finite(logits)


class DecodeSteps(nn.Cell):
    """Several decode steps in one call, if the backend has an operator for it."""

    def __init__(self, language: LanguageModel, backend: Backend, kv: KVSlots, ends: Sequence[int]) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.backend = backend
        self.layers = language.layer_tensors(kv)
        self.ends = Tensor(np.asarray(ends, np.int32))

    def construct(
        self, token_ids: Tensor, position_ids: Tensor, slots: Tensor, cached: Tensor, count: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, log_probabilities, logits = self.backend.greedy_decode(
            self.language, token_ids, position_ids, (slots, cached, count), self.ends, self.layers
        )
        return tokens, log_probabilities, logits, all_finite(logits)
