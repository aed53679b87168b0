"""Tests of slots that several requests use: prefixes of running requests, pins and threads."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.cache.manager import CacheManager
from tests.cache.serving import SLOT, A, Clock, cached, causes, counts, live, page, pinned_entry, run, text

# Sharing with live requests, and pins


def test_a_live_slot_gives_the_tokens_that_are_there_and_no_more(make: Any) -> None:
    manager = make()
    prompt = page(A, range(100, 200))
    first = manager.acquire(prompt)
    assert manager.acquire(prompt).reused == 0  # nothing is there yet
    manager.progress(first, 30)
    third = manager.acquire(prompt)
    assert (third.slot, third.source, third.reused) == (2, 0, 30)
    manager.check_integrity()


def test_of_an_image_that_is_half_there_nothing_is_shared(make: Any) -> None:
    manager = make()
    prompt = page(A, range(100, 200), preamble=70)
    first = manager.acquire(prompt)
    manager.progress(first, 73)
    assert manager.acquire(prompt).reused == 70


def test_what_was_reused_in_place_or_copied_can_be_shared_at_once(make: Any) -> None:
    manager = make()
    run(manager, text(range(50)), answer=[])
    in_place = manager.acquire(text(range(60)))
    copy = manager.acquire(text(range(60)))
    assert (in_place.slot, copy.source, copy.reused, copy.valid) == (0, 0, 50, 0)
    manager.copied(copy)
    assert (copy.source, copy.valid) == (None, 50)


def test_progress_never_goes_back_and_stays_within_the_prompt(make: Any) -> None:
    manager = make()
    lease = live(manager, text(range(50)), 30)
    manager.progress(lease, 10)
    assert lease.valid == 30
    for tokens in (51, -1):
        with pytest.raises(ValueError, match=f"progress is {tokens} tokens, but the prompt has 50: do not exceed it"):
            manager.progress(lease, tokens)


def test_rows_that_were_not_copied_cannot_be_built_upon(make: Any) -> None:
    manager = make()
    run(manager, text(range(50)))
    lease = manager.acquire(text(range(40), [1]))
    message = "slot 1 lacks 40 tokens of slot 0: copy them and call copied()"
    for call in (lambda: manager.progress(lease, 41), lambda: manager.release(lease, lease.key)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message
    assert (lease.source, counts(manager)["live"]) == (0, 1)


def test_a_pinned_entry_is_neither_evicted_nor_taken_over(make: Any) -> None:
    manager = make(slots=2)
    lease = pinned_entry(manager)
    assert manager.acquire(text(range(60))) is None  # would continue slot 0
    assert manager.acquire(text(range(200, 260))) is None
    manager.copied(lease)
    manager.copied(lease)  # again: no harm
    given = manager.acquire(text(range(60)))
    assert (given.slot, given.reused, given.source) == (0, 50, None)


def test_a_pinned_entry_can_be_copied_by_others_as_well(make: Any) -> None:
    manager = make(slots=3)
    pinned_entry(manager)
    other = manager.acquire(text(range(60)))
    assert (other.slot, other.source, other.reused) == (2, 0, 50)
    manager.check_integrity()


def test_two_pins_hold_until_both_are_gone(make: Any) -> None:
    manager = make(slots=3)
    first = pinned_entry(manager)
    second = manager.acquire(text(range(60)))
    manager.clear()
    manager.copied(first)
    assert counts(manager) == {"free": 0, "live": 3, "cached": 0}
    manager.release(second, None)
    assert counts(manager) == {"free": 2, "live": 1, "cached": 0}


def test_a_pinned_entry_expires_only_after_the_copy(make: Any, clock: Clock) -> None:
    manager = make(slots=2, ttl_seconds=10)
    lease = pinned_entry(manager)
    clock.now = 50
    assert list(cached(manager)) == [0]
    manager.copied(lease)
    assert cached(manager) == {}
    assert causes(manager)["ttl"] == 1


def test_a_pinned_entry_is_not_superseded(make: Any) -> None:
    manager = make(slots=3)
    pinned_entry(manager)
    other = live(manager, text(range(60)))
    assert other.slot == 2
    manager.release(other, text(range(60)))
    assert sorted(cached(manager)) == [0, 2]
    assert manager.stats()["superseded"] == 0


def test_a_live_source_that_fails_is_free_only_after_the_copy(make: Any) -> None:
    manager = make(slots=2)
    first = live(manager, text(range(50)))
    second = manager.acquire(text(range(60)))
    assert second.source == 0
    manager.release(first, None)
    assert counts(manager) == {"free": 0, "live": 2, "cached": 0}
    assert manager.acquire(text(range(5))) is None
    manager.check_integrity()
    manager.copied(second)
    assert counts(manager) == {"free": 1, "live": 1, "cached": 0}


def test_a_live_source_that_ends_is_cached_and_pinned(make: Any) -> None:
    manager = make(slots=2)
    first = live(manager, text(range(50)))
    second = manager.acquire(text(range(60)))
    manager.release(first, text(range(50), [1]))
    assert counts(manager) == {"free": 0, "live": 1, "cached": 1}
    assert manager.acquire(text(range(300, 310))) is None
    manager.release(second, None)  # cancelled before it copied: the pin is gone too
    assert manager.acquire(text(range(300, 310))).slot == 1


# Threads


@pytest.fixture
def _restless_threads() -> Iterator[None]:
    """Switch threads so often that a method without a lock would be interrupted."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless_threads")
def test_threads_that_share_few_slots_never_find_rows_that_are_not_theirs() -> None:
    """Every thread acts like a model, on lists; a slot with two owners would contain a mixture."""
    manager = CacheManager(3, SLOT, 3 * SLOT + 64, ttl_seconds=0.02)
    rows: list[list[int]] = [[], [], []]
    faults: list[BaseException] = []
    served = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for number in range(1500):
                prompt = text(range(20), rng.integers(0, 3, 4).tolist(), [int(rng.integers(3))] * 5)
                if (lease := manager.acquire(prompt)) is None:
                    continue
                served.append(lease.reused)
                wanted = prompt.token_ids.tolist()
                if lease.source is None:
                    rows[lease.slot] = rows[lease.slot][: lease.reused]
                else:
                    rows[lease.slot] = rows[lease.source][: lease.reused]
                    manager.copied(lease)
                for token in wanted[lease.reused :]:
                    rows[lease.slot].append(token)
                    manager.progress(lease, len(rows[lease.slot]))
                rows[lease.slot] += [seed, number]
                assert rows[lease.slot] == [*wanted, seed, number]
                manager.put_features(bytes([number % 5]), np.zeros(20, np.int8))
                manager.get_features(bytes([number % 3]))
                manager.release(lease, None if number % 7 == 0 else prompt.extended([seed, number]))
                if number % 50 == 0:
                    manager.check_integrity()
                    manager.clear()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    manager.check_integrity()
    stats = manager.stats()
    assert stats["total_requests"] == len(served)
    assert stats["cache_hits"] == sum(reused > 0 for reused in served) > 0
    assert counts(manager)["live"] == 0
    for slot, key in manager.entries():
        assert rows[slot] == key.token_ids.tolist()
