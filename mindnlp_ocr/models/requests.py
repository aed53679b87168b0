"""Conversion of chat messages into requests of the engine, and of their tokens into text."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.generate import GREEDY, Generation, Reading
from mindnlp_ocr.engine.scheduler import Handle, QueueFullError, Scheduler
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.parallel.ranks import Ranks
from mindnlp_ocr.processing.chat import ChatProcessor, Messages
from mindnlp_ocr.sampling import GrammarCompiler, Sampler, SamplingParams


class Request(NamedTuple):
    """Chat messages with individual settings, for :meth:`Qwen2VLModel.generate_batch`.

    Attributes:
        messages: see :meth:`Qwen2VLModel.generate`.
        max_new_tokens: maximum length of the answer; overrides the value of the call.
        sampling: sampling parameters; override those of the call.
    """

    messages: Messages
    max_new_tokens: int | None = None
    sampling: SamplingParams | None = None


class RequestHandle:
    """A submitted request, returned by :meth:`Qwen2VLModel.submit`. It may be used from any thread."""

    def __init__(self, requests: "Requests", generation: Generation) -> None:
        self._requests, self._generation = requests, generation
        self._handle: Handle | None = None  # set when the request is queued

    @property
    def token_ids(self) -> list[int]:
        """The tokens generated so far."""
        return self._generation.token_ids

    @property
    def logprobs(self) -> list[float]:
        """The log-probabilities of these tokens."""
        return self._generation.logprobs

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """See :class:`Reading`."""
        return self._generation.top_logprobs

    @property
    def text(self) -> str:
        """The text generated so far, without incomplete characters and possible beginnings of stop strings."""
        return self._generation.text

    @property
    def done(self) -> bool:
        """Whether the request has ended: successfully, with an error, or cancelled."""
        return self._handle is not None and self._handle.done

    @property
    def error(self) -> PageError | None:
        """The error of a failed or cancelled request, else None."""
        return None if self._handle is None else self._handle.error

    @property
    def queue_seconds(self) -> float | None:
        """How long the request waited for a slot; None while it waits."""
        return None if self._handle is None else self._handle.queue_seconds

    def cancel(self) -> None:
        """Cancel the request. Its slot is free immediately, or after the current step."""
        assert self._handle is not None
        self._handle.cancel()

    def result(self, timeout: float | None = None) -> Reading:
        """Wait until the request has ended, and return its result.

        Raises:
            PageError: the request failed or was cancelled.
            TimeoutError: the request has not ended after ``timeout`` seconds; it continues to run.
        """
        assert self._handle is not None
        self._handle.wait(timeout)
        if self._handle.error is not None:
            raise self._handle.error
        return self._requests.reading(self._generation)

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces as it is generated. Closing the iterator cancels the request.

        Raises:
            PageError: the request failed.
        """
        assert self._handle is not None
        return self._requests.pieces(self._handle)


