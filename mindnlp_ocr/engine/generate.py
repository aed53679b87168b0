"""The loop from a prompt to its text, greedy."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindnlp_ocr.engine.graphs import Graphs, Step
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
        finish_reason: "stop": the model ended the text; "length": ``max_new_tokens``, or the slot or the positions ran out.
        prompt_tokens: tokens of the prompt, those of its images included.
        timings_ms: preprocess, vision, prefill, decode and total, in milliseconds.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    timings_ms: dict[str, float]

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)


@dataclass
class Generation:
    """One request under way. Iterating gives its tokens as they come; then ``finish_reason`` and timings are set.

    Raises:
        PageError: the prompt leaves no room in the slot for one new token.
    """

    graphs: Graphs
    config: Qwen2VLConfig
    prompt: Prompt
    max_new_tokens: int
    max_length: int
    use_cache: bool
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    rope_delta: int = 0  # position of a new token minus its index; belongs to this request alone
    timings_ms: dict[str, float] = field(default_factory=dict)
    logits: list[Tensor] | None = None  # set to [] to keep the logits of every step

    def __post_init__(self) -> None:
        if len(self.prompt.token_ids) >= self.max_length:
            raise PageError(
                f"the prompt has {len(self.prompt.token_ids)} tokens, a slot holds {self.max_length} with the answer: "
                "raise --max-length or lower --max-pixels"
            )

    def __iter__(self) -> Iterator[int]:
        clock = time.perf_counter()
        features = [self.graphs.vision(image) for image in self.prompt.images]
        self.timings_ms["vision"], clock = _since(clock)
        step = self._run_whole(features)
        self.timings_ms["prefill"], clock = _since(clock)
        while True:
            self.token_ids.append(step.token_id)
            if self.logits is not None:
                self.logits.append(step.logits)
            self.timings_ms["decode"], _ = _since(clock)
            if step.token_id in self.config.eos_token_ids:
                self.finish_reason = "stop"
            yield step.token_id
            if self.finish_reason == "stop" or len(self.token_ids) == self.max_new_tokens or self._no_room():
                return
            step = self._run_newest() if self.use_cache else self._run_whole(features)

    def _no_room(self) -> bool:
        """The newest token has no row left to put its keys and values in, or no position that the checkpoint knows."""
        tokens = len(self.prompt.token_ids) + len(self.token_ids)
        return tokens > self.max_length or tokens + self.rope_delta > self.config.max_position_embeddings

    def _run_whole(self, features: list[NDArray[np.float32]]) -> Step:
        """Prompt and new tokens from the start: the first step, and every step without a cache."""
        sequence = np.append(self.prompt.token_ids, np.asarray(self.token_ids, np.int32))
        grids = [image.grid_thw for image in self.prompt.images]
        merge = self.config.vision.spatial_merge_size
        positions = mrope_positions(sequence, grids, self.config.image_token_id, merge)
        if (last := int(positions.ids.max())) >= self.config.max_position_embeddings:
            raise PageError(
                f"the prompt reaches position {last}, the checkpoint knows {self.config.max_position_embeddings}: shorten it"
            )
        self.rope_delta = positions.delta
        return self.graphs.prefill(sequence, features, positions.ids)

    def _run_newest(self) -> Step:
        """The newest token alone, over the keys and values in the slot."""
        live = len(self.prompt.token_ids) + len(self.token_ids) - 1
        return self.graphs.decode(self.token_ids[-1], live + self.rope_delta, live)


def _since(clock: float) -> tuple[float, float]:
    """Milliseconds since ``clock``, and the clock now."""
    now = time.perf_counter()
    return (now - clock) * 1e3, now
