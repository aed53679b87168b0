"""A model that answers at once and with a known text: what is tested with it is HTTP, not reading."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from mindnlp_ocr.engine.scheduler import QueueFullError
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.sampling.params import SamplingParams

TEXT = "Invoice 4711, total 12.50 €\n合计"


@dataclass
class FakeReading:
    text: str
    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]
    finish_reason: str
    stop_reason: str | int | None = None
    prompt_tokens: int = 20
    reused_tokens: int = 5
    timings_ms: dict[str, float] = field(
        default_factory=lambda: {"preprocess": 2.0, "vision": 3.0, "prefill": 4.0, "decode": 5.0}
    )

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)


class FakeHandle:
    def __init__(self, model: "FakeModel", messages: Any, sampling: SamplingParams, options: dict[str, Any]) -> None:
        self.model, self.messages, self.sampling, self.options = model, messages, sampling, options
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.text = ""
        self.error: PageError | None = None
        self.queue_seconds = 0.001
        self.reading: FakeReading | None = None
        self._ended = threading.Event()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> FakeReading:
        if not self._ended.wait(timeout):
            raise TimeoutError
        if self.error is not None:
            raise self.error
        assert self.reading is not None
        return self.reading

    def cancel(self) -> None:
        if not self.done:
            self._end(PageError("the request was cancelled"))
            self.model.cancelled.append(self)

    def step(self) -> None:
        """One token more."""
        whole = self.model.ids
        number = len(self.token_ids)
        if self.model.fail_at == number:
            self._end(PageError("the numbers of this page overflowed: try --dtype fp32"))
            return
        self.token_ids.append(whole[number])
        self.logprobs.append(-0.25)
        self.top_logprobs.append([(whole[number], -0.25), (7, -2.0)][: self.sampling.top_logprobs])
        text = self.model.tokenizer.decode(self.token_ids, skip_special_tokens=self.sampling.skip_special_tokens)
        for stop in self.sampling.stop:
            if stop in text:
                self.text = text[: text.index(stop)]
                self._end(None, "stop", stop)
                return
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self.text = text
        if len(self.token_ids) == len(whole):
            self._end(None, self.model.reason)
        elif len(self.token_ids) == self.sampling.max_new_tokens:
            self._end(None, "length")

    def _end(self, error: PageError | None, reason: str = "stop", stop_reason: str | None = None) -> None:
        if self.done:
            return
        self.error = error
        if error is None:
            self.reading = FakeReading(
                self.text, self.token_ids, self.logprobs, self.top_logprobs, reason, stop_reason=stop_reason
            )
        self._ended.set()

    def tell(self) -> None:
        if self.options["on_change"] is not None:
            self.options["on_change"](self)


class FakeModel:
    """See :class:`mindnlp_ocr.models.qwen2vl.Qwen2VLModel`.

    Attributes:
        go: steps are taken while it is set.
        submitted, cancelled: every request so far.
        reason: why a whole text ends.
        fail_at: the token at which every request fails.
    """

    def __init__(self, slots: int = 4, max_waiting: int = 8, text: str = TEXT) -> None:
        self.slots, self.reason, self.fail_at = slots, "stop", -1
        self.tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
        self.ids = self.tokenizer.encode(text).ids
        self.scheduler = SimpleNamespace(config=SimpleNamespace(max_waiting=max_waiting), stats=self._stats)
        self.go = threading.Event()
        self.go.set()
        self.submitted: list[FakeHandle] = []
        self.cancelled: list[FakeHandle] = []
        self.decoding = threading.Event()  # cleared: submit waits, as if images took long
        self.decoding.set()
        self._waiting: list[FakeHandle] = []
        self._running: list[FakeHandle] = []

    def submit(
        self,
        messages: Any,
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        deadline_seconds: float | None = None,
        on_change: Any = None,
    ) -> FakeHandle:
        self.decoding.wait()
        for message in messages:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "image":
                    assert isinstance(part["image"], bytes)  # a text would be opened as a file
                    try:
                        Image.open(io.BytesIO(part["image"])).convert("RGB")
                    except OSError as error:
                        raise PageError(f"an image is truncated or damaged ({error}): save it again") from error
        self.check_room()
        options = {"priority": priority, "deadline_seconds": deadline_seconds, "on_change": on_change}
        handle = FakeHandle(self, messages, sampling or SamplingParams(), options)
        self.submitted.append(handle)
        self._waiting.append(handle)
        return handle

    def check_room(self) -> None:
        if len(self._waiting) >= self.scheduler.config.max_waiting:
            raise QueueFullError(f"{len(self._waiting)} requests wait, max_waiting is {len(self._waiting)}: try again later")

    @contextmanager
    def serving(self) -> Iterator[None]:
        stopped = threading.Event()

        def drive() -> None:
            while not stopped.is_set():
                time.sleep(0.0005)
                if self.go.is_set():
                    self.step()

        thread = threading.Thread(target=drive, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def step(self) -> None:
        self._waiting = [handle for handle in self._waiting if not handle.done]
        while self._waiting and len(self._running) < self.slots:
            self._running.append(self._waiting.pop(0))
        for handle in self._running:
            if not handle.done:
                handle.step()
            handle.tell()
        self._running = [handle for handle in self._running if not handle.done]

    def _stats(self) -> dict[str, int]:
        return {"running": len(self._running), "waiting": len(self._waiting), "waiting_bytes": 0}

    def get_cache_stats(self) -> dict[str, Any]:
        return {"cache_hits": 3, "cache_misses": 1, "evictions": 2, "kv_bytes": 1024, "slots": {"cached": 1}}

    def get_model_info(self) -> dict[str, Any]:
        return {"model_name": str(EMBEDDED), "max_length": 2048, "compilations": 0}

    @contextmanager
    def files(self) -> Iterator[Path]:
        yield EMBEDDED
