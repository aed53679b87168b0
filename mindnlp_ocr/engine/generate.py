"""One request under way, and what was read."""

import time
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.lease import Lease
from mindnlp_ocr.engine.graphs import NewToken, Step
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.processing.chat import Prompt

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Reading:
    """What was read, and how.

    Attributes:
        text: the decoded text without special tokens.
        token_ids: the new tokens; the last is the end token when ``finish_reason`` is "stop".
        logprobs: the natural logarithm of each new token's probability. On our CPU operators its bits do not depend on how
            the request ran: alone, in a batch, or behind a cached prefix.
        finish_reason: "stop": the model ended the text; "length": ``max_new_tokens``, or the slot or the positions ran out.
        prompt_tokens: tokens of the prompt, those of its images included.
        reused_tokens: of those, the ones whose keys and values were in the cache.
        timings_ms: preprocess, vision, prefill, decode and total, in milliseconds. Requests that share a call each count an
            equal part of it; total is the time from the request to its end.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    timings_ms: dict[str, float]

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(eq=False)
class Generation:
    """A prompt on its way to its text. The engine moves it on; positions and the live length belong to it alone.

    Raises:
        PageError: the prompt leaves no room in the slot for one new token, or reaches positions that the checkpoint does
            not know.
    """

    config: Qwen2VLConfig
    prompt: Prompt
    max_new_tokens: int
    max_length: int
    base: str = ""  # of the prompt's key, as long as it waits
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    reused: int = 0
    lease: Lease | None = None
    features: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)  # by the digests of images
    started: float = field(default_factory=time.perf_counter)
    timings_ms: dict[str, float] = field(default_factory=dict)
    steps: list[Step] | None = None  # set to [] to keep every step with its logits

    def __post_init__(self) -> None:
        tokens = len(self.prompt.token_ids)
        if tokens >= self.max_length:
            raise PageError(
                f"the prompt has {tokens} tokens, a slot holds {self.max_length} with the answer: "
                "raise --max-length or lower --max-pixels"
            )
        grids = [image.grid_thw for image in self.prompt.images]
        merge = self.config.vision.spatial_merge_size
        self.positions = mrope_positions(self.prompt.token_ids, grids, self.config.image_token_id, merge)
        if (last := int(self.positions.ids.max())) >= self.config.max_position_embeddings:
            raise PageError(
                f"the prompt reaches position {last}, the checkpoint knows {self.config.max_position_embeddings}: shorten it"
            )
        self.key = PrefixKey(self.base, self.prompt.token_ids, tuple(self._spans()))

    def _spans(self) -> list[ImageSpan]:
        spans, end = [], 0
        is_image = self.prompt.token_ids == self.config.image_token_id
        for image in self.prompt.images:
            start = end + int(np.argmax(is_image[end:]))
            end = start + int(np.prod(image.grid_thw)) // self.config.vision.spatial_merge_size**2
            spans.append(ImageSpan(start, end - start, image.digest))
        return spans

    def rebase(self, base: str) -> None:
        """What the key depends on may have changed while the request waited: so may the features of its images."""
        if base != self.key.base:
            self.key = replace(self.key, base=base)
            self.features.clear()

    @property
    def live(self) -> int:
        """Tokens whose keys and values the slot holds: all but the newest."""
        return len(self.prompt.token_ids) + len(self.token_ids) - 1

    @property
    def held(self) -> PrefixKey:
        """What the slot holds."""
        return self.key.extended(self.token_ids[:-1])

    def missing(self, reused: int) -> list[int]:
        """The images, by number, that a prefill behind so many tokens needs."""
        return [number for number, span in enumerate(self.key.images) if span.start >= reused]

    def take(self, step: Step) -> None:
        """The next tokens; ends the text where it has to end."""
        self.token_ids += step.token_ids
        self.logprobs += step.logprobs
        if self.steps is not None:
            self.steps.append(step)
        if step.token_id in self.config.eos_token_ids:
            self.finish_reason = "stop"
        elif self.room == 0:
            self.finish_reason = "length"

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        tokens = len(self.prompt.token_ids) + len(self.token_ids)
        return min(
            self.max_new_tokens - len(self.token_ids),
            self.max_length + 1 - tokens,  # the last token's keys and values need no row
            self.config.max_position_embeddings + 1 - tokens - self.positions.delta,
        )

    def newest(self, count: int) -> NewToken:
        """What the next decode steps run: the newest token, behind all others, and up to ``count`` that follow."""
        assert self.lease is not None
        if self.steps is not None:
            count = 1  # whoever keeps steps wants the logits of each
        return NewToken(
            self.token_ids[-1], self.live + self.positions.delta, self.lease.slot, self.live, min(count, self.room)
        )

    def whole(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Prompt and new tokens, and their positions [3, tokens]."""
        count = len(self.token_ids)
        new = len(self.prompt.token_ids) + self.positions.delta + np.arange(count, dtype=np.int32)
        return (
            np.append(self.prompt.token_ids, np.asarray(self.token_ids, np.int32)),
            np.concatenate([self.positions.ids, np.tile(new, (3, 1))], 1),
        )
