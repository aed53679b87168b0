"""The engine: assigns slots to requests, and runs the images, prompts and tokens of several requests in one call."""

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

MAX_PACKED_PATCHES = 2048  # maximum for several images in one call: more exceed the processor's caches
BURST_SECONDS = 0.05
PREAMBLE = range(
    4, 64
)  # preamble lengths that are stored separately: shorter ones are not worth it, longer ones are cache hits

Outcome = PageError | None  # the error of a request, or None if it continues


class Piece(NamedTuple):
    """Tokens ``start`` to ``end`` of a prompt, for one call of the prefill graph."""

    generation: Generation
    start: int
    end: int


class Engine:
    """Runs the steps of requests that the scheduler selects. The caller must hold ``lock``.

    Args:
        manager: assigns the slots. None: nothing is cached, and the whole sequence is run for every token, in slot 0.
        base: identifies the model for the cache, see :class:`PrefixKey`. It may change while no request runs.
    """

    def __init__(self, graphs: Graphs, kv: KVSlots, manager: CacheManager | None, base: str = "") -> None:
        self.graphs, self.kv, self.manager, self.base = graphs, kv, manager, base
        self.lock = threading.RLock()  # one step at a time: compilation is not thread-safe, and slots may move between steps
        self._running: set[Generation] = set()
        self._burst = 1  # number of tokens in the next step
        self._preamble: tuple[PrefixKey, Array, Array] | None = None
        self._prefill_rate = self._vision_rate = 0.0  # tokens and patches per second

    # Slots

    @contextmanager
    def idle(self, what: str) -> Iterator[None]:
        """Ensure that no request runs while the context is open.

        Raises:
            SetupError: a request is running.
        """
        with self.lock:
            if self._running:
                raise SetupError(
                    f"{what}: {len(self._running)} requests are running: wait until they end, or close them",
                    code="requests_running",
                )
            yield

    def replace(self, backends: Backends, kv: KVSlots, manager: CacheManager | None) -> None:
        """Use other backends, slots and another manager; the contents of the old slots are discarded."""
        self.graphs.attach(backends, kv)
        self.kv, self.manager, self._preamble = kv, manager, None

    def resize(self, slots: int, max_bytes: int, new_kv: Callable[[], KVSlots]) -> None:
        """Change the number of slots or the budget; requests continue in their new slots.

        Raises:
            SetupError: more requests are running than ``slots``. Nothing is changed in this case.
        """
        assert self.manager is not None
        with self.lock:
            self.manager.configure(workers=1)  # the next batch sets its own number of workers
            moves = self.manager.resize(slots, max_bytes)
            if slots == self.kv.shape[0]:
                return
            kv = new_kv()
            for old, new in moves.items():
                kv.write(new, *self.kv.read(old, self.kv.shape[2]))
            self.graphs.attach(self.graphs.backends, kv)
            self.kv = kv

    # Begin and end of requests

    def has_room(self) -> bool:
        """Return whether another request can start."""
        return len(self._running) < self.kv.shape[0]

    def begin(self, generation: Generation) -> bool:
        """Assign a slot to a request, and reuse the cached prefix of its prompt. Return False if all slots are in use."""
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
                self.graphs.copy_slot(lease.source, lease.slot, lease.reused)
                self.manager.copied(lease)
            self._write_preamble(generation)
        self._running.add(generation)
        return True

    def end(self, generation: Generation, error: PageError | None = None) -> None:
        """Return the slot of a request; its contents stay in the cache unless the request failed. Idempotent."""
        with self.lock:
            if isinstance(error, OverflowedError):  # masking works only if all values are finite
                self.graphs.clear_slot(0 if generation.lease is None else generation.lease.slot)
            lease, generation.lease = generation.lease, None
            generation.features.clear()
            self._running.discard(generation)
            if lease is not None and self.manager is not None:
                self.manager.release(lease, generation.held if generation.token_ids and error is None else None)

    def _write_preamble(self, generation: Generation) -> None:
        """Write the keys and values of the preamble, the tokens before the first image, instead of computing them.

        The preamble is the same for all pages. It is too short for a cache entry, but it is a third of the prompt of a line.
        """
        if self._preamble is None or generation.computed or generation.lease is None or self.manager is None:
            return
        key, keys, values = self._preamble
        if key.common(generation.key) == len(key) < len(generation.key):
            self.kv.write(generation.lease.slot, keys, values)
            generation.computed = len(key)
            self.manager.progress(generation.lease, len(key))

    def _keep_preamble(self, generation: Generation) -> None:
        """Store the preamble, if results do not depend on how rows were computed and the slots are in host memory."""
        tokens = generation.key.images[0].start if generation.key.images else 0
        if generation.lease is None or tokens not in PREAMBLE or self.graphs.prompts_at_once == 1:
            return
        key = generation.key.prefix(tokens)
        if self._preamble is None or key.common(self._preamble[0]) != tokens or len(self._preamble[0]) != tokens:
            self._preamble = (key, *self.kv.read(generation.lease.slot, tokens))

    def should_wait(self, generation: Generation, others: Iterable[Generation]) -> bool:
        """Return whether another request will soon provide a longer prefix than the cache, so that waiting pays off."""
        shared = max((generation.key.common(other.key) for other in others), default=0)
        return shared > 0 and worth_reusing(generation.key, shared) and shared > self._known(generation)

    # Images

    def run_vision(
        self, generations: Sequence[Generation], ahead: Sequence[Generation] = (), seconds: float | None = None
    ) -> dict[Generation, PageError]:
        """Compute the features of the images that prompts still need, several images in one call.

        Args:
            generations: requests that have slots.
            ahead: waiting requests, whose images fill up the calls. Their failures are ignored until they have slots.
            seconds: run only one call, with as many images as take this time, or one image. None: run all needed images.

        Returns:
            The errors of those ``generations`` that have an image that cannot be run.
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
                for digest in pack if len(pack) > 1 else []:  # run separately to find the cause
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
        """Return the images without known features, by digest, and give known features to their requests."""
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
            features = np.array(features)  # a copy, so that the whole pack is not kept in memory
            if self.manager is not None:
                self.manager.put_features(image.digest, features)
            for generation in generations:
                if any(other.digest == image.digest for other in generation.prompt.images):
                    generation.features[image.digest] = features

    def _image_packs(self, images: dict[bytes, PromptImage], needed: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
        """Yield packs of images for calls of the vision graph, each with up to ``most`` patches.

        Larger images are run separately. Every pack contains at least one image that is needed now.
        """
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
        """Return the number of prompt tokens that take this time; None if splitting prompts would change results."""
        if self.graphs.prompts_at_once == 1:
            return None
        return max(MIN_TOKENS, int(self._prefill_rate * seconds))

    def prefill(self, generations: Sequence[Generation], budget: int | None = None) -> dict[Generation, PageError]:
        """Compute the first token of requests that have their slots and features, several prompts in one call.

        Args:
            budget: maximum number of prompt tokens to run. A prompt that is cut continues in the next call.

        Returns:
            The errors of requests that cannot be run.
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
                packs.extend([piece] for piece in pack if len(pack) > 1)  # run separately to find the cause
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
        """Yield packs of the remaining prompt tokens for calls of the prefill graph; longer pieces are run separately."""
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
        """Decode more tokens for requests that have their first token, in one call. Return the errors of failed requests."""
        if not generations:
            return {}
        start = time.perf_counter()
        try:
            steps = self._steps(generations)
        except PageError as error:
            if len(generations) == 1:
                return {generations[0]: error}
            alone: dict[Generation, PageError] = {}
            for generation in generations:  # run separately to find the cause
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
            count = 1  # return to the other requests soon
        steps = self.graphs.decode([generation.newest(count) for generation in generations])
        if count == self._burst:
            taken = max(len(step.token_ids) for step in steps)
            self._burst = burst(taken / (time.perf_counter() - start), self.graphs.decode_steps)
        return steps

    def _take(self, steps: Sequence[tuple[Generation, Step]]) -> dict[Generation, PageError]:
        """Give requests the results of a call. Return the errors of requests whose settings ban all tokens."""
        chosen = self._sampled(steps) if self.graphs.backends.text.samples_in_graph else {}
        failed: dict[Generation, PageError] = {}
        for generation, step in steps:
            try:
                generation.take(step, chosen.get(generation))
            except PageError as error:
                failed[generation] = error
        return failed

    def _sampled(self, steps: Sequence[tuple[Generation, Step]]) -> dict[Generation, Choice]:
        """Choose tokens with the sample graph, for requests whose logits are in one tensor."""
        rows = {}
        for generation, step in steps:
            if generation.sampler is not None and (row := generation.sampler.row(generation.token_ids)) is not None:
                rows[step.row] = generation, row
        if not rows:
            return {}
        try:
            tokens = self.graphs.sample(steps[0][1].logits, {at: row for at, (_, row) in rows.items()})
        except PageError:  # the host chooses the tokens instead
            return {}
        return {rows[at][0]: Choice(token, logprob, []) for at, (token, logprob) in tokens.items()}

    def _known(self, generation: Generation) -> int:
        return self.manager.lookup(generation.key) if self.manager is not None else 0


def burst(tokens_per_second: float, most: int) -> int:
    """Return the number of tokens to decode in one call: as many as take BURST_SECONDS, so that streaming stays smooth."""
    return max(1, min(int(tokens_per_second * BURST_SECONDS), most))


def _count(generations: Sequence[Generation], what: str, start: float) -> None:
    """Add the time of a call to the timings of its requests, in equal shares."""
    share = (time.perf_counter() - start) * 1e3 / max(1, len(generations))
    for generation in generations:
        generation.timings_ms[what] = generation.timings_ms.get(what, 0.0) + share
