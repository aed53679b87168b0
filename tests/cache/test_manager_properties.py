"""The cache manager under random use, beside a model of its caller that writes every row.

A row stands for the keys and values of one token. They depend on all tokens and images up to it, so a row here is a hash of
all of them: rows that are equal are keys and values that are equal, bit for bit.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey
from mindnlp_ocr.cache.lease import Lease
from mindnlp_ocr.cache.manager import CacheManager
from mindnlp_ocr.errors import SetupError

SLOT = 100  # bytes
TTL = 20.0
PREAMBLE = [1, 2, 3]
LONG = list(range(100, 161))  # with the preamble, 64 tokens
ANSWERS = st.lists(st.sampled_from([4, 5, 6]), max_size=3)


@st.composite
def prompts(draw: st.DrawFn) -> PrefixKey:
    """Prompts of a preamble, images and text from so few values that prompts often share a prefix."""
    ids = list(PREAMBLE) + draw(st.sampled_from([[], [], LONG[:60], LONG[:61]]))
    images = []
    for digest in draw(st.sampled_from([b"", b"a", b"b", b"ab"])):
        images.append(ImageSpan(len(ids), draw(st.sampled_from([3, 3, 3, 4])), bytes([digest])))
        ids += [7] * images[-1].tokens
    ids += draw(st.lists(st.sampled_from([4, 5]), min_size=0 if images else 1, max_size=3))
    return PrefixKey(draw(st.sampled_from(["f32"] * 9 + ["f16"])), np.array(ids), tuple(images))


def rows_of(key: PrefixKey) -> list[int]:
    spans = {index: image for image in key.images for index in range(image.start, image.end)}
    rows, state = [], hash(key.base)
    for index, token in enumerate(key.token_ids.tolist()):
        state = hash((state, token, spans.get(index)))
        rows.append(state)
    return rows


def shared(rows: list[int], others: list[int], key: PrefixKey) -> int:
    """Leading rows that are equal, up to the last whole image of the key."""
    count = next((i for i, (a, b) in enumerate(zip(rows, others, strict=False)) if a != b), min(len(rows), len(others)))
    return max(n for n in range(count + 1) if not any(image.start < n < image.end for image in key.images))


def worth(key: PrefixKey, tokens: int) -> bool:
    whole_image = any(image.end <= tokens for image in key.images)
    return whole_image or tokens >= 64 or (not key.images and tokens * 2 >= len(key))


@dataclass
class Request:
    """A lease that the modelled caller holds."""

    lease: Lease
    adopted: bool = False
    answer: list[int] = field(default_factory=list)
    written: int = 0  # rows of the prompt and answer that are in the slot
    announced: int = 0  # rows of the prompt that others were told of

    @property
    def key(self) -> PrefixKey:
        return self.lease.key.extended(self.answer)


class Caller(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows: dict[int, list[int]] = {}
        self.requests: list[Request] = []
        self.ended: list[Request] = []
        self.kept: dict[int, tuple[PrefixKey, float]] = {}  # slot -> what was kept, and its last use; the latest is last
        self.seen: list[PrefixKey] = []
        self.features: dict[bytes, tuple[bytes, float]] = {}
        self.hits = self.misses = self.reused = self.computed = self.evicted = 0

    @initialize(
        slots=st.sampled_from([1, 2, 3, 3, 4, 5]),
        room=st.sampled_from([0, 40, 50, 60]),
        lru=st.sampled_from([True, True, False]),
        workers=st.integers(1, 3),
    )
    def start(self, slots: int, room: int, lru: bool, workers: int) -> None:
        self.slots, self.room, self.lru, self.workers, self.ttl = slots, room, lru, min(slots, workers), TTL
        self.manager = CacheManager(
            slots, SLOT, slots * SLOT + room, lru=lru, ttl_seconds=TTL, workers=self.workers, clock=lambda: self.now
        )

    # What the model of the caller knows

    def pinned(self) -> set[int]:
        return {request.lease.source for request in self.requests if request.lease.source is not None}

    def live(self) -> dict[int, Request]:
        return {request.lease.slot: request for request in self.requests}

    def expire(self) -> None:
        """Model the expiry of entries, which the manager does first in every call."""
        old = [slot for slot, (_, used) in self.kept.items() if self.now - used >= self.ttl and slot not in self.pinned()]
        for slot in old:
            del self.kept[slot]
        faded = [digest for digest, (_, used) in self.features.items() if self.now - used >= self.ttl]
        for digest in faded:
            del self.features[digest]
        self.evicted += len(old) + len(faded)

    def evict(self, slot: int) -> None:
        del self.kept[slot]
        self.evicted += 1

    def one_of(self, data: st.DataObject, requests: list[Request]) -> Request:
        return requests[data.draw(st.integers(0, len(requests) - 1), label="request")]

    # Requests

    @rule(prompt=prompts())
    def ask(self, prompt: PrefixKey) -> None:
        self.acquire(prompt)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), question=st.lists(st.sampled_from([4, 5]), max_size=3))
    def go_on(self, data: st.DataObject, question: list[int]) -> None:
        """Continue a conversation, or read the same page again."""
        self.acquire(data.draw(st.sampled_from(self.seen)).extended(question))

    @rule(prompt=prompts(), answer=ANSWERS)
    def serve(self, prompt: PrefixKey, answer: list[int]) -> None:
        """Run a complete request while the others wait."""
        self.finish(self.acquire(prompt), answer)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), question=ANSWERS, answer=ANSWERS)
    def serve_again(self, data: st.DataObject, question: list[int], answer: list[int]) -> None:
        self.finish(self.acquire(data.draw(st.sampled_from(self.seen)).extended(question)), answer)

    def acquire(self, prompt: PrefixKey) -> Request | None:
        self.expire()
        wanted, pinned, live = rows_of(prompt), self.pinned(), self.live()
        offers = {slot: shared(wanted, self.rows[slot][: len(key)], prompt) for slot, (key, _) in self.kept.items()}
        offers |= {slot: shared(wanted, self.rows[slot][: r.announced], prompt) for slot, r in live.items()}
        ends = shared(wanted, wanted[:-1], prompt)
        best = max((min(offer, ends) for offer in offers.values()), default=0)
        best = best if worth(prompt, best) else 0
        vacant = set(range(self.slots)) - live.keys() - self.kept.keys() - pinned
        idle = [slot for slot in self.kept if slot not in pinned]
        may_evict = self.lru or len(self.kept) > self.slots - self.workers
        continued = [slot for slot in idle if best and best == min(offers[slot], ends) and self.is_prefix(slot, prompt)]

        lease = self.manager.acquire(prompt)
        if lease is None:
            assert not vacant and not continued and not (idle and may_evict)
            return None
        assert lease.slot not in live and lease.slot not in pinned
        assert lease.reused == best
        self.hits, self.misses = self.hits + (best > 0), self.misses + (best == 0)
        self.reused, self.computed = self.reused + best, self.computed + len(prompt) - best
        if continued:
            assert lease.slot in continued and lease.source is None
            del self.kept[lease.slot]
        elif lease.slot in self.kept:
            others = [slot for slot in idle if slot != lease.source]
            assert not vacant and may_evict
            own_source = bool(best) and lease.source is None
            assert others == [lease.slot] if own_source else others[0] == lease.slot
            self.evict(lease.slot)
        else:
            assert lease.slot in vacant
        if lease.source in self.kept:
            self.kept[lease.source] = (self.kept.pop(lease.source)[0], self.now)
        held = self.rows.setdefault(lease.slot, []) if lease.source is None else self.rows[lease.source]
        assert held[:best] == wanted[:best]  # bit for bit
        request = Request(lease)
        if lease.source is None:
            self.rows[lease.slot] = held[:best]
            request.written = request.announced = best
        self.requests.append(request)
        return request

    def is_prefix(self, slot: int, prompt: PrefixKey) -> bool:
        rows = rows_of(self.kept[slot][0])
        return rows_of(prompt)[: len(rows)] == rows

    @precondition(lambda self: any(r.lease.source is not None for r in self.requests))
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        self.copy_rows(self.one_of(data, [r for r in self.requests if r.lease.source is not None]))

    def copy_rows(self, request: Request) -> None:
        lease = request.lease
        assert lease.source is not None
        self.rows[lease.slot] = self.rows[lease.source][: lease.reused]
        request.written = request.announced = lease.reused
        self.manager.copied(lease)
        self.manager.copied(lease)
        assert lease.source is None

    @precondition(lambda self: any(r.lease.source is None for r in self.requests))
    @rule(data=st.data(), tokens=st.integers(1, 80), tell=st.booleans())
    def prefill(self, data: st.DataObject, tokens: int, tell: bool) -> None:
        request = self.one_of(data, [r for r in self.requests if r.lease.source is None])
        written = min(len(request.lease.key), request.written + tokens)
        if written > request.written:
            self.rows[request.lease.slot][request.written :] = rows_of(request.lease.key)[request.written : written]
            request.written = written
        if tell and not request.adopted:
            request.announced = min(written, len(request.lease.key))
            self.manager.progress(request.lease, request.announced)

    @precondition(lambda self: any(r.lease.source is None for r in self.requests))
    @rule(data=st.data(), answer=ANSWERS, cut_off=st.sampled_from([False, False, True]))
    def end(self, data: st.DataObject, answer: list[int], cut_off: bool) -> None:
        """Run the rest of a request, or interrupt it and keep its current tokens."""
        request = self.one_of(data, [r for r in self.requests if r.lease.source is None])
        if cut_off:
            self.release(request, request.key.prefix(request.key.uncut(request.written)))
        else:
            self.finish(request, answer)

    def finish(self, request: Request | None, answer: list[int]) -> None:
        if request is None:
            return
        if request.lease.source is not None:
            self.copy_rows(request)
        request.answer = [] if request.adopted else answer
        request.written = len(request.key)
        self.rows[request.lease.slot] = rows_of(request.key)
        self.release(request, request.key)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.release(self.one_of(data, self.requests), None)

    def release(self, request: Request, key: PrefixKey | None) -> None:
        slot = request.lease.slot
        self.requests.remove(request)
        self.ended.append(request)
        self.manager.release(request.lease, key)
        self.expire()
        if key:
            new = rows_of(key)
            contained = [
                old
                for old, (entry, _) in self.kept.items()
                if old not in self.pinned() and new[: len(entry)] == rows_of(entry)
            ]
            if self.lru or len(self.kept) - len(contained) + 1 <= self.slots - self.workers:
                for old in contained:
                    del self.kept[old]
                self.kept[slot] = (key, self.now)
                self.seen = [*self.seen[-5:], key]

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), key=st.one_of(st.none(), prompts()))
    def release_again(self, data: st.DataObject, key: PrefixKey | None) -> None:
        self.expire()
        self.manager.release(self.one_of(data, self.ended).lease, key)
        self.manager.stats()  # the second release does not even look at the time

    @rule(key=prompts())
    def adopt(self, key: PrefixKey) -> None:
        self.expire()
        free = set(range(self.slots)) - self.live().keys() - self.kept.keys() - self.pinned()
        known = any(rows_of(entry)[: len(key)] == rows_of(key) for entry, _ in self.kept.values())
        lease = self.manager.adopt(key)
        assert (lease is None) == (known or len(free) <= self.workers)
        if lease is not None:
            assert lease.slot in free and (lease.reused, lease.source) == (0, None)
            self.rows[lease.slot] = []
            self.requests.append(Request(lease, adopted=True))

    # Features, time and settings

    @rule(digest=st.sampled_from([b"a", b"b", b"c"]), size=st.sampled_from([0, 0, 1, 15, 25, 70]), fill=st.integers(0, 255))
    def use_features(self, digest: bytes, size: int, fill: int) -> None:
        self.expire()
        if size:
            self.put_features(digest, np.full(size, fill, np.uint8))
        found = self.manager.get_features(digest)
        assert (None if found is None else found.tobytes()) == self.features.get(digest, (None,))[0]
        if found is not None:
            self.features[digest] = (self.features.pop(digest)[0], self.now)

    def put_features(self, digest: bytes, array: np.ndarray[Any, Any]) -> None:
        size = array.nbytes
        fits = self.manager.put_features(digest, array)
        self.features.pop(digest, None)
        held = sum(len(content) for content, _ in self.features.values())
        assert fits == (size <= self.room if self.lru else size + held <= self.room)
        if fits:
            while sum(len(content) for content, _ in self.features.values()) > self.room - size:
                del self.features[next(iter(self.features))]
                self.evicted += 1
            self.features[digest] = (array.tobytes(), self.now)
        array[:] = 0

    @rule(seconds=st.sampled_from([0.5, 0.5, 1.0, 7.0, TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data(), what=st.sampled_from(["clear", "configure", "configure", "resize", "resize", "resize"]))
    def change(self, data: st.DataObject, what: str) -> None:
        if what == "clear":
            self.clear()
        elif what == "configure":
            lru, ttl = data.draw(st.booleans()), data.draw(st.sampled_from([5.0, TTL, TTL]))
            self.configure(lru, data.draw(st.integers(1, 4)), ttl)
        else:
            busy = len(self.live().keys() | self.pinned())
            self.resize(data.draw(st.sampled_from([busy, busy + 1, 4, 6, 0])), data.draw(st.integers(-5, 60)))

    def clear(self) -> None:
        self.manager.clear()
        self.kept.clear()
        self.features.clear()

    def configure(self, lru: bool, workers: int, ttl: float) -> None:
        self.expire()
        self.manager.stats()
        try:
            self.manager.configure(lru=lru, workers=workers, ttl_seconds=ttl)
        except SetupError:
            assert workers > self.slots
        else:
            self.lru, self.workers, self.ttl = lru, workers, ttl

    def resize(self, slots: int, room: int) -> None:
        self.expire()
        busy = self.live().keys() | self.pinned()
        before = self.manager.stats()
        idle = [slot for slot in self.kept if slot not in busy]
        try:
            moves = self.manager.resize(slots, slots * SLOT + room)
        except SetupError:
            assert slots < max(1, self.workers, len(busy)) or room < 0
            assert self.manager.stats() == before
            return
        assert busy <= moves.keys() <= busy | self.kept.keys()
        assert len(set(moves.values())) == len(moves)
        assert all(0 <= new < slots and (new == old or old >= slots) for old, new in moves.items())
        gone = [slot for slot in self.kept if slot not in moves]
        assert gone == idle[: max(0, len(busy) + len(idle) - slots)]
        for slot in gone:
            self.evict(slot)
        self.rows = {new: self.rows.get(old, []) for old, new in moves.items()}
        self.kept = {moves[slot]: entry for slot, entry in self.kept.items()}
        self.slots, self.room = slots, room
        while sum(len(content) for content, _ in self.features.values()) > room:
            del self.features[next(iter(self.features))]
            self.evicted += 1

    # What always holds

    @invariant()
    def the_manager_does_not_contradict_itself(self) -> None:
        self.manager.check_integrity()

    @invariant()
    def no_slot_changes_under_its_owner_nor_under_those_who_copy_from_it(self) -> None:
        for request in self.requests:
            lease = request.lease
            slot, count = (lease.slot, request.written) if lease.source is None else (lease.source, lease.reused)
            assert self.rows[slot][:count] == rows_of(request.key)[:count]

    @invariant()
    def the_manager_holds_what_the_rules_say_and_the_slots_hold_it_too(self) -> None:
        self.expire()
        entries = self.manager.entries()
        assert [(s, key.digest()) for s, key in entries] == [(s, key.digest()) for s, (key, _) in self.kept.items()]
        assert self.manager._features.uses == [used for _, used in self.features.values()]
        for slot, key in entries:
            assert self.rows[slot][: len(key)] == rows_of(key)
        for slot in set(range(self.slots)) - self.kept.keys() - self.live().keys() - self.pinned():
            self.rows[slot] = []  # nobody may find anything in a free slot

    @invariant()
    def the_statistics_are_those_of_the_requests(self) -> None:
        stats: dict[str, Any] = self.manager.stats()
        assert (stats["cache_hits"], stats["cache_misses"]) == (self.hits, self.misses)
        assert stats["total_requests"] == self.hits + self.misses
        assert (stats["tokens_reused"], stats["tokens_computed"]) == (self.reused, self.computed)
        assert stats["evictions"] == sum(stats["evictions_by_cause"].values()) == self.evicted
        assert stats["feature_bytes"] == sum(len(content) for content, _ in self.features.values()) <= self.room
        assert stats["kv_bytes"] == self.slots * SLOT
        assert sum(stats["slots"].values()) == self.slots
        assert stats["slots"]["cached"] == stats["cache_items"] == len(self.kept)
        assert stats["slots"]["live"] == len((self.live().keys() | self.pinned()) - self.kept.keys())


TestCaller = Caller.TestCase
TestCaller.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
