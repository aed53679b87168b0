"""Running chat requests: their choices in the engine, which are cancelled when the client disconnects."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from starlette.types import Receive

from mindnlp_ocr.server.errors import BusyError
from mindnlp_ocr.server.metrics import Metrics

RETRY_SECONDS = 2.0


class Admission:
    """The limit of concurrent requests, including those whose images are being decoded.

    Args:
        most: maximum number of running and waiting choices.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def check(self, choices: int = 1) -> None:
        """Check that there is room for more choices.

        Raises:
            BusyError: there is none (429, with Retry-After).
        """
        if self.count + choices > self.most:
            raise BusyError(
                f"{self.count} requests are running or waiting, but this server accepts at most {self.most}: try again "
                "later, or start it with a "
                "higher --max-waiting",
                RETRY_SECONDS,
            )

    def enter(self, choices: int) -> None:
        """Count choices as running. Errors as :meth:`check`."""
        self.check(choices)
        self.count += choices

    def leave(self, choices: int) -> None:
        """Count choices as finished."""
        self.count -= choices


@dataclass
class Watched:
    """A choice of a request: its handle in the engine, and the times of its tokens."""

    handle: Any
    started: float
    metrics: Metrics
    seen: int = 0
    last: float = 0.0
    ended: bool = False
    times: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Record new tokens and the end in the metrics. Called in the event loop after every step."""
        if self.ended:
            return
        done = self.handle.done
        count = len(self.handle.token_ids)
        now = time.perf_counter()
        if count > self.seen:
            if self.seen == 0:
                self.metrics.first_token(now - self.started)
            else:
                self.metrics.more_tokens((now - self.last) / (count - self.seen), count - self.seen)
            self.seen, self.last = count, now
        if done:
            self.ended = True
            self.metrics.ended(self.handle, now - self.started)


class Running:
    """The choices of a request, as a context manager that cancels unfinished ones on exit.

    Args:
        receive: ASGI's receive function after the body was read; it reports that the client has disconnected.
    """

    def __init__(self, receive: Receive, admission: Admission, choices: int, metrics: Metrics) -> None:
        self._receive, self._admission, self._choices, self._metrics = receive, admission, choices, metrics
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._started = time.perf_counter()
        self.gone = False
        self.watched: list[Watched] = []

    async def __aenter__(self) -> "Running":
        self._admission.enter(self._choices)
        self._watch = asyncio.create_task(self._until_gone())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.cancel()
        self.gone = True  # cancels choices that are still being submitted
        for choice in self.watched:
            if not choice.ended:
                choice.handle.cancel()
                choice.ended = True
                self._metrics.aborted()
        self._admission.leave(self._choices)

    def submit(self, start: Callable[[Callable[[Any], None]], Any]) -> None:
        """Submit a choice. Runs in a thread of the pool. ``start`` receives the callback for the end of each step."""
        if self.gone:
            return
        handle = start(self._on_change)
        if self.gone:  # meanwhile
            handle.cancel()
            return
        self.watched.append(Watched(handle, self._started, self._metrics))

    def _on_change(self, handle: Any) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        for choice in self.watched:
            choice.handle.cancel()
        self._changed.set()

    async def step(self, seconds: float | None = None) -> bool:
        """Wait for a step of the engine. Returns False if there was none within ``seconds``."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._changed.clear()
        if self.gone:  # the choices were cancelled and must not count as failed
            return True
        for choice in self.watched:
            choice.look()
        return True

    @property
    def done(self) -> bool:
        """Whether all choices have ended."""
        return all(choice.ended for choice in self.watched)

    async def finish(self) -> None:
        """Wait until all choices have ended or the client has disconnected."""
        while not (self.done or self.gone):
            await self.step()
