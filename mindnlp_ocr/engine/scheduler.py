"""The scheduler: continuous batching of requests that any thread may submit or cancel at any time.

It combines continuous batching as in Orca (Yu et al. 2022, OSDI) with chunked prefills as in Sarathi-Serve (Agrawal et al.
2024, arXiv:2403.02310). By default there is no scheduler thread: a thread that waits for its request drives the steps of all
requests, and another waiting thread takes over when that request ends.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass

from mindnlp_ocr.engine.engine import Engine
from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.errors import PageError

logger = logging.getLogger(__name__)

Listener = Callable[["Handle"], None]


class QueueFullError(PageError):
    """The queue is full. The request was not started: submit it again later."""

    retry_after = 1.0  # seconds; a guess, since the lengths of running texts are unknown


class DeadlineError(PageError):
    """The request did not finish before its deadline."""


class EngineError(PageError):
    """A step failed for a reason that no single request caused."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of the queue, and of delays of running requests.

    Attributes:
        max_waiting: maximum number of requests that wait for a slot. None: unlimited.
        max_waiting_bytes: maximum size of the preprocessed images of all waiting requests, in bytes. None: unlimited. A
            single request may always wait.
        stall_ms: maximum time for the images of a step, and for its prompts, while other requests decode. An image is never
            split, and prompts are split only with operators whose results do not depend on it (our own on a CPU).
    """

    max_waiting: int | None = None
    max_waiting_bytes: int | None = None
    stall_ms: float = 100.0


class Handle:
    """A request that was submitted.

    Attributes:
        number: sequence number in the order of submission.
        generation: state of the request; ``token_ids``, ``logprobs`` and ``text`` grow with every step.
        error: the error of a request that failed or was cancelled.
        queue_seconds: how long the request waited for a slot; None while it waits.
    """

    def __init__(
        self,
        scheduler: "Scheduler",
        generation: Generation,
        number: int,
        priority: int,
        deadline_seconds: float | None,
        on_change: Listener | None,
    ) -> None:
        self._scheduler, self.generation, self.number, self.priority = scheduler, generation, number, priority
        self._seconds = deadline_seconds
        self._queued = scheduler._clock()
        self._expires = math.inf if deadline_seconds is None else self._queued + deadline_seconds
        self.queue_seconds: float | None = None
        self._on_change = on_change
        self._ended = threading.Event()
        self._cancelled = False
        self.error: PageError | None = None

    @property
    def done(self) -> bool:
        """Whether the request has ended: successfully, with an error, or cancelled."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Cancel the request. Its slot is free immediately, or after the current step. Its prefix stays in the cache."""
        self._scheduler.cancel(self)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the request has ended. Waiting threads take turns in driving all requests.

        Raises:
            TimeoutError: the request has not ended after ``timeout`` seconds; it continues to run.
        """
        self._scheduler.advance(lambda: self.done, timeout)

    @property
    def bytes_waiting(self) -> int:
        """Size of the preprocessed images of the request, in bytes."""
        patches = sum(math.prod(image.grid_thw) for image in self.generation.prompt.images)
        return 4 * patches * self.generation.config.vision.patch_dim

    def _end(self, error: PageError | None) -> None:
        self.error = error
        self._ended.set()

    def _fault(self, now: float) -> PageError | None:
        """Return the error if the request was cancelled or is past its deadline, else None."""
        if self._cancelled:
            return PageError("the request was cancelled", code="request_cancelled")
        if now >= self._expires:
            return DeadlineError(
                f"the request did not finish by its deadline of {self._seconds:g} s: set a later deadline, or try "
                "again later",
                code="deadline_exceeded",
            )
        return None


class Scheduler:
    """All requests of one engine. Every method may be called from any thread.

    Args:
        clock: returns a monotonic time in seconds, for deadlines.
    """

    def __init__(
        self, engine: Engine, config: SchedulerConfig | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine, self.config, self._clock = engine, config or SchedulerConfig(), clock
        self._changed = threading.Condition()  # guards the following attributes except _running
        self._waiting: list[Handle] = []
        self._driving = False  # whether a thread drives the steps
        self._thread: threading.Thread | None = None  # of serving()
        self._submitted = 0
        self._running: list[Handle] = []  # guarded by the lock of the engine

    # Interface for callers

    def check_room(self, bytes_waiting: int = 0) -> None:
        """Check that the queue has room for another request.

        Raises:
            QueueFullError: the queue is full.
        """
        with self._changed:
            waiting, most, most_bytes = len(self._waiting), self.config.max_waiting, self.config.max_waiting_bytes
            if most is not None and waiting >= most:
                raise QueueFullError(
                    f"{waiting} requests wait, but max_waiting is {most}: try again later, or raise it", code="queue_full"
                )
            held = sum(handle.bytes_waiting for handle in self._waiting)
            if most_bytes is not None and held and held + bytes_waiting > most_bytes:
                raise QueueFullError(
                    f"the images of waiting requests take {held + bytes_waiting} bytes with this one, but "
                    f"max_waiting_bytes is {most_bytes}: try again later, or raise it",
                    code="queue_full",
                )

    def submit(
        self,
        generation: Generation,
        *,
        priority: int = 0,
        deadline_seconds: float | None = None,
        on_change: Listener | None = None,
    ) -> Handle:
        """Queue a request.

        Args:
            priority: requests with a lower number start first; requests with the same number start in order of submission.
            deadline_seconds: time from now after which an unfinished request ends with an error.
            on_change: called without any lock after every step in which the request gained tokens or ended.

        Raises:
            QueueFullError: the queue is full.
        """
        with self._changed:
            handle = Handle(self, generation, self._submitted, priority, deadline_seconds, on_change)
            self.check_room(handle.bytes_waiting)
            self._submitted += 1
            self._waiting.append(handle)
            self._waiting.sort(key=lambda other: (other.priority, other.number))
            self._changed.notify_all()
        return handle

    def cancel(self, handle: Handle) -> None:
        """Cancel a waiting or running request. See :meth:`Handle.cancel`."""
        with self._changed:
            if handle.done:
                return
            handle._cancelled = True
            self._changed.notify_all()
        if self.engine.lock.acquire(blocking=False):  # otherwise, the thread that runs a step ends the request
            try:
                ended = self._end_unwanted()
            finally:
                self.engine.lock.release()
            self._tell(ended)

    def step(self) -> bool:
        """Run one step: admit requests, run images, prompts and tokens, and free slots. Return whether requests are left."""
        with self.engine.lock:
            before = {handle: len(handle.generation.token_ids) for handle in self._running}
            ended = self._end_unwanted()
            self._admit()
            ended += self._compute()
            ended += self._end_unwanted()
            grown = [handle for handle in self._running if len(handle.generation.token_ids) != before.get(handle, 0)]
            left = bool(self._running)
        self._tell([*grown, *ended])
        with self._changed:
            return left or bool(self._waiting)

    def advance(self, until: Callable[[], bool], timeout: float | None = None) -> None:
        """Drive the steps until a condition holds, or wait while another thread drives them.

        Raises:
            TimeoutError: the condition does not hold after ``timeout`` seconds.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not until():
            with self._changed:
                if until():
                    return
                if (left := end - time.monotonic()) <= 0:
                    raise TimeoutError(f"the request has not ended after {timeout} s: it continues to run")
                if self._driving:
                    self._changed.wait(None if math.isinf(left) else left)
                    continue
                self._driving = True
            try:
                while not until() and time.monotonic() < end:
                    self.step()
            finally:
                with self._changed:
                    self._driving = False
                    self._changed.notify_all()

    def wait_for_more(self, handle: Handle, grows: Sized, seen: int) -> None:
        """Drive the steps until ``grows`` is longer than ``seen``, or the request has ended."""
        self.advance(lambda: handle.done or len(grows) > seen)

    def run(self, generation: Generation) -> Generator[int, None, None]:
        """Submit a request, and yield its tokens; see :meth:`tokens`."""
        return self.tokens(self.submit(generation))

    def tokens(self, handle: Handle) -> Generator[int, None, None]:
        """Yield the tokens of a request as they are generated. Closing the iterator cancels the request.

        Raises:
            PageError: the request cannot be run.
        """
        seen: list[int] = []
        try:
            while True:
                self.wait_for_more(handle, handle.generation.token_ids, len(seen))
                ended = handle.done
                for token in handle.generation.token_ids[len(seen) :]:
                    seen.append(token)
                    yield token
                if ended:
                    break
            if handle.error is not None:
                raise handle.error
        finally:
            self.cancel(handle)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Drive the steps in a separate thread while the context is open."""
        stopped = threading.Event()

        def drive() -> None:
            while not stopped.is_set():
                try:
                    self.advance(lambda: stopped.is_set() or not self._busy())
                except Exception as error:  # after any exception, waiting threads must be released
                    logger.exception("a step of the engine failed")
                    self._fail_all(
                        EngineError(
                            f"a step of the engine failed ({type(error).__name__}: {error}): see the log",
                            code="internal_error",
                        )
                    )
                with self._changed:
                    self._changed.wait_for(lambda: stopped.is_set() or self._busy(), timeout=1.0)

        thread = self._thread = threading.Thread(target=drive, name="scheduler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            with self._changed:
                self._changed.notify_all()
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread of :meth:`serving` runs. Without it, submitted requests would wait forever."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> dict[str, int]:
        """Return the numbers of running and waiting requests, and the size of the images of waiting requests in bytes."""
        with self._changed:
            waiting = list(self._waiting)
        return {
            "running": len(self._running),
            "waiting": len(waiting),
            "waiting_bytes": sum(handle.bytes_waiting for handle in waiting),
        }

    # The parts of a step; the caller holds the engine's lock

    def _busy(self) -> bool:
        return bool(self._waiting or self._running)

    def _admit(self) -> None:
        """Assign free slots to waiting requests."""
        with self._changed:
            waiting = list(self._waiting)
        for handle in waiting:
            if not self.engine.has_room():
                return
            prompts = [other.generation for other in self._running if not other.generation.token_ids]
            if self.engine.should_wait(handle.generation, prompts):
                continue  # it reuses their prefix in a later step
            if not self.engine.begin(handle.generation):
                return
            self._running.append(handle)
            handle.queue_seconds = self._clock() - handle._queued
            with self._changed:
                self._waiting.remove(handle)

    def _compute(self) -> list[Handle]:
        """Run the images, prompts and tokens of all running requests. Return the requests that have ended."""
        growing = [handle.generation for handle in self._running if handle.generation.token_ids]
        prompts = [handle.generation for handle in self._running if not handle.generation.token_ids]
        with self._changed:
            ahead = [handle.generation for handle in self._waiting]
        seconds = self.config.stall_ms / 1e3 if growing else None
        failed = self.engine.run_vision(prompts, ahead, seconds)
        ready = [
            generation
            for generation in prompts
            if generation not in failed
            and all(generation.key.images[i].digest in generation.features for i in generation.missing(generation.computed))
        ]
        budget = None if seconds is None else self.engine.prefill_budget(seconds)
        failed |= self.engine.prefill(ready, budget)
        failed |= self.engine.decode(growing)  # a first token is reported before more tokens are decoded
        ended = [
            handle for handle in self._running if handle.generation in failed or handle.generation.finish_reason is not None
        ]
        for handle in ended:
            error = failed.get(handle.generation)
            self.engine.end(handle.generation, error)
            self._running.remove(handle)
            handle._end(error)
        return ended

    def _end_unwanted(self) -> list[Handle]:
        """End and return the requests that were cancelled or are past their deadline."""
        now = self._clock()
        with self._changed:
            faults = {handle: fault for handle in self._waiting if (fault := handle._fault(now))}
            self._waiting = [handle for handle in self._waiting if handle not in faults]
        for handle, fault in faults.items():
            handle._end(fault)
        late = {handle: fault for handle in self._running if (fault := handle._fault(now))}
        for handle, fault in late.items():
            self.engine.end(handle.generation)  # the contents of its slot are valid
            self._running.remove(handle)
            handle._end(fault)
        return [*faults, *late]

    def _fail_all(self, error: PageError) -> None:
        """End all requests after a step failed for a reason that no single request caused."""
        with self.engine.lock:
            with self._changed:
                waiting, self._waiting = self._waiting, []
            running, self._running = self._running, []
            for handle in running:
                self.engine.end(handle.generation, error)
        for handle in (*waiting, *running):
            handle._end(error)
        self._tell([*waiting, *running])

    def _tell(self, changed: list[Handle]) -> None:
        with self._changed:
            self._changed.notify_all()
        for handle in changed:
            if handle._on_change is not None:
                handle._on_change(handle)
