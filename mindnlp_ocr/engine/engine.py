"""What runs requests: a slot for each, the images, prompts and tokens of several in one call, and the slot given back."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from mindnlp_ocr.backends.select import Backends
from mindnlp_ocr.cache.keys import PrefixKey
from mindnlp_ocr.cache.manager import CacheManager, worth_reusing
from mindnlp_ocr.cache.slots import Array, KVSlots
from mindnlp_ocr.engine.generate import Generation
from mindnlp_ocr.engine.graphs import MAX_PACKED_TOKENS, MIN_TOKENS, Graphs, PromptPart, Step
from mindnlp_ocr.engine.overflow import OverflowedError
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.processing.images import PromptImage
from mindnlp_ocr.sampling import Choice

MAX_PACKED_PATCHES = 2048  # of several images in one call: more would fall out of the processor's caches
BURST_SECONDS = 0.05
PREAMBLE = range(4, 64)  # tokens ahead of the first image that are kept apart: fewer are not worth it, more are a hit

Outcome = PageError | None  # of a request: None where it went on


class Piece(NamedTuple):
    """Tokens ``start`` to ``end`` of a prompt, for one call of the prefill graph."""

    generation: Generation
    start: int
    end: int


class Engine:
    """Runs the steps of requests over the slots; the scheduler says of which. The caller holds ``lock``.

    Args:
        manager: who gives out the slots. None: nothing is cached, every token runs its whole prompt, in slot 0.
        base: what all keys and values depend on now, see :class:`PrefixKey`. It may change while nothing runs.
    """

    def __init__(self, graphs: Graphs, kv: KVSlots, manager: CacheManager | None, base: str = "") -> None:
        self.graphs, self.kv, self.manager, self.base = graphs, kv, manager, base
        self.lock = threading.RLock()  # a step at a time: compiling is not thread-safe, and slots may be moved between steps
        self._running: set[Generation] = set()
        self._burst = 1  # tokens that the next step asks for
        self._preamble: tuple[PrefixKey, Array, Array] | None = None
        self._prefill_rate = self._vision_rate = 0.0  # tokens and patches a second

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

    def replace(self, backends: Backends, kv: KVSlots, manager: CacheManager | None) -> None:
        """Run on others from now on; what the old slots held is forgotten."""
        self.graphs.attach(backends, kv)
        self.kv, self.manager, self._preamble = kv, manager, None

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
            self.graphs.attach(self.graphs.backends, kv)
            self.kv = kv

    # A request begins and ends

    def has_room(self) -> bool:
        """Whether a request more may run."""
        return len(self._running) < self.kv.shape[0]

    def begin(self, generation: Generation) -> bool:
        """Give a request a slot, with as much of its prompt as the cache knows. False: all slots are in use."""
        generation.rebase(self.base)
        if self.manager is None:
            if not self.has_room():
                return False
        else:
            lease = self.manager.acquire(generation.key)
            if lease is None:
                return False
            generation.lease, generation.reused, generation.computed = lease, lease.reused, lease.reused
            if lease.source is not None:
                self.kv.copy(lease.source, lease.slot, lease.reused)
                self.manager.copied(lease)
            self._write_preamble(generation)
        self._running.add(generation)
        return True

    def end(self, generation: Generation, error: PageError | None = None) -> None:
        """Give the slot back; what it holds stays in the cache unless the request failed. May be called again."""
        with self.lock:
            if isinstance(error, OverflowedError):  # masked rows count as nothing only while they are finite
                self.kv.clear(0 if generation.lease is None else generation.lease.slot)
            lease, generation.lease = generation.lease, None
            generation.features.clear()
            self._running.discard(generation)
            if lease is not None and self.manager is not None:
                self.manager.release(lease, generation.held if generation.token_ids and error is None else None)

    def _write_preamble(self, generation: Generation) -> None:
        """What the chat template puts ahead of the first image is the same for all pages: too little for a slot of the cache
        to be kept or waited for, but a third of the prompt of a line. Its keys and values are written, not computed."""
        if self._preamble is None or generation.computed or generation.lease is None or self.manager is None:
            return
        key, keys, values = self._preamble
        if key.common(generation.key) == len(key) < len(generation.key):
            self.kv.write(generation.lease.slot, keys, values)
            generation.computed = len(key)
            self.manager.progress(generation.lease, len(key))

    def _keep_preamble(self, generation: Generation) -> None:
        """Only where a row's bits do not depend on how it came to be, and where slots lie in the host's memory."""
        tokens = generation.key.images[0].start if generation.key.images else 0
        if generation.lease is None or tokens not in PREAMBLE or self.graphs.prompts_at_once == 1:
            return
        key = generation.key.prefix(tokens)
        if self._preamble is None or key.common(self._preamble[0]) != tokens or len(self._preamble[0]) != tokens:
            self._preamble = (key, *self.kv.read(generation.lease.slot, tokens))

    def should_wait(self, generation: Generation, others: Iterable[Generation]) -> bool:
        """Whether one of the others will hold more of a prompt than any slot does now, and enough to wait for it."""
        shared = max((generation.key.common(other.key) for other in others), default=0)
        return shared > 0 and worth_reusing(generation.key, shared) and shared > self._known(generation)

    # Images

    def run_vision(
        self, generations: Sequence[Generation], ahead: Sequence[Generation] = (), seconds: float | None = None
    ) -> dict[Generation, PageError]:
        """Features of the images that prompts still need, several images in one call.

        Args:
            generations: that have their slots.
            ahead: that wait: their images fill up the calls. Failures are left for when they have slots.
            seconds: run one call alone, of as many images as take so long, or of one. None: run all that is needed.

        Returns:
            Those of ``generations`` that have an image that cannot be run.
        """
        start = time.perf_counter()
        wanted = self._wanted(generations, {})
        needed = list(wanted)
        if needed:
            wanted |= self._wanted(ahead, wanted)
        failed: dict[Generation, PageError] = {}
        most = MAX_PACKED_PATCHES if seconds is None else min(MAX_PACKED_PATCHES, int(self._vision_rate * seconds))
        for pack in list(self._image_packs(wanted, needed, most))[: None if seconds is None else 1]:
            try:
                self._run_images([wanted[digest] for digest in pack], [*generations, *ahead])
            except PageError as error:
                blamed = {pack[0]: error} if len(pack) == 1 else {}
                for digest in pack if len(pack) > 1 else []:  # who is to blame shows alone
                    try:
                        self._run_images([wanted[digest]], [*generations, *ahead])
                    except PageError as own:
                        blamed[digest] = own
                for generation in generations:
                    for image in generation.prompt.images:
                        if image.digest in blamed:
                            failed[generation] = blamed[image.digest]
        if needed:
            _count(generations, "vision", start)
        return failed

    def _wanted(self, generations: Iterable[Generation], others: dict[bytes, PromptImage]) -> dict[bytes, PromptImage]:
        """Images whose features are not known, by digest. Known ones are given to their requests."""
        wanted: dict[bytes, PromptImage] = {}
        for generation in generations:
            known = generation.computed if generation in self._running else self._known(generation)
            for number in generation.missing(known):
                image = generation.prompt.images[number]
                if image.digest in generation.features or image.digest in wanted or image.digest in others:
                    continue
                features = self.manager.get_features(image.digest) if self.manager else None
                if features is None:
                    wanted[image.digest] = image
                else:
                    generation.features[image.digest] = features
        return wanted

    def _run_images(self, images: Sequence[PromptImage], generations: Sequence[Generation]) -> None:
        patches, start = [image.patches() for image in images], time.perf_counter()
        found = self.graphs.vision(patches)
        self._vision_rate = sum(len(image.pixels) for image in patches) / (time.perf_counter() - start)
        for image, features in zip(images, found, strict=True):
            features = np.array(features)  # of its own: not a part of the whole pack
            if self.manager is not None:
                self.manager.put_features(image.digest, features)
            for generation in generations:
                if any(other.digest == image.digest for other in generation.prompt.images):
                    generation.features[image.digest] = features

    def _image_packs(self, images: dict[bytes, PromptImage], needed: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
        """Images for one call of the vision graph, up to ``most`` patches; those that have more by themselves. No pack
        without one that is needed now."""
        pack: list[bytes] = []
        patches = 0
        urgent = set(needed)
        for digest, image in images.items():
            size = math.prod(image.grid_thw)
            if pack and (patches + size > most or len(pack) == self.graphs.images_at_once):
                yield pack
                pack, patches = [], 0
            if not pack and digest not in urgent:
                return
            pack.append(digest)
            patches += size
        if pack:
            yield pack

    # Prompts

    def prefill_budget(self, seconds: float) -> int | None:
        """Prompt tokens that take so long; None: prompts are not cut on this attention, whose bits would change."""
        if self.graphs.prompts_at_once == 1:
            return None
        return max(MIN_TOKENS, int(self._prefill_rate * seconds))

    def prefill(self, generations: Sequence[Generation], budget: int | None = None) -> dict[Generation, PageError]:
        """The first token of requests that have their slots and features, several prompts in one call.

        Args:
            budget: prompt tokens to run at most. A prompt that is cut goes on in the next call.

        Returns:
            Those that cannot be run.
        """
        failed: dict[Generation, PageError] = {}
        packs = deque(self._prompt_packs(generations, budget))
        while packs:
            pack, start = packs.popleft(), time.perf_counter()
            try:
                steps = self.graphs.prefill(*map(self._part, pack))
            except PageError as error:
                if len(pack) == 1:
                    failed[pack[0].generation] = error
                packs.extend([piece] for piece in pack if len(pack) > 1)  # who is to blame shows alone
                continue
            seconds = time.perf_counter() - start
            self._prefill_rate = sum(piece.end - piece.start for piece in pack) / seconds
            begun = []
            for (generation, _, end), step in zip(pack, steps, strict=True):
                generation.computed = end
                if generation.lease is not None and self.manager is not None:
                    self.manager.progress(generation.lease, end)
                if end == len(generation.key):
                    begun.append((generation, step))
                    self._keep_preamble(generation)
            failed |= self._take(begun)
            _count([piece.generation for piece in pack], "prefill", start)
        return failed

    def _prompt_packs(self, generations: Sequence[Generation], budget: int | None) -> Iterator[list[Piece]]:
        """What is left of prompts for one call of the prefill graph, as much as fits; what is alone too long for it by
        itself."""
        pack: list[Piece] = []
        tokens, left = 0, math.inf if budget is None else budget
        for generation in generations:
            if left <= 0:
                break
            size = int(min(len(generation.key) - generation.computed, left))
            if pack and (tokens + size > MAX_PACKED_TOKENS or len(pack) == self.graphs.prompts_at_once):
                yield pack
                pack, tokens = [], 0
            pack.append(Piece(generation, generation.computed, generation.computed + size))
            tokens, left = tokens + size, left - size
        if pack:
            yield pack

    def _part(self, piece: Piece) -> PromptPart:
        generation, start, end = piece
        token_ids, positions = generation.whole()
        slot = 0 if generation.lease is None else generation.lease.slot
        return PromptPart(token_ids[start:end], generation.features_of(start, end), positions[:, start:end], slot, start)

    # Tokens

    def decode(self, generations: Sequence[Generation]) -> dict[Generation, PageError]:
        """Tokens more for requests that have their first, in one call. Returns those that cannot be run."""
        if not generations:
            return {}
        start = time.perf_counter()
        try:
            steps = self._steps(generations)
        except PageError as error:
            if len(generations) == 1:
                return {generations[0]: error}
            alone: dict[Generation, PageError] = {}
            for generation in generations:  # who is to blame shows alone
                alone |= self.decode([generation])
            return alone
        failed = self._take(list(zip(generations, steps, strict=True)))
        _count(generations, "decode", start)
        return failed

    def _steps(self, generations: Sequence[Generation]) -> list[Step]:
        if self.manager is None:
            wholes = [Piece(generation, 0, len(generation.key) + len(generation.token_ids)) for generation in generations]
            return [self.graphs.prefill(self._part(piece))[0] for piece in wholes]
        start, count = time.perf_counter(), self._burst
        if any(generation.sampler is not None for generation in generations):
            count = 1  # the others do not keep it waiting
        steps = self.graphs.decode([generation.newest(count) for generation in generations])
        if count == self._burst:
            taken = max(len(step.token_ids) for step in steps)
            self._burst = burst(taken / (time.perf_counter() - start), self.graphs.decode_steps)
        return steps

    def _take(self, steps: Sequence[tuple[Generation, Step]]) -> dict[Generation, PageError]:
        """Give requests what a call has brought. Returns those whose settings leave no token."""
        chosen = self._sampled(steps) if self.graphs.backends.text.samples_in_graph else {}
        failed: dict[Generation, PageError] = {}
        for generation, step in steps:
            try:
                generation.take(step, chosen.get(generation))
            except PageError as error:
                failed[generation] = error
        return failed

    def _sampled(self, steps: Sequence[tuple[Generation, Step]]) -> dict[Generation, Choice]:
        """The tokens that the sample graph can choose, of requests whose logits lie in one tensor."""
        rows = {}
        for generation, step in steps:
            if generation.sampler is not None and (row := generation.sampler.row(generation.token_ids)) is not None:
                rows[step.row] = generation, row
        if not rows:
            return {}
        try:
            tokens = self.graphs.sample(steps[0][1].logits, {at: row for at, (_, row) in rows.items()})
        except PageError:  # the host can do it too
            return {}
        return {rows[at][0]: Choice(token, logprob, []) for at, (token, logprob) in tokens.items()}

    def _known(self, generation: Generation) -> int:
        return self.manager.lookup(generation.key) if self.manager is not None else 0


def burst(tokens_per_second: float, most: int) -> int:
    """Tokens to decode in one call: as many as take BURST_SECONDS, so that a text is seen to grow."""
    return max(1, min(int(tokens_per_second * BURST_SECONDS), most))


def _count(generations: Sequence[Generation], what: str, start: float) -> None:
    """Adds the time of a call to the requests that it served, in equal shares."""
    share = (time.perf_counter() - start) * 1e3 / max(1, len(generations))
    for generation in generations:
        generation.timings_ms[what] = generation.timings_ms.get(what, 0.0) + share
