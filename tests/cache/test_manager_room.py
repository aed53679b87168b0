"""Tests of eviction: without LRU, by age, for features, on resizing, and for entries from disk."""

from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.errors import SetupError
from tests.cache.serving import SLOT, A, B, Clock, cached, causes, counts, live, pinned_entry, run, text

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
        (1, SLOT, "slots is 1, but requests use 2: use 2, or wait until they end"),
        (0, SLOT, "slots is 0: use 1 or more"),
        (3, 2 * SLOT, "3 KV slots of 1000 bytes need 3000 bytes (1 MB), but max_bytes is 2000: use at least 3000"),
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
    with pytest.raises(SetupError, match="slots is 1, but requests use 2"):
        manager.resize(1, SLOT)


def test_settings_are_changed_one_by_one_and_checked_together(make: Any, clock: Clock) -> None:
    manager = make(slots=2)
    with pytest.raises(SetupError, match="workers is 3, but there are 2 slots"):
        manager.configure(ttl_seconds=5, workers=3)
    with pytest.raises(SetupError, match="workers is 2, but there are 1 slots"):
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
