"""Tests of the scheduler with a stub engine: slots, order, limits, deadlines, cancellation and threads."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from mindnlp_ocr.engine.scheduler import Handle, QueueFullError, Scheduler, SchedulerConfig
from mindnlp_ocr.errors import PageError
from tests.server.started import until

PATCH_BYTES = 4 * 10


class FakeImage(NamedTuple):
    grid_thw: tuple[int, int, int]


class FakeGeneration:
    """Create a prompt with this number of tokens, whose text is ``number``, ``number`` + 1, ..."""

    def __init__(self, number: int, prompt: int = 10, text: int = 3, patches: int = 0, shares: int | None = None) -> None:
        self.number, self.prompt_tokens, self.expected = number, prompt, [number + i for i in range(text)]
        self.images = [FakeImage((1, 1, patches))] if patches else []
        self.shares = shares  # prompts of one number have a beginning in common
        self.computed = 0
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.fails = False
        # What the scheduler reads of a real one.
        self.prompt: Any = self
        self.key: Any = self
        self.config: Any = self
        self.vision: Any = self
        self.patch_dim = 10

    def missing(self, computed: int) -> list[int]:
        return []

    def take(self) -> None:
        self.token_ids.append(self.expected[len(self.token_ids)])
        if len(self.token_ids) == len(self.expected):
            self.finish_reason = "stop"


class FakeEngine:
    """A stub engine of slots and counters, which asserts the scheduler's guarantees."""

    def __init__(self, slots: int, budget: int = 16) -> None:
        self.lock = threading.RLock()
        self.slots = slots
        self.budget = budget
        self.owners: dict[int, FakeGeneration] = {}
        self.ended: list[FakeGeneration] = []
        self.begun: list[int] = []

    def has_room(self) -> bool:
        return len(self.owners) < self.slots

    def slot_of(self, generation: FakeGeneration) -> int:
        slots = [slot for slot, owner in self.owners.items() if owner is generation]
        assert len(slots) == 1
        return slots[0]

    def begin(self, generation: Any) -> bool:
        assert generation not in self.owners.values()
        free = [slot for slot in range(self.slots) if slot not in self.owners]
        if not free:
            return False
        self.owners[free[0]] = generation
        self.begun.append(generation.number)
        return True

    def end(self, generation: Any, error: PageError | None = None) -> None:
        del self.owners[self.slot_of(generation)]
        self.ended.append(generation)

    def should_wait(self, generation: Any, others: Sequence[Any]) -> bool:
        return generation.shares is not None and any(other.shares == generation.shares for other in others)

    def run_vision(self, generations: Any, ahead: Any, seconds: float | None) -> dict[Any, PageError]:
        assert all(generation not in self.owners.values() for generation in ahead)
        return {}

    def prefill_budget(self, seconds: float) -> int | None:
        return self.budget

    def prefill(self, generations: Sequence[Any], budget: int | None) -> dict[Any, PageError]:
        left = budget if budget is not None else 10**9
        for generation in generations:
            self.slot_of(generation)
            assert not generation.token_ids
            size = min(left, generation.prompt_tokens - generation.computed)
            generation.computed, left = generation.computed + size, left - size
            if generation.computed == generation.prompt_tokens:
                generation.take()
        return {}

    def decode(self, generations: Sequence[Any]) -> dict[Any, PageError]:
        assert len(generations) <= self.slots
        for generation in generations:
            self.slot_of(generation)
            assert generation.computed == generation.prompt_tokens
            if not generation.fails:
                generation.take()
        return {generation: PageError("the device is on fire") for generation in generations if generation.fails}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scheduler_of(slots: int, clock: Callable[[], float] | None = None, **config: Any) -> tuple[Scheduler, FakeEngine]:
    engine = FakeEngine(slots)
    fake: Any = engine
    return Scheduler(fake, SchedulerConfig(**config), clock or Clock()), engine


