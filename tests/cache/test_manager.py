"""The cache manager, rule by rule: what a request reuses, which slot it gets, what is kept, evicted and counted."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.lease import Entry, Lease
from mindnlp_ocr.cache.manager import MIN_SHARED_TOKENS, CacheManager
from mindnlp_ocr.errors import SetupError

SLOT = 1000  # bytes
A, B = b"a" * 32, b"b" * 32


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Any:
    """A manager with a clock that stands still; room for ``features`` bytes beside the slots."""

    def make(slots: int = 3, features: int = 100, **settings: Any) -> CacheManager:
        return CacheManager(slots, SLOT, slots * SLOT + features, clock=clock, **settings)

    return make


def text(*runs: Iterable[int], base: str = "base") -> PrefixKey:
    return PrefixKey(base, np.array([token for run in runs for token in run]))


def page(digest: bytes, question: Iterable[int], preamble: int = 3, tokens: int = 5) -> PrefixKey:
    """A preamble, an image and a question, as the chat template makes them."""
    ids = [*range(preamble), *[7] * tokens, *question]
    return PrefixKey("base", np.array(ids), (ImageSpan(preamble, tokens, digest),))


def run(manager: CacheManager, prompt: PrefixKey, answer: Iterable[int] = (90, 91)) -> Lease:
    """A whole request; the lease as it was given, with the source that it had."""
    lease = manager.acquire(prompt)
    assert lease is not None
    given = Lease(lease.slot, lease.reused, lease.source, prompt, lease.valid)
    manager.copied(lease)
    manager.progress(lease, len(prompt))
    manager.release(lease, prompt.extended(list(answer)))
    manager.check_integrity()
    return given


def live(manager: CacheManager, prompt: PrefixKey, valid: int | None = None) -> Lease:
    """A request that goes on, whose first tokens are in its slot."""
    lease = manager.acquire(prompt)
    assert lease is not None
    manager.copied(lease)
    manager.progress(lease, len(prompt) if valid is None else valid)
    return lease


def cached(manager: CacheManager) -> dict[int, list[int]]:
    return {slot: key.token_ids.tolist() for slot, key in manager.entries()}


def counts(manager: CacheManager) -> dict[str, int]:
    slots = manager.stats()["slots"]
    assert isinstance(slots, dict)
    return slots


def causes(manager: CacheManager) -> Any:
    return manager.stats()["evictions_by_cause"]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "slots is 0: give 1 or more"),
        ({"slot_bytes": 0}, "slot_bytes is 0: give 1 or more"),
        ({"workers": 0}, "workers is 0: give 1 or more"),
        ({"workers": 3}, "workers is 3, there are 2 slots: give 3 slots, or at most 2 workers"),
        ({"ttl_seconds": 0}, "ttl_seconds is 0: give a number above 0"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds is nan: give a number above 0"),
        (
            {"slots": 3, "workers": 2},
            "3 KV slots of 1048577 bytes need 3145731 bytes (4 MB), max_bytes is 3145730: give at least 3145731, or fewer "
            "slots (2097154 bytes for 2)",
        ),
    ],
)
def test_settings_that_cannot_be_met_are_refused_with_what_would_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError) as error:
        CacheManager(**{"slots": 2, "slot_bytes": 2**20 + 1, "max_bytes": 3145730, **settings})
    assert str(error.value) == message


def test_a_budget_of_exactly_the_slots_is_enough(make: Any) -> None:
    assert make(slots=2, features=0).stats()["total_memory_mb"] == f"{2 * SLOT / 2**20:.2f}MB"


def test_an_empty_key_gets_no_slot(make: Any) -> None:
    for method in (make().acquire, make().adopt):
        with pytest.raises(ValueError, match="the key has no token: give one at least"):
            method(text())


# What is worth reusing


def test_a_first_request_is_a_miss_in_the_first_slot(make: Any) -> None:
    given = run(make(), text(range(10)))
    assert (given.slot, given.reused, given.source) == (0, 0, None)


def test_the_same_page_again_reuses_all_but_its_last_token(make: Any) -> None:
    manager = make()
    run(manager, page(A, [10, 11]))
    assert run(manager, page(A, [10, 11])).reused == 9


def test_another_question_about_the_same_page_reuses_the_image(make: Any) -> None:
    manager = make()
    run(manager, page(A, [10, 11]))
    assert run(manager, page(A, [20, 21])).reused == 8


def test_another_page_shares_the_preamble_and_that_is_no_hit(make: Any) -> None:
    manager = make()
    run(manager, page(A, [10, 11]))
    assert run(manager, page(B, [10, 11])).reused == 0
    assert manager.stats()["cache_misses"] == 2


@pytest.mark.parametrize(("preamble", "reused"), [(MIN_SHARED_TOKENS - 1, 0), (MIN_SHARED_TOKENS, MIN_SHARED_TOKENS)])
def test_a_long_common_text_before_another_image_is_reused(make: Any, preamble: int, reused: int) -> None:
    manager = make()
    run(manager, page(A, [10], preamble))
    assert run(manager, page(B, [10], preamble)).reused == reused


@pytest.mark.parametrize(
    ("length", "common", "reused"),
    [(10, 5, 5), (10, 4, 0), (11, 5, 0), (11, 6, 6), (1000, 64, 64), (1000, 63, 0), (1000, 999, 999), (1, 1, 0), (2, 2, 1)],
)
def test_text_alone_is_reused_from_half_of_it_or_64_tokens(make: Any, length: int, common: int, reused: int) -> None:
    manager = make()
    run(manager, text(range(common), [-1]))
    assert run(manager, text(range(length))).reused == reused


def test_nothing_is_shared_with_another_base(make: Any) -> None:
    manager = make()
    run(manager, text(range(100)))
    assert run(manager, text(range(100), base="other")).reused == 0


def test_a_prompt_that_ends_in_an_image_runs_the_whole_image_again(make: Any) -> None:
    """All but the last token would cut it."""
    manager = make()
    ends_in_image = page(A, [], preamble=70)
    run(manager, ends_in_image)
    assert run(manager, ends_in_image).reused == 70


def test_the_longest_of_several_prefixes_is_reused(make: Any) -> None:
    manager = make(slots=4)
    for length in (60, 80, 70):
        run(manager, text(range(length), [-length]), answer=[])
    given = run(manager, text(range(100)))
    assert (given.reused, given.source) == (80, 1)


# Which slot


def test_a_continued_conversation_takes_over_its_slot_in_place(make: Any) -> None:
    manager = make()
    run(manager, text(range(50)), answer=[50, 51])
    given = run(manager, text(range(80)))
    assert (given.slot, given.reused, given.source, given.valid) == (0, 52, None, 52)
    assert counts(manager) == {"free": 2, "live": 0, "cached": 1}
    assert manager.stats()["evictions"] == 0


def test_in_place_comes_before_a_copy_of_the_same_length(make: Any) -> None:
    manager = make()
    run(manager, text(range(50), [1]), answer=[])
    other = live(manager, text(range(50), [2]))
    manager.release(other, text(range(50)))  # its last token is not kept
    assert cached(manager) == {0: [*range(50), 1], 1: list(range(50))}
    given = run(manager, text(range(60)))
    assert (given.slot, given.reused, given.source) == (1, 50, None)


def test_a_prefix_of_a_longer_entry_is_copied_to_a_free_slot(make: Any) -> None:
    manager = make()
    run(manager, page(A, [10, 11]))
    given = run(manager, page(A, [20, 21]))
    assert (given.slot, given.source, given.valid) == (1, 0, 0)
    assert counts(manager) == {"free": 1, "live": 0, "cached": 2}


def test_a_full_cache_gives_up_its_least_recently_used_entry_and_never_the_source(make: Any) -> None:
    manager = make(slots=3)
    for start in (100, 200, 300):
        run(manager, text(range(start, start + 50)))
    given = run(manager, text(range(100, 130), range(10)))  # from the oldest, so the second oldest goes
    assert (given.slot, given.source, given.reused) == (1, 0, 30)
    assert causes(manager) == {"lru": 1, "ttl": 0, "resize": 0}
    assert [tokens[0] for tokens in cached(manager).values()] == [300, 100, 100]


def test_a_hit_makes_its_source_the_most_recently_used(make: Any) -> None:
    manager = make(slots=3)
    for start in (100, 200):
        run(manager, text(range(start, start + 50)))
    lease = manager.acquire(text(range(100, 150), [1]))
    assert lease.source == 0
    assert list(cached(manager)) == [1, 0]


def test_the_last_entry_left_is_taken_over_and_loses_its_tail(make: Any) -> None:
    manager = make(slots=1)
    run(manager, text(range(50)))
    given = run(manager, text(range(40), [1]))
    assert (given.slot, given.reused, given.source, given.valid) == (0, 40, None, 40)
    assert causes(manager)["lru"] == 1


def test_a_miss_evicts_the_only_entry(make: Any) -> None:
    manager = make(slots=1)
    run(manager, text(range(50)))
    assert run(manager, text(range(100, 150))).reused == 0
    assert causes(manager)["lru"] == 1


def test_there_is_no_slot_when_every_slot_is_live_and_nothing_is_counted(make: Any) -> None:
    manager = make(slots=2)
    leases = [manager.acquire(text(range(start, start + 9))) for start in (0, 100)]
    before = manager.stats()
    assert manager.acquire(text(range(5))) is None
    assert manager.stats() == before
    manager.release(leases[1], None)
    again = manager.acquire(text(range(5)))
    assert again is not None
    assert again.slot == 1


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
        with pytest.raises(ValueError, match=f"progress is {tokens} tokens, the prompt has 50: give 0 to all of them"):
            manager.progress(lease, tokens)


def test_rows_that_were_not_copied_cannot_be_built_upon(make: Any) -> None:
    manager = make()
    run(manager, text(range(50)))
    lease = manager.acquire(text(range(40), [1]))
    message = "slot 1 lacks 40 tokens of slot 0: copy them, call copied()"
    for call in (lambda: manager.progress(lease, 41), lambda: manager.release(lease, lease.key)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message
    assert (lease.source, counts(manager)["live"]) == (0, 1)


def pinned_entry(manager: CacheManager) -> Lease:
    """Slot 0 is cached, and the lease in slot 1 is to copy 40 tokens from it."""
    run(manager, text(range(50)), answer=[])
    lease = manager.acquire(text(range(40), [1]))
    assert lease is not None
    assert (lease.slot, lease.source) == (1, 0)
    return lease


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
    live(manager, text(range(60)))
    other = manager._live[2]
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


# The end of a request


def test_prompt_and_answer_stay_behind_as_the_most_recently_used_entry(make: Any) -> None:
    manager = make()
    run(manager, text(range(5)), answer=[8, 9])
    run(manager, text(range(50, 60)), answer=[])
    assert list(cached(manager).items()) == [(0, [0, 1, 2, 3, 4, 8, 9]), (1, list(range(50, 60)))]


@pytest.mark.parametrize("key", [None, text()])
def test_a_request_that_failed_leaves_a_free_slot(make: Any, key: PrefixKey | None) -> None:
    manager = make()
    manager.release(manager.acquire(text(range(9))), key)
    assert counts(manager) == {"free": 3, "live": 0, "cached": 0}


def test_a_second_release_does_nothing_even_to_the_next_owner_of_the_slot(make: Any) -> None:
    manager = make(slots=1)
    first = manager.acquire(text(range(9)))
    manager.release(first, first.key)
    manager.release(first, None)
    assert list(cached(manager)) == [0]
    second = manager.acquire(text(range(50, 60)))
    assert second.slot == first.slot
    manager.release(first, first.key)
    assert counts(manager) == {"free": 0, "live": 1, "cached": 0}


def test_entries_that_the_new_one_contains_are_superseded(make: Any) -> None:
    manager = make(slots=4)
    run(manager, text(range(50), [1]), answer=[])
    run(manager, text(range(50)), answer=[60])
    assert len(cached(manager)) == 2
    again = live(manager, text(range(50)))
    manager.release(again, text(range(50), [60]))  # equal to the second, which was copied
    assert sorted(cached(manager).values()) == [[*range(50), 1], [*range(50), 60]]
    assert (manager.stats()["superseded"], manager.stats()["evictions"]) == (1, 0)


def test_an_entry_with_another_image_is_not_superseded(make: Any) -> None:
    manager = make()
    run(manager, page(A, [10]), answer=[])
    run(manager, page(B, [10]), answer=[11])
    assert len(cached(manager)) == 2


# Without LRU


def test_without_lru_as_many_entries_are_kept_as_leave_the_workers_their_slots(make: Any) -> None:
    manager = make(slots=3, lru=False, workers=2)
    run(manager, text(range(50)))
    run(manager, text(range(100, 150)))
    assert [tokens[0] for tokens in cached(manager).values()] == [0]
    assert (manager.stats()["refused"], manager.stats()["evictions"]) == (1, 0)


def test_without_lru_an_entry_that_supersedes_another_is_kept(make: Any) -> None:
    manager = make(slots=2, lru=False)
    run(manager, text(range(50), [1]), answer=[])
    again = live(manager, text(range(50), [1]))
    assert again.slot == 0
    manager.release(again, text(range(50), [1, 2]))
    assert list(cached(manager).values()) == [[*range(50), 1, 2]]
    assert manager.stats()["refused"] == 0


def test_without_lru_a_refused_entry_supersedes_none(make: Any) -> None:
    manager = make(slots=3)
    for start in (0, 100):
        run(manager, text(range(start, start + 50)), answer=[])
    third = live(manager, text(range(50), [1]))
    manager.configure(lru=False, workers=3)
    manager.release(third, third.key)
    assert len(cached(manager)) == 1
    assert manager.stats()["refused"] == 1


def test_without_lru_an_entry_loses_no_tail_to_a_request_of_its_own_prefix(make: Any) -> None:
    manager = make(slots=2, lru=False)
    run(manager, text(range(50)), answer=[])
    live(manager, text(range(100, 150)))
    assert manager.acquire(text(range(40), [1])) is None
    assert manager.acquire(text(range(60))).slot == 0  # continues it: nothing is lost


def test_entries_that_no_longer_leave_the_workers_their_slots_are_given_up_when_needed(make: Any) -> None:
    manager = make(slots=2)
    for start in (0, 100):
        run(manager, text(range(start, start + 50)))
    manager.configure(lru=False)
    assert manager.acquire(text(range(200, 250))).slot == 0
    assert causes(manager) == {"lru": 0, "ttl": 0, "resize": 1}
    assert manager.acquire(text(range(300, 350))) is None


# Time


def test_an_entry_expires_when_it_was_unused_for_the_whole_time(make: Any, clock: Clock) -> None:
    manager = make(ttl_seconds=10)
    run(manager, text(range(50)))
    clock.now = 9.5
    assert len(cached(manager)) == 1
    clock.now = 10
    assert len(cached(manager)) == 0
    assert causes(manager) == {"lru": 0, "ttl": 1, "resize": 0}


def test_a_hit_begins_the_time_of_its_source_anew(make: Any, clock: Clock) -> None:
    manager = make(ttl_seconds=10)
    run(manager, text(range(50)))
    clock.now = 9
    run(manager, text(range(40), [1]))
    clock.now = 18
    assert len(cached(manager)) == 2
    clock.now = 19
    assert len(cached(manager)) == 0


@pytest.mark.parametrize(
    "call", ["acquire", "stats", "entries", "release", "get_features", "put_features", "adopt", "resize"]
)
def test_whatever_uses_the_cache_finds_no_expired_entry_or_feature(make: Any, clock: Clock, call: str) -> None:
    manager = make(ttl_seconds=10)
    run(manager, text(range(50)))
    assert manager.put_features(A, np.zeros(4, np.int8))
    lease = manager.acquire(text(range(100, 150)))
    clock.now = 10
    arguments: dict[str, tuple[Any, ...]] = {
        "acquire": (text(range(50)),),
        "release": (lease, None),
        "get_features": (A,),
        "put_features": (B, np.zeros(4, np.int8)),
        "adopt": (text(range(50)),),
        "resize": (3, 3 * SLOT + 100),
    }
    found = getattr(manager, call)(*arguments.get(call, ()))
    if call == "acquire":
        assert found.reused == 0
    assert manager._cached == {}
    assert len(manager._features) == (call == "put_features")
    assert causes(manager)["ttl"] == 2


def test_a_live_request_never_expires(make: Any, clock: Clock) -> None:
    manager = make(slots=1, ttl_seconds=10)
    lease = live(manager, text(range(50)))
    clock.now = 1000
    assert counts(manager)["live"] == 1
    manager.release(lease, lease.key)
    assert len(cached(manager)) == 1


# Vision features


def test_features_come_back_as_they_were_given_and_read_only(make: Any) -> None:
    manager = make()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert manager.get_features(A) is None
    assert manager.put_features(A, array)
    array[:] = 0
    found = manager.get_features(A)
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not found.flags.writeable
    stats = manager.stats()
    assert (stats["feature_bytes"], stats["feature_items"], stats["feature_hits"]) == (24, 1, 1)
    assert stats["total_memory_mb"] == f"{(3 * SLOT + 24) / 2**20:.2f}MB"


def test_features_have_what_the_slots_leave_of_the_budget(make: Any) -> None:
    manager = make(features=100)
    assert not manager.put_features(A, np.zeros(101, np.int8))
    assert manager.put_features(A, np.zeros(100, np.int8))
    assert manager.put_features(B, np.zeros(1, np.int8))  # evicts the other
    assert manager.get_features(A) is None
    assert causes(manager) == {"lru": 1, "ttl": 0, "resize": 0}
    assert manager.stats()["feature_bytes"] == 1


def test_the_least_recently_used_features_go_first(make: Any) -> None:
    manager = make(features=100)
    for digest in (b"1", b"2", b"3"):
        manager.put_features(digest, np.zeros(30, np.int8))
    manager.get_features(b"1")
    manager.put_features(b"4", np.zeros(30, np.int8))
    assert [manager.get_features(digest) is not None for digest in (b"1", b"2", b"3", b"4")] == [True, False, True, True]


def test_features_put_again_take_their_own_place(make: Any) -> None:
    manager = make(features=100, lru=False)
    for _ in range(2):
        assert manager.put_features(A, np.zeros(60, np.int8))
    assert (manager.stats()["feature_bytes"], manager.stats()["evictions"]) == (60, 0)


def test_without_lru_features_that_do_not_fit_now_are_refused(make: Any) -> None:
    manager = make(features=100, lru=False)
    assert manager.put_features(A, np.zeros(60, np.int8))
    assert not manager.put_features(B, np.zeros(41, np.int8))
    assert manager.put_features(B, np.zeros(40, np.int8))
    assert manager.get_features(A) is not None


# The whole cache


def test_clear_forgets_what_is_cached_and_leaves_live_requests_alone(make: Any) -> None:
    manager = make()
    run(manager, text(range(50)))
    lease = live(manager, text(range(100, 150)))
    manager.put_features(A, np.zeros(4, np.int8))
    manager.clear()
    assert counts(manager) == {"free": 2, "live": 1, "cached": 0}
    assert manager.stats()["feature_items"] == manager.stats()["evictions"] == 0
    manager.release(lease, lease.key)
    assert list(cached(manager)) == [1]


def test_growing_moves_nothing_and_adds_free_slots(make: Any) -> None:
    manager = make(slots=2)
    run(manager, text(range(50)))
    lease = live(manager, text(range(100, 150)))
    assert manager.resize(4, 4 * SLOT) == {0: 0, 1: 1}
    assert (lease.slot, counts(manager)) == (1, {"free": 2, "live": 1, "cached": 1})


def test_shrinking_keeps_live_slots_and_the_most_recently_used_entries(make: Any) -> None:
    manager = make(slots=5)
    for start in (0, 100, 200):
        run(manager, text(range(start, start + 50)), answer=[])
    lease = live(manager, text(range(300, 350)))
    waiting = manager.acquire(text(range(200, 250), [1]))
    assert (waiting.slot, waiting.source) == (2, None)
    copying = manager.acquire(text(range(300, 350), [1]))
    assert (copying.slot, copying.source) == (4, 3)
    assert manager.resize(4, 4 * SLOT) == {1: 1, 2: 2, 3: 3, 4: 0}
    assert (lease.slot, waiting.slot, copying.slot, copying.source) == (3, 2, 0, 3)
    assert cached(manager) == {1: list(range(100, 150))}
    assert causes(manager) == {"lru": 0, "ttl": 0, "resize": 1}
    manager.check_integrity()


def test_a_source_is_renumbered_with_its_slot_even_when_its_own_request_has_failed(make: Any) -> None:
    manager = make(slots=3)
    first, second = (manager.acquire(text(range(start, start + 50))) for start in (100, 200))
    source = live(manager, text(range(50)))
    manager.release(first, None)
    copying = manager.acquire(text(range(60)))
    assert (source.slot, copying.slot, copying.source) == (2, 0, 2)
    manager.release(second, None)
    manager.release(source, None)
    assert manager.resize(2, 2 * SLOT) == {0: 0, 2: 1}
    assert (copying.slot, copying.source) == (0, 1)
    assert counts(manager) == {"free": 0, "live": 2, "cached": 0}
    manager.check_integrity()
    manager.copied(copying)
    assert counts(manager) == {"free": 1, "live": 1, "cached": 0}


def test_features_shrink_with_their_part_of_the_budget(make: Any) -> None:
    manager = make(slots=1, features=100)
    for digest in (A, B):
        manager.put_features(digest, np.zeros(40, np.int8))
    manager.resize(1, SLOT + 50)
    assert manager.get_features(A) is None
    assert manager.get_features(B) is not None
    assert causes(manager)["resize"] == 1


@pytest.mark.parametrize(
    ("slots", "max_bytes", "message"),
    [
        (1, SLOT, "slots is 1, requests use 2 now: give 2, or wait until they end"),
        (0, SLOT, "slots is 0: give 1 or more"),
        (3, 2 * SLOT, "3 KV slots of 1000 bytes need 3000 bytes (1 MB), max_bytes is 2000: give at least 3000"),
    ],
)
def test_a_resize_that_cannot_be_done_changes_nothing(make: Any, slots: int, max_bytes: int, message: str) -> None:
    manager = make(slots=3)
    run(manager, text(range(50)))
    leases = [live(manager, text(range(start, start + 50))) for start in (100, 200)]
    before = (manager.stats(), cached(manager), [lease.slot for lease in leases])
    with pytest.raises(SetupError) as error:
        manager.resize(slots, max_bytes)
    assert str(error.value).startswith(message)
    assert (manager.stats(), cached(manager), [lease.slot for lease in leases]) == before


def test_pinned_slots_count_as_used_when_shrinking(make: Any) -> None:
    manager = make(slots=2)
    pinned_entry(manager)
    with pytest.raises(SetupError, match="slots is 1, requests use 2 now"):
        manager.resize(1, SLOT)


def test_settings_are_changed_one_by_one_and_checked_together(make: Any, clock: Clock) -> None:
    manager = make(slots=2)
    with pytest.raises(SetupError, match="workers is 3, there are 2 slots"):
        manager.configure(ttl_seconds=5, workers=3)
    with pytest.raises(SetupError, match="workers is 2, there are 1 slots"):
        manager.configure(workers=2)
        manager.resize(1, SLOT)
    run(manager, text(range(50)))
    clock.now = 5
    assert len(cached(manager)) == 1  # the time of the first call was not taken
    manager.configure(ttl_seconds=5)
    assert len(cached(manager)) == 0


# Entries from disk


def test_an_adopted_entry_is_found_only_when_its_rows_are_there(make: Any) -> None:
    manager = make()
    lease = manager.adopt(text(range(50)))
    assert (lease.slot, lease.reused, lease.source) == (0, 0, None)
    other = manager.acquire(text(range(60)))
    assert other.reused == 0
    manager.release(other, None)
    manager.release(lease, lease.key)
    assert manager.acquire(text(range(60))).reused == 50
    assert (manager.stats()["cache_hits"], manager.stats()["cache_misses"]) == (1, 1)


def test_adopting_is_neither_a_hit_nor_a_miss(make: Any) -> None:
    manager = make()
    lease = manager.adopt(text(range(50)))
    manager.release(lease, lease.key)
    assert (manager.stats()["total_requests"], manager.stats()["tokens_computed"]) == (0, 0)


def test_adopting_leaves_the_workers_their_slots_and_evicts_nothing(make: Any) -> None:
    manager = make(slots=3, workers=2)
    lease = manager.adopt(text(range(50)))
    assert manager.adopt(text(range(100, 150))) is None
    manager.release(lease, lease.key)
    assert manager.adopt(text(range(100, 150))) is None
    assert counts(manager) == {"free": 2, "live": 0, "cached": 1}


def test_what_is_cached_already_is_not_adopted(make: Any) -> None:
    manager = make(slots=4)
    run(manager, text(range(50)), answer=[])
    assert manager.adopt(text(range(50))) is None
    assert manager.adopt(text(range(30))) is None
    assert manager.adopt(text(range(51))) is not None


# Statistics


def test_statistics_begin_with_the_promised_keys_and_count_every_request(make: Any) -> None:
    manager = make(slots=3, features=100)
    run(manager, page(A, [10, 11]))
    run(manager, page(A, [10, 11]))
    run(manager, page(B, [10, 11]))
    assert list(manager.stats().items()) == [
        ("total_requests", 3),
        ("cache_hits", 1),
        ("cache_misses", 2),
        ("hit_rate", "33.33%"),
        ("total_memory_mb", "0.00MB"),
        ("evictions", 0),
        ("cache_items", 2),
        ("tokens_reused", 9),
        ("tokens_computed", 21),
        ("kv_bytes", 3000),
        ("feature_bytes", 0),
        ("feature_items", 0),
        ("feature_hits", 0),
        ("evictions_by_cause", {"lru": 0, "ttl": 0, "resize": 0}),
        ("superseded", 1),
        ("refused", 0),
        ("slots", {"free": 1, "live": 0, "cached": 2}),
    ]
    manager.reset_stats()
    assert (manager.stats()["total_requests"], manager.stats()["cache_items"]) == (0, 2)


# The check itself


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: m._cached.update({1: Entry(text([1]), 0.0)}), "slot 1 is live and cached"),
        (lambda m: m._cached.update({7: Entry(text([1]), 0.0)}), "slot 7 is not one of 3"),
        (lambda m: m._cached.update({2: Entry(text(), 0.0)}), "slot 2 caches nothing"),
        (lambda m: m._cached.update({2: Entry(text([1]), -1.0)}), "entries are not in the order of their last use"),
        (lambda m: m._cached.update({2: Entry(text([1]), 9.0)}), "entries are not in the order of their last use"),
        (lambda m: m._features.put(A, np.zeros(101, np.int8), 0.0), "3101 bytes are held, max_bytes is 3100"),
        (
            lambda m: m._cached.update({0: Entry(text([5]), 0.0)}),
            "slot 1 is to copy 40 tokens from slot 0, which holds others",
        ),
        (lambda m: setattr(m._live[1], "source", 1), "slot 1 is to copy 40 tokens from slot 1, which holds others"),
        (lambda m: setattr(m._live[1], "source", 5), "slot 5 is not one of 3"),
        (lambda m: setattr(m._live[1], "slot", 2), "slot 1 is leased as slot 2"),
        (lambda m: setattr(m._live[1], "valid", 99), "slot 1: 40 reused and 99 valid of 41 tokens"),
        (lambda m: setattr(m._stats, "hits", 90), "the statistics do not add up"),
        (lambda m: m._stats.evictions_by_cause.update(lru=-1), "a counter is below 0"),
    ],
)
def test_a_cache_that_contradicts_itself_is_found_out(make: Any, damage: Any, words: str) -> None:
    manager = make(slots=3, features=100)
    pinned_entry(manager)
    manager.check_integrity()
    damage(manager)
    with pytest.raises(AssertionError) as error:
        manager.check_integrity()
    assert words in str(error.value)


# Threads


def test_threads_that_share_few_slots_never_find_rows_that_are_not_theirs() -> None:
    """Each thread does what a model does, on lists; a slot that had two owners would hold a mixture."""
    manager = CacheManager(3, SLOT, 3 * SLOT + 64, ttl_seconds=0.02)
    rows: list[list[int]] = [[], [], []]
    faults: list[BaseException] = []
    served = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for number in range(400):
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
