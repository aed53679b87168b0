"""One HTTP request in the engine: its choices, watched from the event loop, and given up when its client hangs up."""

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
    """How many requests are let in: those that decode images count as well as those in the engine's queue.

    Args:
        most: requests at a time, those that run included.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def check(self, choices: int = 1) -> None:
        """Refuse what finds no room.

        Raises:
            ApiError: 429, with the time after which to try again.
        """
        if self.count + choices > self.most:
            raise BusyError(
                f"{self.count} requests run or wait, this server takes {self.most}: try again later, or start it with a "
                "higher --max-waiting",
                RETRY_SECONDS,
            )

    def enter(self, choices: int) -> None:
        """Take the room of so many choices."""
        self.check(choices)
        self.count += choices

    def leave(self, choices: int) -> None:
        """Give it back."""
        self.count -= choices


@dataclass
class Watched:
    """A choice: a handle of the engine, and when it gained tokens."""

    handle: Any
    started: float
    metrics: Metrics
    seen: int = 0
    last: float = 0.0
    ended: bool = False
    times: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Note new tokens and the end, for the metrics. Called in the event loop after every step."""
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
    """The choices of one request, as a context that gives them up when it is left early.

    Args:
        receive: of ASGI, when the body has been read; tells that the client has gone.
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
        self.gone = True  # what is still being submitted is given up as well
        for choice in self.watched:
            if not choice.ended:
                choice.handle.cancel()
                choice.ended = True
                self._metrics.aborted()
        self._admission.leave(self._choices)

    def submit(self, start: Callable[[Callable[[Any], None]], Any]) -> None:
        """Submit one choice, in a thread of the pool. ``start`` is given what the engine calls after each step."""
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
        """Wait until something changed. False: nothing did in so many seconds."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._changed.clear()
        if self.gone:  # they are cancelled, which is no fault of theirs
            return True
        for choice in self.watched:
            choice.look()
        return True

    @property
    def done(self) -> bool:
        """Whether all choices have ended."""
        return all(choice.ended for choice in self.watched)

    async def finish(self) -> None:
        """Wait until all choices have ended, or the client has gone."""
        while not (self.done or self.gone):
            await self.step()