class SchedulerMachine(RuleBasedStateMachine):
    """Requests are submitted, cancelled, fail and miss deadlines in random order, and all end correctly."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.scheduler, self.engine = scheduler_of(3, self.clock, max_waiting=6)
        self.all: list[Handle] = []
        self.told: list[Handle] = []
        self.cancelled: set[Handle] = set()

    @rule(
        target=handles,
        prompt=st.integers(1, 60),
        text=st.integers(1, 9),
        priority=st.integers(-1, 1),
        seconds=st.none() | st.floats(0.5, 9),
        shares=st.none() | st.integers(0, 1),
        fails=st.booleans(),
    )
    def submit(self, prompt: int, text: int, priority: int, seconds: float | None, shares: int | None, fails: bool) -> Any:
        generation: Any = FakeGeneration(1000 * len(self.all), prompt, text, shares=shares)
        generation.fails = fails
        try:
            handle = self.scheduler.submit(
                generation, priority=priority, deadline_seconds=seconds, on_change=self.told.append
            )
        except QueueFullError:
            assert self.scheduler.stats()["waiting"] == 6
            return None
        self.all.append(handle)
        return handle

    @rule()
    def step(self) -> None:
        left = self.scheduler.step()
        assert left == any(not handle.done for handle in self.all)

    @rule(handle=handles)
    def cancel(self, handle: Handle | None) -> None:
        if handle is None:
            return
        if not handle.done:
            self.cancelled.add(handle)
        handle.cancel()
        assert handle.done
        assert handle.generation not in self.engine.owners.values()

    @rule(seconds=st.floats(0.1, 5))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def slots_belong_to_those_that_run(self) -> None:
        running = [handle for handle in self.all if handle.generation in self.engine.owners.values()]
        assert not any(handle.done for handle in running)
        assert len(running) == len(self.engine.owners) == self.scheduler.stats()["running"]
        waiting = sum(not handle.done for handle in self.all) - len(running)
        assert self.scheduler.stats()["waiting"] == waiting

    @invariant()
    def tokens_are_those_of_the_request(self) -> None:
        for handle in self.all:
            fake: Any = handle.generation
            assert fake.token_ids == fake.expected[: len(fake.token_ids)]

    def teardown(self) -> None:
        self.scheduler.advance(lambda: all(handle.done for handle in self.all))
        assert not self.engine.owners
        assert self.scheduler.stats() == {"running": 0, "waiting": 0, "waiting_bytes": 0}
        assert len(self.engine.ended) == len(set(self.engine.ended)) == len(self.engine.begun)
        for handle in self.all:
            fake: Any = handle.generation
            if handle.error is None:
                assert fake.token_ids == fake.expected
                assert handle not in self.cancelled
            elif handle in self.cancelled:
                assert str(handle.error) == "the request was cancelled"
            else:
                assert str(handle.error).startswith(("the device is on fire", "the request did not finish"))
            assert handle in self.told


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def fake(number: int, **options: Any) -> Any:
    return FakeGeneration(number, **options)


def test_lower_priorities_begin_first_and_equals_in_the_order_of_arrival() -> None:
    scheduler, engine = scheduler_of(1)
    for number, priority in enumerate((0, 5, 0, -1, 5, -1)):
        scheduler.submit(fake(number, text=1), priority=priority)
    while scheduler.step():
        pass
    assert engine.begun == [3, 5, 0, 2, 1, 4]


def test_a_long_prompt_is_cut_while_a_text_grows_and_run_whole_when_none_does() -> None:
    scheduler, _ = scheduler_of(2)
    growing, long = fake(0, prompt=10, text=20), fake(100, prompt=100, text=1)
    scheduler.submit(growing)
    scheduler.step()
    scheduler.submit(long)
    tokens, seen = [], []
    while not long.token_ids:
        scheduler.step()
        tokens.append(len(growing.token_ids))
        seen.append(long.computed)
    assert seen == [16, 32, 48, 64, 80, 96, 100]
    assert tokens == [2, 3, 4, 5, 6, 7, 8]  # one more in every step
    alone = fake(200, prompt=100, text=1)
    scheduler, _ = scheduler_of(2)
    scheduler.submit(alone)
    scheduler.step()
    assert alone.computed == 100


def test_a_prompt_waits_for_one_that_computes_its_beginning_but_nobody_else_does() -> None:
    scheduler, engine = scheduler_of(3)
    for number, shares in enumerate((0, 0, None)):
        scheduler.submit(fake(number, shares=shares))
    scheduler.step()
    assert engine.begun == [0, 2]
    scheduler.step()
    assert engine.begun == [0, 2, 1]


def test_what_is_too_much_is_refused_with_the_numbers_and_nothing_of_it_stays() -> None:
    scheduler, engine = scheduler_of(1, max_waiting=2, max_waiting_bytes=100 * PATCH_BYTES)
    scheduler.submit(fake(0, patches=500))  # one may always wait
    with pytest.raises(
        QueueFullError, match=r"take 24000 bytes with this one, but max_waiting_bytes is 4000: try again later"
    ):
        scheduler.submit(fake(1, patches=100))
    scheduler.step()
    scheduler.submit(fake(2, patches=60))
    scheduler.submit(fake(3, patches=40))
    with pytest.raises(QueueFullError, match="2 requests wait, but max_waiting is 2: try again later, or raise it"):
        scheduler.check_room()
    assert scheduler.stats() == {"running": 1, "waiting": 2, "waiting_bytes": 100 * PATCH_BYTES}
    while scheduler.step():
        pass
    assert engine.begun == [0, 2, 3]


def test_a_late_request_ends_wherever_it_is_and_names_its_deadline() -> None:
    clock = Clock()
    scheduler, engine = scheduler_of(1, clock)
    running = scheduler.submit(fake(0, text=50), deadline_seconds=2.5)
    waiting = scheduler.submit(fake(1), deadline_seconds=2.5)
    last = scheduler.submit(fake(2))
    scheduler.step()
    clock.now = 2.5
    scheduler.step()
    for handle in (running, waiting):
        assert str(handle.error).startswith("the request did not finish by its deadline of 2.5 s: set a later deadline")
    assert engine.begun == [0, 2]
    last.wait()
    assert last.error is None


def test_a_thread_that_waits_drives_the_requests_of_the_others() -> None:
    scheduler, _ = scheduler_of(2)
    handles = [scheduler.submit(fake(1000 * number, text=3 + number)) for number in range(8)]
    threads = [threading.Thread(target=handle.wait, args=(60,)) for handle in reversed(handles)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(handle.done and handle.error is None for handle in handles)


def test_a_wait_that_takes_too_long_says_so_and_the_request_goes_on() -> None:
    scheduler, _ = scheduler_of(1)
    handle = scheduler.submit(fake(0, text=5))
    with pytest.raises(TimeoutError, match="has not ended after 0 s: it continues to run"):
        handle.wait(0)
    handle.wait()
    assert handle.error is None


def test_a_serving_thread_runs_what_is_submitted_and_tells_of_it() -> None:
    scheduler, _ = scheduler_of(2)
    told: dict[int, list[int]] = {}
    done = threading.Event()

    def change(handle: Handle) -> None:
        told.setdefault(handle.number, []).append(len(handle.generation.token_ids))
        if sum(counts[-1] == 4 for counts in told.values()) == 3:
            done.set()

    with scheduler.serving():
        for number in range(3):
            scheduler.submit(fake(100 * number, text=4), on_change=change)
        assert done.wait(60)
    assert told == {number: [1, 2, 3, 4] for number in range(3)}


def test_a_step_that_breaks_ends_every_request_instead_of_letting_it_wait() -> None:
    scheduler, engine = scheduler_of(1)
    engine.decode = lambda generations: 1 / 0  # type: ignore[assignment, return-value, misc]
    running, waiting = scheduler.submit(fake(0)), scheduler.submit(fake(1))
    with scheduler.serving():
        for handle in (running, waiting):
            until(lambda handle=handle: handle.done, 60)  # rather than handle.wait, which would take steps itself
            assert "a step of the engine failed (ZeroDivisionError: division by zero): see the log" in str(handle.error)
    assert not engine.owners


def test_tokens_come_as_they_are_made_and_closing_them_frees_the_slot() -> None:
    scheduler, engine = scheduler_of(1)
    handle = scheduler.submit(fake(7, text=5))
    tokens = scheduler.tokens(handle)
    assert [next(tokens), next(tokens)] == [7, 8]
    tokens.close()
    assert handle.done
    assert not engine.owners
    assert list(scheduler.run(fake(3, text=4))) == [3, 4, 5, 6]