class Requests:
    """Creates the requests of an engine.

    Args:
        max_length: length of a slot in tokens.
        max_new_tokens: maximum length of an answer if the request sets no limit.

    Attributes:
        default: sampling parameters of requests without their own.
    """

    def __init__(
        self,
        config: ModelConfig,
        processor: ChatProcessor,
        scheduler: Scheduler,
        ranks: Ranks,
        max_length: int,
        max_new_tokens: int,
    ) -> None:
        self.config, self._processor, self._scheduler, self._ranks = config, processor, scheduler, ranks
        self._max_length, self._max_new_tokens = max_length, max_new_tokens
        self.default = GREEDY

    def generation(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        sampling: SamplingParams | None = None,
        grows: bool = False,
    ) -> Generation:
        """Create a request without queueing it.

        Args:
            max_new_tokens: takes precedence over that of ``sampling``.
            grows: whether the text is needed while it is generated.

        Raises:
            PageError: the messages, images or settings are invalid.
        """
        sampling = sampling or self.default
        if max_new_tokens is not None:
            if max_new_tokens < 1:
                raise PageError(f"max_new_tokens is {max_new_tokens}: use 1 or more", code="not_positive")
            sampling = replace(sampling, max_new_tokens=max_new_tokens)
        if self._ranks.count > 1 and not sampling.greedy and sampling.seed is None:
            raise PageError(
                "sampling over several ranks needs a seed, so that all ranks draw the same tokens: set seed",
                code="seed_missing",
            )
        start = time.perf_counter()
        with self._ranks.agreement() as agreed:
            prompt = self._processor.prompt(messages)
            preprocess = (time.perf_counter() - start) * 1e3
            generation = Generation(
                self.config,
                prompt,
                sampling.max_new_tokens or self._max_new_tokens,
                self._max_length,
                self._scheduler.engine.base,
                sampling=sampling,
                sampler=None if sampling.plain_greedy else self._sampler(sampling),
                stream=self._processor.stream(sampling.skip_special_tokens) if grows or sampling.stop else None,
                started=start,
                timings_ms={"preprocess": preprocess, "vision": 0.0, "prefill": 0.0, "decode": 0.0},
            )
            agreed.append(generation.key)
        return generation

    def _sampler(self, sampling: SamplingParams) -> Sampler:
        return Sampler(
            sampling,
            self.config.vocab_size,
            self.config.eos_token_ids,
            tokenizer=self._processor.tokenizer,
            grammar=self._grammars.grammar(sampling) if sampling.constrained else None,
        )

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self._processor.tokenizer, self.config.vocab_size, self.config.eos_token_ids)

    def submit(
        self,
        messages: Messages,
        sampling: SamplingParams | None,
        priority: int,
        deadline_seconds: float | None,
        on_change: Callable[[RequestHandle], None] | None,
    ) -> RequestHandle:
        """See :meth:`Qwen2VLModel.submit`."""
        if deadline_seconds is not None and self._ranks.count > 1:
            raise PageError(
                "deadlines are not supported with tensor_parallel: leave deadline_seconds out", code="deadline_unsupported"
            )
        self._scheduler.check_room()
        request = RequestHandle(self, self.generation(messages, None, sampling, grows=True))
        request._handle = self._scheduler.submit(
            request._generation,
            priority=priority,
            deadline_seconds=deadline_seconds,
            on_change=None if on_change is None else lambda _: on_change(request),
        )
        return request

    def read(self, generation: Generation, on_text: Callable[[str], None] | None = None) -> Reading:
        """Run a request to its end and return its result."""
        if on_text is None:
            deque(self._scheduler.run(generation), maxlen=0)
        else:
            for piece in self.pieces(self._scheduler.submit(generation)):
                on_text(piece)
        return self.reading(generation)

    def stream(self, generation: Generation) -> Iterator[str]:
        """Yield the text of a request in pieces. The request is queued when the first piece is requested."""
        yield from self.pieces(self._scheduler.submit(generation))

    def pieces(self, handle: Handle) -> Iterator[str]:
        """Yield the text of a request in pieces."""
        pieces, sent = handle.generation.pieces, 0
        try:
            while not (handle.done and sent == len(pieces)):
                self._scheduler.wait_for_more(handle, pieces, sent)
                for piece in pieces[sent:]:
                    sent += 1
                    if piece:
                        yield piece
            if handle.error is not None:
                raise handle.error
        finally:
            handle.cancel()

    def batch(
        self,
        list_of_messages: Iterable[Messages | Request],
        max_new_tokens: int | None,
        sampling: SamplingParams | None,
        batch_size: int,
    ) -> Iterator[tuple[int, Reading | PageError]]:
        """See :meth:`Qwen2VLModel.generate_batch`."""
        requests = enumerate(list_of_messages)
        running: dict[int, Handle] = {}
        more = True
        try:
            while more or running:
                while more and len(running) < batch_size:
                    if (entry := next(requests, None)) is None:
                        more = False
                        break
                    number, given = entry
                    messages, most, own = given if isinstance(given, Request) else (given, None, None)
                    try:
                        generation = self.generation(messages, most or max_new_tokens, own or sampling)
                        running[number] = self._submit_patiently(generation)
                    except PageError as error:
                        yield number, error
                self._scheduler.advance(lambda: not running or any(handle.done for handle in running.values()))
                for number in [number for number, handle in running.items() if handle.done]:
                    handle = running.pop(number)
                    yield number, handle.error or self.reading(handle.generation)
        finally:
            for handle in running.values():
                handle.cancel()

    def trace(self, messages: Messages, max_new_tokens: int | None = None) -> tuple[Reading, NDArray[np.float32]]:
        """Generate greedily as :meth:`read`, and return the logits of every token as well, as float32 [tokens, vocab_size].

        With them, devices, dtypes and checkpoints are compared. Errors as for :meth:`generation` and :meth:`read`.
        """
        generation = self.generation(messages, max_new_tokens)
        generation.steps = []
        reading = self.read(generation)
        return reading, np.stack([step.numpy() for step in generation.steps])

    def _submit_patiently(self, generation: Generation) -> Handle:
        """Queue a request as soon as the queue has room for it.

        Raises:
            QueueFullError: the queue is empty and still has no room.
        """
        while True:
            try:
                return self._scheduler.submit(generation)
            except QueueFullError:
                if not (waiting := self._scheduler.stats()["waiting"]):
                    raise
            self._scheduler.advance(lambda waiting=waiting: self._scheduler.stats()["waiting"] < waiting)  # type: ignore[misc]

    def reading(self, generation: Generation) -> Reading:
        """Return the result of a finished request."""
        timings = {**generation.timings_ms, "total": (time.perf_counter() - generation.started) * 1e3}
        text = self._processor.decode(generation.token_ids, generation.sampling.skip_special_tokens)
        return Reading(
            text=text[: generation.cut_at],
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            top_logprobs=generation.top_logprobs,
            finish_reason=generation.finish_reason or "length",
            stop_reason=generation.stop_reason,
            prompt_tokens=len(generation.key),
            reused_tokens=generation.reused,
            timings_ms={name: round(value, 3) for name, value in timings.items()},
        )
