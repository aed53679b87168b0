"""Tests of the rules of the cache manager: reuse, choice of slots, entries and statistics."""

from typing import Any

import numpy as np
import pytest

from mindnlp_ocr.cache.keys import PrefixKey
from mindnlp_ocr.cache.lease import Entry
from mindnlp_ocr.cache.manager import MIN_SHARED_TOKENS, CacheManager
from mindnlp_ocr.errors import SetupError
from tests.cache.serving import SLOT, A, B, cached, causes, counts, live, page, pinned_entry, run, text

# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "slots is 0: use 1 or more"),
        ({"slot_bytes": 0}, "slot_bytes is 0: use 1 or more"),
        ({"workers": 0}, "workers is 0: use 1 or more"),
        ({"workers": 3}, "workers is 3, but there are 2 slots: use 3 slots, or at most 2 workers"),
        ({"ttl_seconds": 0}, "ttl_seconds is 0: use a number above 0"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds is nan: use a number above 0"),
        (
            {"slots": 3, "workers": 2},
            "3 KV slots of 1048577 bytes need 3145731 bytes (4 MB), but max_bytes is 3145730: use at least 3145731, or "
            "fewer slots (2097154 bytes for 2)",
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
        with pytest.raises(ValueError, match="the key has no tokens: pass at least one"):
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
    """Reusing all tokens except the last would split the image."""
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


# Statistics


def test_statistics_begin_with_the_documented_keys_and_count_every_request(make: Any) -> None:
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
def test_inconsistent_state_is_detected(make: Any, damage: Any, words: str) -> None:
    manager = make(slots=3, features=100)
    pinned_entry(manager)
    manager.check_integrity()
    damage(manager)
    with pytest.raises(AssertionError) as error:
        manager.check_integrity()
    assert words in str(error.value)
