"""The compiled graphs, by bucket of patches, tokens or requests. Each graph is compiled on its first use."""

import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import mindspore as ms
import numpy as np
import psutil
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from mindnlp_ocr.backends.select import Backends
from mindnlp_ocr.cache.slots import CLEAR, CopySlot, KVSlots
from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.engine.buckets import bucket_for, bucket_sizes, until
from mindnlp_ocr.engine.cells import Decode, DecodeSteps, Prefill, Vision
from mindnlp_ocr.engine.compiled import forget, phases
from mindnlp_ocr.engine.overflow import OverflowedError, PrefillProbe, VisionProbe, first_overflow, overflowed
from mindnlp_ocr.engine.packing import PackedImages
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.layers import Loader, Weights
from mindnlp_ocr.modeling.vision import VisionTower
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.device import JitLevel
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.parallel.ranks import Ranks, split_operators
from mindnlp_ocr.processing.images import Patches
from mindnlp_ocr.sampling.graph import SampleFromHistory
from mindnlp_ocr.sampling.sampler import Row, row_inputs

MIN_PATCHES = 64
MAX_PATCHES = 1 << 18
MIN_TOKENS = 64
MAX_PACKED_TOKENS = 1024  # maximum for several prompts in one call: more would exceed the processor's caches


class Step(NamedTuple):
    """The next greedy tokens, their log-probabilities, and the logits for the last of them."""

    token_ids: list[int]
    logprobs: list[float]
    logits: Tensor  # float32 [segments, vocab], on the device until ``numpy`` is called
    row: int

    @property
    def token_id(self) -> int:
        return self.token_ids[-1]

    def numpy(self) -> NDArray[np.float32]:
        """Return the logits [vocab] on the host."""
        return np.asarray(self.logits.asnumpy()[self.row])


class PromptPart(NamedTuple):
    """The tokens of a prompt that are not yet in a slot."""

    token_ids: NDArray[np.int32]  # [tokens]
    features: Sequence[NDArray[np.float32]]  # features of the images among them, in order
    position_ids: NDArray[np.int32]  # [3, tokens]
    slot: int = 0
    cached: int = 0  # number of tokens before them in the slot


class NewToken(NamedTuple):
    """The input of a decode step for one slot."""

    token_id: int
    position: int
    slot: int
    cached: int  # number of tokens before it in the slot
    wanted: int = 1  # maximum number of tokens to generate


