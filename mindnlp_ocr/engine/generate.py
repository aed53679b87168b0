"""The state of a request, and its result."""

import time
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.lease import Lease
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.graphs import NewToken, Step
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.rope import mrope_positions
from mindnlp_ocr.processing.chat import Prompt, TextStream
from mindnlp_ocr.sampling import Choice, RepetitionGuard, Sampler, SamplingParams, StopStrings

GREEDY = SamplingParams()
FinishReason = Literal["stop", "length", "repetition"]


@dataclass(frozen=True)
class Reading:
    """The result of a request.

    Attributes:
        text: the decoded text without special tokens.
        token_ids: the new tokens; the last one is the end token if ``finish_reason`` is "stop".
        logprobs: the natural logarithm of the probability of each new token. With our CPU operators, it is bitwise the same
            whether the request ran alone, in a batch, or after a cached prefix.
        finish_reason: "stop": the model ended the text, or a stop string or stop token did; "length":
            ``max_new_tokens``, the end of the slot or the last position was reached; "repetition": the model repeated itself
            endlessly, and the tokens end after the first occurrence of the repeated unit.
        prompt_tokens: tokens of the prompt, including those of its images.
        reused_tokens: prompt tokens whose keys and values were in the cache.
        timings_ms: preprocess, vision, prefill, decode and total, in milliseconds. The time of a call is divided equally
            among its requests; total is the time from the submission of the request to its end.
        top_logprobs: for each new token, the ``SamplingParams.top_logprobs`` most probable tokens of its position with their
            log-probabilities; empty if none were requested.
        stop_reason: the stop string or the token of ``stop_token_ids`` that ended the text.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    timings_ms: dict[str, float]
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    stop_reason: str | int | None = None

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(eq=False)
class Generation:
    """The state of one request, which the engine advances. It has its own positions and live length.

    Args:
        sampling: the sampling parameters.
        sampler: chooses the tokens from the logits; None if ``sampling.plain_greedy``.
        stream: decodes the tokens incrementally; required for stop strings and for streaming.

    Raises:
        PageError: the prompt leaves no room in the slot for a new token, or exceeds the positions that the checkpoint
            supports.
    """

    config: ModelConfig
    prompt: Prompt
    max_new_tokens: int
    max_length: int
    base: str = ""  # base of the prompt's key while the request waits
    sampling: SamplingParams = GREEDY
    sampler: Sampler | None = None
    stream: TextStream | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    reused: int = 0
    computed: int = 0  # number of leading prompt tokens whose keys and values are in the slot
    lease: Lease | None = None
    features: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)  # by the digests of images
    started: float = field(default_factory=time.perf_counter)
    timings_ms: dict[str, float] = field(default_factory=dict)
    steps: list[Step] | None = None  # set to [] to keep every step with its logits

    def __post_init__(self) -> None:
        tokens = len(self.prompt.token_ids)
        if tokens >= self.max_length:
            raise PageError(
                f"the prompt has {tokens} tokens, but a slot holds {self.max_length} with the answer: "
                "raise --max-length or lower --max-pixels",
                code="context_length_exceeded",
            )
        grids = [image.grid_thw for image in self.prompt.images]
        merge = self.config.vision.spatial_merge_size
        self.positions = mrope_positions(self.prompt.token_ids, grids, self.config.image_token_id, merge)
        if (last := int(self.positions.ids.max())) >= self.config.max_position_embeddings:
            raise PageError(
                f"the prompt reaches position {last}, but the checkpoint supports "
                f"{self.config.max_position_embeddings}: shorten it",
                code="context_length_exceeded",
            )
        self.key = PrefixKey(self.base, self.prompt.token_ids, tuple(self._spans()))
        self.sampling.check_vocabulary(self.config.vocab_size)
        self.pieces: list[str] = []  # pieces of the text that can be shown
        self._stops = StopStrings(self.sampling.stop, self.sampling.include_stop_str_in_output)
        self._guard = RepetitionGuard() if self.sampling.repetition_guard else None

    def _spans(self) -> list[ImageSpan]:
        spans, end = [], 0
        is_image = self.prompt.token_ids == self.config.image_token_id
        for image in self.prompt.images:
            start = end + int(np.argmax(is_image[end:]))
            end = start + int(np.prod(image.grid_thw)) // self.config.vision.spatial_merge_size**2
            spans.append(ImageSpan(start, end - start, image.digest))
        return spans

    def rebase(self, base: str) -> None:
        """Update the base of the key, which may have changed while the request waited, and discard outdated features."""
        if base != self.key.base:
            self.key = replace(self.key, base=base)
            self.features.clear()

    @property
    def cached(self) -> int:
        """Number of tokens whose keys and values are in the slot: all except the newest."""
        return len(self.prompt.token_ids) + len(self.token_ids) - 1

    @property
    def held(self) -> PrefixKey:
        """The key of the contents of the slot."""
        return self.key.extended(self.token_ids[:-1])

    def missing(self, reused: int) -> list[int]:
        """Return the numbers of the images that a prefill after ``reused`` tokens needs."""
        return [number for number, span in enumerate(self.key.images) if span.start >= reused]

    def take(self, step: Step, sampled: Choice | None = None) -> None:
        """Append the tokens of a step, or the token sampled from its logits, and end the text if necessary.

        Args:
            sampled: the token, if a graph has already chosen it.

        Raises:
            PageError: the settings of the request ban all tokens.
        """
        if self.steps is not None:
            self.steps.append(step)
        if self.sampler is not None:
            chosen = [sampled or self.sampler.choose(step.numpy(), self.token_ids)]
        else:
            chosen = [Choice(*pair, []) for pair in zip(step.token_ids, step.logprobs, strict=True)]
        for choice in chosen:
            self._append(choice)
            if self.finish_reason is not None:
                break  # tokens of a burst after the end are dropped
        if self.finish_reason is None and self._guard and (start := self._guard.check(self.token_ids)) is not None:
            del self.token_ids[start:], self.logprobs[start:], self.top_logprobs[start:]
            self.finish_reason = "repetition"
        if self.finish_reason is not None and self.stream is not None and self._stops.stop is None:
            self._show(self.stream.end())
            self.pieces.append(self._stops.end())

    def _append(self, choice: Choice) -> None:
        self.token_ids.append(choice.token_id)
        self.logprobs.append(choice.logprob)
        if self.sampling.top_logprobs:
            self.top_logprobs.append(choice.top_logprobs)
        if choice.token_id in self.config.eos_token_ids and not self.sampling.ignore_eos:
            self.finish_reason = "stop"
        elif choice.token_id in self.sampling.stop_token_ids:
            self.finish_reason, self.stop_reason = "stop", choice.token_id
        elif self.room == 0:
            self.finish_reason = "length"
        if self.stream is not None:
            self._show(self.stream.feed(choice.token_id))

    def _show(self, piece: str) -> None:
        sent = self._stops.feed(piece, may_stop=len(self.token_ids) > self.sampling.min_new_tokens)
        self.pieces.append(sent.text)
        if sent.stop is not None:
            self.finish_reason, self.stop_reason = "stop", sent.stop

    @property
    def text(self) -> str:
        """The text that can be shown so far, if there is a ``stream``; it contains no part of a stop string."""
        return "".join(self.pieces)

    @property
    def cut_at(self) -> int | None:
        """The number of characters to keep of the text if a stop string ended it, else None."""
        return None if self._stops.stop is None else self._stops.length

    @property
    def room(self) -> int:
        """The number of tokens that can still be generated."""
        tokens = len(self.prompt.token_ids) + len(self.token_ids)
        return min(
            self.max_new_tokens - len(self.token_ids),
            self.max_length + 1 - tokens,  # the keys and values of the last token need no row
            self.config.max_position_embeddings + 1 - tokens - self.positions.delta,
        )

    def newest(self, count: int) -> NewToken:
        """Return the input of the next decode steps, which generate up to ``count`` tokens."""
        assert self.lease is not None
        if self.steps is not None or self.sampler is not None:
            count = 1  # the logits of each step are needed
        return NewToken(
            self.token_ids[-1], self.cached + self.positions.delta, self.lease.slot, self.cached, min(count, self.room)
        )

    def features_of(self, start: int, end: int) -> list[NDArray[np.float32]]:
        """Return the features of the image tokens among the prompt tokens ``start`` to ``end``, in order."""
        parts = []
        for span in self.key.images:
            first, last = max(start, span.start), min(end, span.end)
            if first < last:
                parts.append(self.features[span.digest][first - span.start : last - span.start])
        return parts

    def whole(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the prompt and new tokens, and their positions [3, tokens]."""
        count = len(self.token_ids)
        new = len(self.prompt.token_ids) + self.positions.delta + np.arange(count, dtype=np.int32)
        return (
            np.append(self.prompt.token_ids, np.asarray(self.token_ids, np.int32)),
            np.concatenate([self.positions.ids, np.tile(new, (3, 1))], 1),
        )
