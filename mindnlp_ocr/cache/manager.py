"""Assignment of KV slots to requests and cached prefixes. It handles slot numbers and sizes only, no tensors."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from mindnlp_ocr.cache.features import FeatureTier
from mindnlp_ocr.cache.keys import PrefixKey
from mindnlp_ocr.cache.lease import Entry, Lease, slot_faults
from mindnlp_ocr.cache.stats import CacheStats, Cause
from mindnlp_ocr.errors import SetupError

MIN_SHARED_TOKENS = 64  # all prompts share the preamble of the chat template, which alone must not count as a hit


class CacheManager:
    """Assigns slots to requests, and keeps the prefixes of finished requests for reuse.

    Every slot is free, live (leased) or cached (it holds an entry: prompt and answer of a finished request). A slot from
    which another request still has to copy rows is pinned: it is not reassigned, even if its own request ends or its entry
    is cleared. Methods may be called from any thread.

    Args:
        slots: number of preallocated slots.
        slot_bytes: bytes of one slot.
        max_bytes: maximum size of slots and vision features together; features get what the slots leave.
        lru: evict the least recently used entry when full. If False, new entries that do not fit are not kept.
        ttl_seconds: entries and features that were not used for this time expire at the next use of the cache.
        workers: number of concurrent requests. ``adopt``, and every entry if ``lru`` is False, leaves this many slots free.
        clock: returns a monotonic time in seconds.

    Raises:
        SetupError: the slots exceed ``max_bytes`` or are fewer than the workers, or a number is not positive.
    """

    def __init__(
        self,
        slots: int,
        slot_bytes: int,
        max_bytes: int,
        *,
        lru: bool = True,
        ttl_seconds: float = 300.0,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(slots, slot_bytes, max_bytes, ttl_seconds, workers)
        self._slots, self._slot_bytes, self._max_bytes = slots, slot_bytes, max_bytes
        self._lru, self._ttl_seconds, self._workers = lru, ttl_seconds, workers
        self._clock = clock
        self._lock = threading.RLock()
        self._stats = CacheStats()
        self._live: dict[int, Lease] = {}
        self._cached: dict[int, Entry] = {}  # from the least to the most recently used
        self._features = FeatureTier()

    # Requests

    def acquire(self, key: PrefixKey) -> Lease | None:
        """Lease a slot for a prompt, and find the longest cached prefix that is worth reusing.

        If the prompt continues an entry, the entry's own slot is leased. Any other prefix has to be copied from ``source``.

        Returns:
            The lease, or None if every slot is live or pinned: try again when a request has ended. The statistics do not
            count such a call.

        Raises:
            ValueError: the key has no tokens.
        """
        if not key:
            raise ValueError("the key has no tokens: pass at least one")
        with self._lock:
            self._expire()
            reused, continued, source = self._longest(key)
            slot = source if continued else self._vacant_slot(source)
            if slot is None:
                return None
            if source in self._cached:
                self._cached[source] = self._cached.pop(source)._replace(used=self._clock())
            if source == slot:
                self._cached.pop(slot, None)
                source = None
            lease = Lease(slot, reused, source, key, valid=reused if source is None else 0)
            self._live[slot] = lease
            self._stats.hits += reused > 0
            self._stats.misses += reused == 0
            self._stats.tokens_reused += reused
            self._stats.tokens_computed += len(key) - reused
            return lease

    def lookup(self, key: PrefixKey) -> int:
        """Return how many tokens :meth:`acquire` would reuse now. The statistics do not count the call."""
        with self._lock:
            self._expire()
            return self._longest(key)[0]

    def copied(self, lease: Lease) -> None:
        """Record that the first ``reused`` rows were copied into the lease's own slot; its source is no longer pinned."""
        with self._lock:
            if lease.source is not None:
                lease.source, lease.valid = None, max(lease.valid, lease.reused)

    def progress(self, lease: Lease, tokens: int) -> None:
        """Record that the rows of the first ``tokens`` tokens are in the lease's slot, so that other requests may copy them.

        Raises:
            ValueError: there are more tokens than the key has, or ``source`` was not copied.
        """
        with self._lock:
            if not 0 <= tokens <= len(lease.key):
                raise ValueError(f"progress is {tokens} tokens, but the prompt has {len(lease.key)}: do not exceed it")
            lease.check_copied()
            lease.valid = max(lease.valid, tokens)

    def release(self, lease: Lease, key: PrefixKey | None) -> None:
        """Return the slot of a request that ended. A second release of the same lease does nothing.

        Args:
            lease: the result of ``acquire`` or ``adopt``.
            key: exactly the sequence that the slot now holds. It is kept as the most recently used entry, and entries that
                are a prefix of it are dropped. None: the slot becomes free.

        Raises:
            ValueError: a key was given although ``source`` was not copied.
        """
        with self._lock:
            if self._live.get(lease.slot) is not lease:
                return
            if key:
                lease.check_copied()
            del self._live[lease.slot]  # its pin goes with it
            self._expire()
            if key:
                self._keep(lease.slot, key)

    def adopt(self, key: PrefixKey) -> Lease | None:
        """Lease a free slot for an entry from disk: write its rows, then call ``release(lease, key)``.

        The statistics count neither a hit nor a miss.

        Returns:
            The lease, or None if the cache holds the entry or a longer one, or if fewer than ``workers`` free slots would be
            left.

        Raises:
            ValueError: the key has no tokens.
        """
        if not key:
            raise ValueError("the key has no tokens: pass at least one")
        with self._lock:
            self._expire()
            free = self._free()
            known = any(len(key) == key.common(entry.key) for entry in self._cached.values())
            if known or len(free) <= self._workers:
                return None
            self._live[free[0]] = Lease(free[0], 0, None, key, valid=0)
            return self._live[free[0]]

    # Vision features

    def get_features(self, digest: bytes) -> NDArray[Any] | None:
        """Return the read-only features of the image with this digest, or None if they are not cached."""
        with self._lock:
            self._expire()
            array = self._features.get(digest, self._clock())
            self._stats.feature_hits += array is not None
            return array

    def put_features(self, digest: bytes, array: NDArray[Any]) -> bool:
        """Keep a copy of an image's features. Return False if they do not fit; without LRU, nothing is evicted for them."""
        with self._lock:
            self._expire()
            self._features.drop(digest)
            room = self._feature_room() - array.nbytes
            if room < (0 if self._lru else self._features.nbytes):
                return False
            self._stats.evictions_by_cause["lru"] += self._features.shrink(room)
            self._features.put(digest, array, self._clock())
            return True

    def forget_features(self) -> None:
        """Discard all features, because the weights of the vision tower have changed."""
        with self._lock:
            self._features.clear()

    # The whole cache

    def clear(self) -> None:
        """Discard all entries and features. Running requests continue."""
        with self._lock:
            self._cached.clear()
            self._features.clear()

    def entries(self) -> list[tuple[int, PrefixKey]]:
        """Return slot and key of every entry, the least recently used first."""
        with self._lock:
            self._expire()
            return [(slot, entry.key) for slot, entry in self._cached.items()]

    def configure(self, *, lru: bool | None = None, ttl_seconds: float | None = None, workers: int | None = None) -> None:
        """Change the settings that are not None. If LRU is switched off, surplus entries are evicted when slots are needed.

        Raises:
            SetupError: see the constructor. Nothing is changed in this case.
        """
        with self._lock:
            ttl_seconds = self._ttl_seconds if ttl_seconds is None else ttl_seconds
            workers = self._workers if workers is None else workers
            _check(self._slots, self._slot_bytes, self._max_bytes, ttl_seconds, workers)
            self._lru = self._lru if lru is None else lru
            self._ttl_seconds, self._workers = ttl_seconds, workers

    def resize(self, slots: int, max_bytes: int) -> dict[int, int]:
        """Change the number of slots. No request may run a step meanwhile, because the slots of live leases are renumbered.

        Returns:
            A mapping from old to new slot numbers. It contains every slot whose rows are kept: all live and pinned slots,
            and the most recently used entries that fit. A number stays the same if possible.

        Raises:
            SetupError: see the constructor; or more slots are live or pinned than requested. Nothing is changed in this
                case.
        """
        with self._lock:
            _check(slots, self._slot_bytes, max_bytes, self._ttl_seconds, self._workers)
            pinned = self._pinned()
            busy = self._live.keys() | pinned
            if len(busy) > slots:
                raise SetupError(
                    f"slots is {slots}, but requests use {len(busy)}: use {len(busy)}, or wait until they end",
                    code="slots_in_use",
                )
            self._expire()
            idle = [slot for slot in self._cached if slot not in pinned]
            for slot in idle[: max(0, len(busy) + len(idle) - slots)]:
                self._evict(slot, "resize")
            kept = sorted(busy | self._cached.keys())
            vacant = (slot for slot in range(slots) if slot not in kept)
            moves = {slot: slot if slot < slots else next(vacant) for slot in kept}
            self._slots, self._max_bytes = slots, max_bytes
            self._cached = {moves[slot]: entry for slot, entry in self._cached.items()}
            for lease in self._live.values():
                lease.slot = moves[lease.slot]
                lease.source = None if lease.source is None else moves[lease.source]
            self._live = {lease.slot: lease for lease in self._live.values()}
            self._stats.evictions_by_cause["resize"] += self._features.shrink(self._feature_room())
            return moves

    def stats(self) -> dict[str, int | str | dict[str, int]]:
        """Return the counters since ``reset_stats`` and the current contents, as documented for ``get_cache_stats``."""
        with self._lock:
            self._expire()
            kv_bytes, feature_bytes = self._slots * self._slot_bytes, self._features.nbytes
            free, cached = len(self._free()), len(self._cached)
            counted = self._stats
            return {
                **counted.as_dict(kv_bytes + feature_bytes, cached),
                "tokens_reused": counted.tokens_reused,
                "tokens_computed": counted.tokens_computed,
                "kv_bytes": kv_bytes,
                "feature_bytes": feature_bytes,
                "feature_items": len(self._features),
                "feature_hits": counted.feature_hits,
                "evictions_by_cause": {str(cause): count for cause, count in counted.evictions_by_cause.items()},
                "superseded": counted.superseded,
                "refused": counted.refused,
                "slots": {"free": free, "live": self._slots - free - cached, "cached": cached},
            }

    def reset_stats(self) -> None:
        """Reset all counters to zero."""
        with self._lock:
            self._stats = CacheStats()

    def check_integrity(self) -> None:
        """Raise AssertionError with all inconsistencies of the state, if there are any. For tests."""
        with self._lock:
            faults = [*slot_faults(self._slots, self._live, self._cached), *self._count_faults()]
            if faults:
                raise AssertionError("; ".join(faults))

    # Helpers; the caller holds the lock

    def _pinned(self) -> set[int]:
        return {lease.source for lease in self._live.values() if lease.source is not None}

    def _free(self) -> list[int]:
        taken = self._live.keys() | self._cached.keys() | self._pinned()
        return [slot for slot in range(self._slots) if slot not in taken]

    def _longest(self, key: PrefixKey) -> tuple[int, bool, int | None]:
        """Return the number of tokens to reuse, whether their entry can be continued in place, and the slot that has
        them."""
        pinned = self._pinned()
        known = [(slot, entry.key, len(entry.key)) for slot, entry in self._cached.items()]
        known += [(slot, lease.key, lease.valid) for slot, lease in self._live.items()]
        reused, continued, source = 0, False, -1
        for slot, other, valid in known:
            common = key.common(other)
            found = key.uncut(min(common, valid, len(key) - 1))  # the last token must be run for its logits
            whole = common == len(other) and slot in self._cached and slot not in pinned
            reused, continued, source = max((reused, continued, source), (found, whole, slot))
        return (reused, continued, source) if worth_reusing(key, reused) else (0, False, None)

    def _vacant_slot(self, source: int | None) -> int | None:
        """Return a free slot or evict the least recently used entry; ``source`` is evicted only if no other is left."""
        if free := self._free():
            return free[0]
        # The settings may have changed: even without LRU, entries must leave enough slots for the workers.
        if not self._lru and len(self._cached) <= self._slots - self._workers:
            return None
        pinned = self._pinned()
        idle = [slot for slot in self._cached if slot not in pinned]
        idle.sort(key=lambda slot: slot == source)
        if not idle:
            return None
        self._evict(idle[0], "lru" if self._lru else "resize")
        return idle[0]

    def _keep(self, slot: int, key: PrefixKey) -> None:
        pinned = self._pinned()
        superseded = [
            old for old, entry in self._cached.items() if old not in pinned and key.common(entry.key) == len(entry.key)
        ]
        if not self._lru and len(self._cached) - len(superseded) + 1 > self._slots - self._workers:
            self._stats.refused += 1
            return
        for old in superseded:
            del self._cached[old]
        self._stats.superseded += len(superseded)
        self._cached[slot] = Entry(key, self._clock())

    def _expire(self) -> None:
        now, pinned = self._clock(), self._pinned()
        for slot, entry in list(self._cached.items()):
            if now - entry.used >= self._ttl_seconds and slot not in pinned:
                self._evict(slot, "ttl")
        self._stats.evictions_by_cause["ttl"] += self._features.expire(now, self._ttl_seconds)

    def _evict(self, slot: int, cause: Cause) -> None:
        del self._cached[slot]
        self._stats.evictions_by_cause[cause] += 1

    def _feature_room(self) -> int:
        return self._max_bytes - self._slots * self._slot_bytes

    def _count_faults(self) -> list[str]:
        faults = []
        now = self._clock()
        for name, used in (("entries", [e.used for e in self._cached.values()]), ("features", self._features.uses)):
            if used != sorted(used) or any(moment > now for moment in used):
                faults.append(f"{name} are not in the order of their last use: {used} at {now}")
        if (held := self._slots * self._slot_bytes + self._features.nbytes) > self._max_bytes:
            faults.append(f"{held} bytes are held, max_bytes is {self._max_bytes}")
        counted = self._stats
        if counted.tokens_reused < counted.hits or counted.tokens_computed < counted.hits + counted.misses:
            faults.append(f"the statistics do not add up: {counted}")
        if any(count < 0 for count in (counted.hits, counted.misses, *counted.evictions_by_cause.values())):
            faults.append(f"a counter is below 0: {counted}")
        return faults