class Graphs:
    """Static-shape graphs over one set of weights. Inputs are NumPy arrays, outputs NumPy arrays or a :class:`Step`."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        max_length: int,
        operators: Operators,
        backends: Backends,
        kv: KVSlots,
        jit_level: JitLevel = "O0",
        ranks: Ranks | None = None,
    ) -> None:
        self._jit = partial(ms.jit, jit_level=jit_level)
        self._start(config, max_length, backends, ranks)
        self._dtype = operators.weight_dtype
        self._loader = Loader(weights)
        self._tower = VisionTower(config.vision, self._loader, operators)
        self._language = LanguageModel(config, self._loader, max_length, split_operators(operators, self._ranks))
        self._loader.end()
        self._vision = self._jit(self.cells(kv)["vision"])
        self.attach(backends, kv)

    def _start(self, config: ModelConfig, max_length: int, backends: Backends, ranks: Ranks | None = None) -> None:
        self._config, self._ranks = config, ranks or Ranks()
        self._max_length = max_length
        self.backends = backends
        self._compiled: dict[tuple[str, int, int], set[str]] = {}  # graph, bucket and parts -> MindSpore's names for it
        weakref.finalize(self, _forget_all, self._compiled).atexit = False
        self._first_calls: list[float] = []  # seconds

    def cells(self, kv: KVSlots) -> dict[str, nn.Cell]:
        """Return the uncompiled graphs for these slots, by name."""
        vision, text = self.backends
        if text.decode_steps == 1:
            decode = Decode(self._language, text, kv)
        else:
            decode = DecodeSteps(self._language, text, kv, self._config.eos_token_ids)
        return {
            "vision": Vision(self._tower, vision),
            "prefill": Prefill(self._language, text, kv),
            "decode": decode,
            "sample": SampleFromHistory(),
            "copy": CopySlot(kv),
        }

    def attach(self, backends: Backends, kv: KVSlots) -> None:
        """Use these backends and slots; graphs for others are released."""
        if backends is not self.backends:
            self.backends = backends
            self._vision = self._jit(self.cells(kv)["vision"])
            self._forget("vision")
        names = ("prefill", "decode", "sample", "copy")
        self._forget(*names)
        self._slots, self._kv, cells = kv.shape[0], kv, self.cells(kv)
        self._prefill, self._decode, self._sample, self._copy = (self._jit(cells[name]) for name in names)

    def _forget(self, *graphs: str) -> None:
        for key in [key for key in self._compiled if key[0] in graphs]:
            forget(self._compiled.pop(key))

    @property
    def compilations(self) -> int:
        """Number of graphs compiled so far."""
        return len(self._first_calls)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent in the first calls of all graphs, which compile them and run them once."""
        return sum(self._first_calls)

    def update(self, weights: Weights, changed: Collection[str]) -> None:
        """Replace the values of the weights in ``changed`` in place; nothing is compiled again."""
        self._loader.update(weights, changed)

    def parameters(self) -> list[Parameter]:
        """Return all weights."""
        return [*self._tower.get_parameters(), *self._language.get_parameters()]

    @property
    def decode_bytes(self) -> int:
        """Size of the weights that a decode step reads, in bytes."""
        read = sum(int(parameter.nbytes) for parameter in self._language.get_parameters())
        return read if self._language.tied else read - int(self._language.embed_tokens.nbytes)

    @contextmanager
    def _running(self, graph: str, bucket: int, parts: int = 1) -> Iterator[None]:
        """Record a graph's first call, and convert a failure of the device, such as full memory, to a PageError."""
        key, start = (graph, bucket, parts), time.perf_counter()
        before = phases() if key not in self._compiled else None
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            raise self._ranks.failure(
                f"MindSpore failed in {graph} ({native.explain(error)}): lower max_pixels or max_length",
                code="mindspore_failed",
            ) from error
        if before is not None:
            self._compiled[key] = phases() - before
            self._first_calls.append(time.perf_counter() - start)

    def buckets(self, graph: str) -> Iterable[int]:
        """Return the ascending bucket sizes of a graph: patches for the vision graph, tokens for a prefill."""
        return bucket_sizes(MIN_PATCHES, MAX_PATCHES) if graph == "vision" else bucket_sizes(MIN_TOKENS, self._max_length)

    def _bucket(self, graph: str, size: int) -> int:
        return next(bucket for bucket in self.buckets(graph) if bucket >= size)

    @property
    def images_at_once(self) -> int:
        """Maximum number of images in one call of :meth:`vision`."""
        return self.backends.vision.packed_images

    def vision(self, images: Sequence[Patches]) -> list[NDArray[np.float32]]:
        """Return the features [patches / 4, hidden] of up to ``images_at_once`` images, packed into one bucket.

        Raises:
            PageError: attention over this number of patches needs more than the free memory.
        """
        patches = sum(len(image.pixels) for image in images)
        bucket = self._bucket("vision", patches)
        needed = self.backends.vision.score_bytes(bucket)
        if needed and needed > (free := self._ranks.least(psutil.virtual_memory().available)):
            raise PageError(
                f"an image of {patches} patches needs {needed / 2**30:.1f} GiB for its attention, but only "
                f"{free / 2**30:.1f} GiB are free: lower --max-pixels, or use --attn flash",
                code="attention_out_of_memory",
            )
        parts = 1 if len(images) == 1 else self.images_at_once  # a single image, or padded with empty ones
        packed = PackedImages(images, self._config.vision, bucket, parts, self.backends.vision.most_windows)
        with self._running("vision", bucket, parts):
            inputs = [Tensor(array) for array in packed.inputs()]
            features = packed.features(self._vision(*inputs).asnumpy())
        if not all(np.isfinite(each).all() for each in features):
            raise self._overflowed("vision", inputs, patches)
        return features

    @property
    def prompts_at_once(self) -> int:
        """Maximum number of prompts in one call of :meth:`prefill`."""
        return min(self.backends.text.packed_prompts, self._slots)

    def prefill(self, *parts: PromptPart) -> list[Step]:
        """Run up to ``prompts_at_once`` prompts after the tokens in their slots; the features replace image tokens.

        Raises:
            PageError: the values of a prompt are not finite. Run the prompts separately to find out which one.
        """
        inputs = self._prompts(parts)
        with self._running("prefill", inputs[0].shape[0], inputs[-1].shape[0]):
            tokens, log_probabilities, logits, finite = self._prefill(*inputs)
            chosen, probable = tokens.asnumpy().tolist(), log_probabilities.asnumpy().tolist()
            steps = [Step([chosen[row]], [probable[row]], logits, row) for row in range(len(parts))]
        if not finite.asnumpy()[: len(parts)].all():
            raise self._overflowed("prefill", inputs, sum(len(part.token_ids) for part in parts))
        return steps

    def _prompts(self, parts: Sequence[PromptPart]) -> list[Tensor]:
        """Return the inputs of the prefill graph for one segment, or padded with empty segments to the maximum number."""
        token_ids = np.concatenate([part.token_ids for part in parts])
        features = [feature for part in parts for feature in part.features]
        segments = 1 if len(parts) == 1 else self.prompts_at_once
        tokens = len(token_ids)
        bucket = self._bucket("prefill", tokens) if segments == 1 else bucket_for(tokens, MIN_TOKENS, MAX_PACKED_TOKENS)
        is_image = np.concatenate([(part.token_ids == self._config.image_token_id) & bool(part.features) for part in parts])
        image_rows = np.zeros((bucket, self._config.hidden_size), np.float32)
        if is_image.any():
            image_rows[:tokens][is_image] = np.concatenate(features)
        table = np.zeros((3, segments), np.int32)  # slot, cached, count
        table[:, : len(parts)] = np.array([(part.slot, part.cached, len(part.token_ids)) for part in parts], np.int32).T
        return [
            Tensor(_padded(token_ids, bucket)),
            Tensor(image_rows),
            Tensor(_padded(is_image[:, None].astype(np.float32), bucket)),
            Tensor(np.ascontiguousarray(_padded(np.concatenate([part.position_ids.T for part in parts]), bucket).T)),
            *_integers(*table),
        ]

    def _overflowed(self, graph: str, inputs: Sequence[Tensor], rows: int) -> OverflowedError:
        """Create the error of a graph whose output for these inputs is not finite; the first ``rows`` are not padding."""
        if graph == "vision":
            probe: nn.Cell = VisionProbe(self._tower, self.backends.vision)
        else:
            probe = PrefillProbe(self._language, self.backends.text, self._kv)
        return overflowed(first_overflow(probe, inputs, rows), self._dtype)

    @property
    def decode_steps(self) -> int:
        """Maximum number of tokens for a request in one call of :meth:`decode`."""
        return self.backends.text.decode_steps

    def decode(self, new: Sequence[NewToken]) -> list[Step]:
        """Generate more tokens in several slots, in one call."""
        bucket = self.decode_bucket(len(new))
        rows = [token.slot for token in new] if self.backends.text.rows_are_slots else list(range(len(new)))
        table = np.zeros((5, bucket), np.int32)  # token, position, slot, cached, count
        table[2] = np.arange(bucket) if self.backends.text.rows_are_slots else 0
        table[:, rows] = np.array(new, np.int32).T
        with self._running("decode", bucket):
            tokens, log_probabilities, logits, finite = self._decode(*_integers(*table, [len(new)]))
            chosen, probable, sound = tokens.asnumpy(), log_probabilities.asnumpy(), finite.asnumpy()[rows]
        if not sound.all():  # run the token as a prompt of length 1 after the contents of its slot
            blamed = new[int(np.argmin(sound))]
            token, positions = np.array([blamed.token_id], np.int32), np.full((3, 1), blamed.position, np.int32)
            part = PromptPart(token, [], positions, blamed.slot, blamed.cached)
            raise self._overflowed("prefill", self._prompts([part]), 1)
        counts = (chosen >= 0).sum(0)
        return [
            Step(chosen[: counts[row], row].tolist(), probable[: counts[row], row].tolist(), logits, row) for row in rows
        ]

    def sample(self, logits: Tensor, rows: dict[int, Row]) -> dict[int, tuple[int, float]]:
        """Sample tokens for some rows of logits [segments, vocab] on the device; return them with their
        log-probabilities."""
        count = logits.shape[0]
        inputs = [Tensor(values) for values in row_inputs(rows, count)]
        with self._running("sample", count):
            tokens, log_probabilities = self._sample(logits, *inputs)
            chosen, probable = tokens.asnumpy(), log_probabilities.asnumpy()
        return {at: (int(chosen[at]), float(probable[at])) for at in rows}

    def copy_slot(self, source: int, target: int, tokens: int) -> None:
        """Copy the first ``tokens`` keys and values of a slot to another."""
        if self.backends.text.slots_on_device:
            self._on_device(source, target, tokens)
        else:
            self._kv.copy(source, target, tokens)

    def clear_slot(self, slot: int) -> None:
        """Set all keys and values of a slot to zero."""
        if self.backends.text.slots_on_device:
            self._on_device(slot, slot, CLEAR)
        else:
            self._kv.clear(slot)

    def _on_device(self, *inputs: int) -> None:
        with self._running("copy", 1):
            self._copy(*_integers(*([value] for value in inputs))).asnumpy()

    def decode_bucket(self, segments: int) -> int:
        """Return the bucket of a decode step: a power of two, or all slots if the backend requires it."""
        if self.backends.text.rows_are_slots:
            return self._slots
        return min(1 << (segments - 1).bit_length(), self._slots)

    def warm_up(self, patches: int, tokens: int, segments: int) -> None:
        """Compile all graphs for images of up to ``patches``, prompts of up to ``tokens`` and decode steps of up to
        ``segments``. This overwrites the slots, which must be free."""
        vision = self._config.vision
        for bucket in until(patches, self.buckets("vision")):
            grid = (1, vision.spatial_merge_size, bucket // vision.spatial_merge_size)
            self.vision([Patches(np.zeros((bucket, vision.patch_dim), np.float32), grid)])
        for bucket in until(tokens, self.buckets("prefill")):
            self.prefill(PromptPart(np.zeros(bucket, np.int32), [], np.zeros((3, bucket), np.int32)))
        if min(segments, self.prompts_at_once) > 1:
            for bucket in bucket_sizes(MIN_TOKENS, MAX_PACKED_TOKENS):
                parts = [(bucket - 1, 0), (1, 1)]
                self.prefill(*(PromptPart(np.zeros(n, np.int32), [], np.zeros((3, n), np.int32), slot) for n, slot in parts))
        for count in sorted({self.decode_bucket(count) for count in range(1, segments + 1)}):
            self.decode([NewToken(0, 0, slot, 0) for slot in range(count)])


def _forget_all(compiled: dict[tuple[str, int, int], set[str]]) -> None:
    for names in compiled.values():
        forget(names)


def _padded(array: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    padded = np.zeros((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _integers(*values: Sequence[int] | NDArray[np.int32]) -> list[Tensor]:
    return [Tensor(np.asarray(value, np.int32)) for value in values]
