"""Requests to tokens: each takes a slot, reuses what the cache knows of its prompt, and decodes beside the others."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mindnlp_ocr.cache.manager import CacheManager, worth_reusing
from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.engine.graphs import MAX_PACKED_TOKENS, Graphs, PromptPart, Step
from mindnlp_ocr.engine.overflow import OverflowedError
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.ops.select import Attentions
from mindnlp_ocr.processing.images import PromptImage

MAX_PACKED_PATCHES = 2048  # of several images in one call: more would fall out of the processor's caches
BURST_SECONDS = 0.05

Outcome = PageError | None  # of a request: None where it went on


class Engine:
    """Runs generations over the slots. Its methods may be called from any thread: they take turns.

    Args:
        manager: who gives out the slots. None: nothing is cached, every token runs its whole prompt, in slot 0.
        base: what all keys and values depend on now, see :class:`PrefixKey`. It may change while nothing runs.
    """

    def __init__(self, graphs: Graphs, kv: KVSlots, manager: CacheManager | None, base: str = "") -> None:
        self.graphs, self.kv, self.manager, self.base = graphs, kv, manager, base
        self.lock = threading.RLock()  # a step at a time: compiling is not thread-safe, and slots may be moved between steps
        self._freed = threading.Condition(self.lock)
        self._running: dict[Generation, int] = {}  # the thread that asked for each
        self._burst = 1  # tokens that the next step asks for

    # One request, or many

    def run(self, generation: Generation) -> Generator[int, None, None]:
        """The tokens of one request as they come. Closing the iterator frees the slot.

        Raises:
            PageError: this request cannot be run.
        """
        try:
            _raise(self._acquire_or_wait(generation))
            _raise(self._start([generation])[0])
            yielded = 0
            while True:
                yield from generation.token_ids[yielded:]
                yielded = len(generation.token_ids)
                if generation.finish_reason is not None:
                    return
                _raise(self.step([generation])[0])
        except PageError as error:
            self.end(generation, error)
            raise
        finally:
            self.end(generation)

    def run_batch(
        self, generations: Iterator[tuple[int, Generation | PageError]], batch_size: int
    ) -> Iterator[tuple[int, Generation | PageError]]:
        """Requests as they end, up to ``batch_size`` at a time; one that ends makes room for the next.

        Args:
            generations: numbered; taken from the iterator only when there is room, so that few pages are in memory. An error
                in place of a request is handed on.
        """
        live: dict[int, Generation] = {}
        fresh: dict[int, Generation] = {}  # with a slot, but no token yet
        pending: deque[tuple[int, Generation]] = deque()
        try:
            more = True
            while more or pending or live:
                while more and len(live) + len(pending) < batch_size:
                    if (entry := next(generations, None)) is None:
                        more = False
                    elif isinstance(entry[1], PageError):
                        yield entry[0], entry[1]
                    else:
                        pending.append((entry[0], entry[1]))
                self._run_vision([generation for _, generation in pending if not generation.features])
                while pending:
                    number, generation = pending[0]
                    if self._shares_more(generation, fresh.values()):
                        yield from self._begin(fresh, live)  # so that it finds what they have computed
                    ours_will_end = bool(live or fresh)
                    outcome = self._acquire(generation) if ours_will_end else self._acquire_or_wait(generation)
                    if isinstance(outcome, _NoSlot) and ours_will_end:
                        break
                    pending.popleft()
                    if outcome is None:
                        fresh[number] = generation
                    else:
                        yield number, self._failed(generation, outcome)
                yield from self._begin(fresh, live)
                running = {number: generation for number, generation in live.items() if not generation.finish_reason}
                for number, outcome in zip(running, self.step(list(running.values())), strict=True):
                    if outcome is not None:
                        yield number, self._failed(live.pop(number), outcome)
                for number in [number for number, generation in live.items() if generation.finish_reason]:
                    generation = live.pop(number)
                    self.end(generation)
                    yield number, generation
        finally:
            for generation in (*live.values(), *fresh.values()):
                self.end(generation)

    def _begin(
        self, fresh: dict[int, Generation], live: dict[int, Generation]
    ) -> Iterator[tuple[int, Generation | PageError]]:
        """Moves requests from ``fresh`` to ``live`` with their first token. Yields those that failed."""
        started, outcomes = dict(fresh), self._start(list(fresh.values()))
        fresh.clear()
        for (number, generation), outcome in zip(started.items(), outcomes, strict=True):
            if outcome is None:
                live[number] = generation
            else:
                yield number, outcome

    def _shares_more(self, generation: Generation, others: Iterable[Generation]) -> bool:
        """Whether one of the others will hold more of a prompt than any slot does now, and enough to wait for it."""
        shared = max((generation.key.common(other.key) for other in others), default=0)
        return shared > 0 and worth_reusing(generation.key, shared) and shared > self._known(generation)

    # The slots themselves

    @contextmanager
    def idle(self, what: str) -> Iterator[None]:
        """No request runs meanwhile.

        Raises:
            SetupError: one does.
        """
        with self.lock:
            if self._running:
                raise SetupError(f"{what}: {len(self._running)} requests are running: wait until they end, or close them")
            yield

    def replace(self, attentions: Attentions, kv: KVSlots, manager: CacheManager | None) -> None:
        """Run on others from now on; what the old slots held is forgotten."""
        self.graphs.attach(attentions, kv)
        self.kv, self.manager = kv, manager

    def resize(self, slots: int, max_bytes: int, new_kv: Callable[[], KVSlots]) -> None:
        """Another number of slots or another budget; requests go on in their new slots.

        Raises:
            SetupError: more requests are running than there are to be slots; nothing changes.
        """
        assert self.manager is not None
        with self.lock:
            self.manager.configure(workers=1)  # a batch will say again how many it takes
            moves = self.manager.resize(slots, max_bytes)
            if slots == self.kv.shape[0]:
                return
            kv = new_kv()
            for old, new in moves.items():
                kv.write(new, *self.kv.read(old, self.kv.shape[2]))
            self.graphs.attach(self.graphs.attentions, kv)
            self.kv = kv

    # The parts of a request

    def step(self, generations: Sequence[Generation]) -> list[Outcome]:
        """Tokens more for each, in one call."""
        if not generations:
            return []
        with self.lock:
            start = time.perf_counter()
            try:
                steps = self._steps(generations)
            except PageError as error:
                if len(generations) == 1:
                    return [error]
                return [self.step([generation])[0] for generation in generations]  # who is to blame shows alone
            for generation, step in zip(generations, steps, strict=True):
                generation.take(step)
            _count(generations, "decode", start)
            return [None] * len(generations)

    def end(self, generation: Generation, error: PageError | None = None) -> None:
        """Give the slot back; what it holds stays in the cache unless the request failed. May be called again."""
        failed = error is not None
        with self.lock:
            if isinstance(error, OverflowedError):  # masked rows count as nothing only while they are finite
                self.kv.clear(0 if generation.lease is None else generation.lease.slot)
            lease, generation.lease = generation.lease, None
            generation.features.clear()
            self._running.pop(generation, None)
            if lease is not None and self.manager is not None:
                self.manager.release(lease, generation.held if generation.token_ids and not failed else None)
            self._freed.notify_all()

    def _acquire_or_wait(self, generation: Generation) -> Outcome:
        with self._freed:
            while True:
                outcome = self._acquire(generation)
                if not isinstance(outcome, _NoSlot):
                    return outcome
                if set(self._running.values()) <= {threading.get_ident()}:
                    return outcome
                self._freed.wait()

    def _failed(self, generation: Generation, error: PageError) -> PageError:
        self.end(generation, error)
        return error

    def _acquire(self, generation: Generation) -> Outcome:
        """A slot, with as much of the prompt as the cache knows."""
        with self.lock:
            generation.rebase(self.base)
            if self.manager is None:
                self._running[generation] = threading.get_ident()
            else:
                lease = self.manager.acquire(generation.key)
                if lease is None:
                    return _NoSlot(
                        f"all {self.kv.shape[0]} KV slots are in use by requests of this thread: end one of them, or give "
                        "CacheConfig more slots"
                    )
                generation.lease, generation.reused = lease, lease.reused
                self._running[generation] = threading.get_ident()
                if lease.source is not None:
                    self.kv.copy(lease.source, lease.slot, lease.reused)
                    self.manager.copied(lease)
            return None

    def _start(self, generations: Sequence[Generation]) -> list[Outcome]:
        """The first token of requests that have their slots, several prompts in one call."""
        failed: dict[Generation, PageError] = {}
        with self.lock:
            for generation in generations:
                try:
                    self._run_vision([generation], generation.reused)
                except PageError as error:
                    failed[generation] = error
            packs = deque(self._prompt_packs([generation for generation in generations if generation not in failed]))
            while packs:
                pack, start = packs.popleft(), time.perf_counter()
                try:
                    steps = self.graphs.prefill(*map(self._part, pack))
                except PageError as error:
                    if len(pack) == 1:
                        failed[pack[0]] = error
                    packs.extend([generation] for generation in pack if len(pack) > 1)  # who is to blame shows alone
                    continue
                for generation, step in zip(pack, steps, strict=True):
                    generation.take(step)
                    if generation.lease is not None and self.manager is not None:
                        self.manager.progress(generation.lease, len(generation.key))
                _count(pack, "prefill", start)
            return [
                self._failed(generation, failed[generation]) if generation in failed else None for generation in generations
            ]

    def _prompt_packs(self, generations: Sequence[Generation]) -> Iterator[list[Generation]]:
        """Prompts for one call of the prefill graph, as many as fit; those that are alone too long for it by themselves."""
        pack: list[Generation] = []
        tokens = 0
        for generation in generations:
            new = len(generation.key) - generation.reused
            if pack and (tokens + new > MAX_PACKED_TOKENS or len(pack) == self.graphs.prompts_at_once):
                yield pack
                pack, tokens = [], 0
            pack.append(generation)
            tokens += new
        if pack:
            yield pack

    def _steps(self, generations: Sequence[Generation]) -> list[Step]:
        if self.manager is None:
            return [self.graphs.prefill(self._part(generation))[0] for generation in generations]
        start, count = time.perf_counter(), self._burst
        steps = self.graphs.decode([generation.newest(count) for generation in generations])
        taken = max(len(step.token_ids) for step in steps)
        self._burst = burst(taken / (time.perf_counter() - start), self.graphs.decode_steps)
        return steps

    def _part(self, generation: Generation) -> PromptPart:
        """All tokens that the slot does not hold."""
        token_ids, positions = generation.whole()
        reused, images = generation.reused, generation.key.images
        features = [generation.features[images[number].digest] for number in generation.missing(reused)]
        slot = 0 if generation.lease is None else generation.lease.slot
        return PromptPart(token_ids[reused:], features, positions[:, reused:], slot, reused)

    # Images

    def _run_vision(self, generations: Sequence[Generation], reused: int | None = None) -> None:
        """Features of the images that are missing behind ``reused`` tokens, several in one call.

        Ahead of admission, when it is not known what a slot will hold (None), failures are left for then.

        Raises:
            PageError: an image cannot be run; never ahead of admission.
        """
        with self.lock:
            start = time.perf_counter()
            wanted = {}
            for generation in generations:
                for number in generation.missing(self._known(generation) if reused is None else reused):
                    image = generation.prompt.images[number]
                    if image.digest in generation.features or image.digest in wanted:
                        continue
                    features = self.manager.get_features(image.digest) if self.manager else None
                    if features is None:
                        wanted[image.digest] = image
                    else:
                        generation.features[image.digest] = features
            for pack in self._packs(wanted):
                try:
                    found = self.graphs.vision([wanted[digest].patches() for digest in pack])
                except PageError:
                    if reused is not None:
                        raise
                    continue
                for digest, features in zip(pack, found, strict=True):
                    features = np.array(features)  # of its own: not a part of the whole pack
                    if self.manager is not None:
                        self.manager.put_features(digest, features)
                    for generation in generations:
                        if any(image.digest == digest for image in generation.prompt.images):
                            generation.features[digest] = features
            _count(generations, "vision", start)

    def _packs(self, images: dict[bytes, PromptImage]) -> Iterator[list[bytes]]:
        """Images for one call of the vision graph, as many as fit; those that are alone too large for it by themselves."""
        pack: list[bytes] = []
        patches = 0
        for digest, image in images.items():
            patches += math.prod(image.grid_thw)
            if pack and (patches > MAX_PACKED_PATCHES or len(pack) == self.graphs.images_at_once):
                yield pack
                pack, patches = [], math.prod(image.grid_thw)
            pack.append(digest)
        if pack:
            yield pack

    def _known(self, generation: Generation) -> int:
        return self.manager.lookup(generation.key) if self.manager is not None else 0


def burst(tokens_per_second: float, most: int) -> int:
    """Tokens to decode in one call: as many as take BURST_SECONDS, so that a text is seen to grow."""
    return max(1, min(int(tokens_per_second * BURST_SECONDS), most))


class _NoSlot(PageError):
    """Nothing is wrong with the page: no slot is free."""


def _raise(outcome: Outcome) -> None:
    if outcome is not None:
        raise outcome


def _count(generations: Sequence[Generation], what: str, start: float) -> None:
    """Adds the time of a call to the requests that it served, in equal shares."""
    share = (time.perf_counter() - start) * 1e3 / max(1, len(generations))
    for generation in generations:
        generation.timings_ms[what] = generation.timings_ms.get(what, 0.0) + share