def worth_reusing(key: PrefixKey, tokens: int) -> bool:
    """Return whether a prefix is worth reusing: an image, ``MIN_SHARED_TOKENS`` tokens, or half of a prompt without
    images."""
    if key.images:
        return tokens >= min(MIN_SHARED_TOKENS, key.images[0].end)
    return tokens >= min(MIN_SHARED_TOKENS, (len(key) + 1) // 2)


def _check(slots: int, slot_bytes: int, max_bytes: int, ttl_seconds: float, workers: int) -> None:
    for name, value in (("slots", slots), ("slot_bytes", slot_bytes), ("workers", workers)):
        if value < 1:
            raise SetupError(f"{name} is {value}: use 1 or more", code="not_positive")
    if not ttl_seconds > 0:
        raise SetupError(f"ttl_seconds is {ttl_seconds!r}: use a number above 0", code="not_positive")
    if workers > slots:
        raise SetupError(
            f"workers is {workers}, but there are {slots} slots: use {workers} slots, or at most {slots} workers",
            code="workers_over_slots",
        )
    if (needed := slots * slot_bytes) > max_bytes:
        raise SetupError(
            f"{slots} KV slots of {slot_bytes} bytes need {needed} bytes ({math.ceil(needed / 2**20)} MB), but max_bytes is "
            f"{max_bytes}: use at least {needed}, or fewer slots ({workers * slot_bytes} bytes for {workers})",
            code="kv_slots_over_budget",
        )
