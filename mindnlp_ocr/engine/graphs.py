"""The compiled graphs, by bucket of patches, tokens or requests. Each is compiled on its first use, and counted."""

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

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.buckets import bucket_sizes, until
from mindnlp_ocr.engine.compiled import forget, phases
from mindnlp_ocr.engine.overflow import LanguageProbe, OverflowedError, VisionProbe, all_finite, first_overflow, overflowed
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.layers import Loader, Weights
from mindnlp_ocr.modeling.rope import vision_table
from mindnlp_ocr.modeling.vision import VisionTower
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.attention import EagerAttention
from mindnlp_ocr.ops.device import JitLevel
from mindnlp_ocr.ops.operators import Operators
from mindnlp_ocr.ops.ranks import Ranks, split_operators
from mindnlp_ocr.ops.select import Attentions
from mindnlp_ocr.processing.images import Patches

MIN_PATCHES = 64
MAX_PATCHES = 1 << 18
MIN_TOKENS = 64


class Step(NamedTuple):
    """The next tokens by greedy choice, and the logits that the last was chosen from."""

    token_ids: list[int]
    logits: Tensor  # float32 [segments, vocab], on the device until somebody asks
    row: int

    @property
    def token_id(self) -> int:
        return self.token_ids[-1]

    def numpy(self) -> NDArray[np.float32]:
        """Logits [vocab] on the host."""
        return np.asarray(self.logits.asnumpy()[self.row])


class NewToken(NamedTuple):
    """What a decode step runs in one slot."""

    token_id: int
    position: int
    slot: int
    live: int  # tokens that the slot holds before it
    wanted: int = 1  # tokens to come behind it, if the text does not end before


class Vision(nn.Cell):
    """Packed images to their features."""

    def __init__(self, tower: VisionTower, attention: EagerAttention) -> None:
        super().__init__(auto_prefix=False)
        self.tower = tower
        self.attention = attention

    def construct(self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.tower(patches, cos, sin, cu_seqlens, self.attention)


class Prefill(nn.Cell):
    """A prompt, or the rest of one, into its slot."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.attention = attention
        self.kv = kv

    def construct(
        self,
        token_ids: Tensor,
        image_rows: Tensor,
        is_image: Tensor,
        position_ids: Tensor,
        slots: Tensor,
        live: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.language.prefill(
            token_ids, image_rows, is_image, position_ids, slots, live, count, self.attention, self.kv
        )
        return self.language.operators.choose(logits), logits, all_finite(logits)


class Decode(nn.Cell):
    """One token more in some slots."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.attention = attention
        self.kv = kv

    def construct(
        self, token_ids: Tensor, position_ids: Tensor, slots: Tensor, live: Tensor, count: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, logits = self.language.decode(token_ids, position_ids, slots, live, count, rows, self.attention, self.kv)
        return tokens, logits, all_finite(logits)


class DecodeSteps(nn.Cell):
    """Several tokens more, where the attention has an operator for it."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots, ends: Sequence[int]) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.attention = attention
        self.layers = language.layer_tensors(kv)
        self.ends = Tensor(np.asarray(ends, np.int32))

    def construct(
        self, token_ids: Tensor, position_ids: Tensor, slots: Tensor, live: Tensor, count: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, logits = self.language.decode_steps(
            token_ids, position_ids, slots, live, count, self.ends, self.attention, self.layers
        )
        return tokens, logits, all_finite(logits)


class Graphs:
    """Static-shape graphs over one set of weights. NumPy in, NumPy or a :class:`Step` out."""

    def __init__(
        self,
        config: Qwen2VLConfig,
        weights: Weights,
        max_length: int,
        operators: Operators,
        attention: Attentions,
        kv: KVSlots,
        jit_level: JitLevel = "O0",
        ranks: Ranks | None = None,
    ) -> None:
        self._jit = partial(ms.jit, jit_level=jit_level)
        self._start(config, max_length, attention, ranks)
        self._dtype = operators.weight_dtype
        self._loader = Loader(weights)
        self._tower = VisionTower(config.vision, self._loader, operators)
        self._language = LanguageModel(config, self._loader, max_length, split_operators(operators, self._ranks))
        self._loader.end()
        self._vision = self._jit(self.cells(kv)["vision"])
        self.attach(attention, kv)

    def _start(self, config: Qwen2VLConfig, max_length: int, attention: Attentions, ranks: Ranks | None = None) -> None:
        self._config, self._ranks = config, ranks or Ranks()
        self._max_length = max_length
        self.attentions = attention
        self._compiled: dict[tuple[str, int, int], set[str]] = {}  # graph, bucket and parts -> MindSpore's names for it
        weakref.finalize(self, _forget_all, self._compiled).atexit = False
        self._first_calls: list[float] = []  # seconds

    def cells(self, kv: KVSlots) -> dict[str, nn.Cell]:
        """The three graphs over these slots, by their names, not compiled."""
        vision, text = self.attentions
        if text.greedy_decode is None:
            decode = Decode(self._language, text, kv)
        else:
            decode = DecodeSteps(self._language, text, kv, self._config.eos_token_ids)
        return {"vision": Vision(self._tower, vision), "prefill": Prefill(self._language, text, kv), "decode": decode}

    def attach(self, attention: Attentions, kv: KVSlots) -> None:
        """Run on this attention and these slots from now on; the graphs over others are dropped."""
        if attention is not self.attentions:
            self.attentions = attention
            self._vision = self._jit(self.cells(kv)["vision"])
            self._forget("vision")
        self._forget("prefill", "decode")
        self._slots, self._kv = kv.shape[0], kv
        self._prefill, self._decode = (self._jit(self.cells(kv)[name]) for name in ("prefill", "decode"))

    def _forget(self, *graphs: str) -> None:
        for key in [key for key in self._compiled if key[0] in graphs]:
            forget(self._compiled.pop(key))

    @property
    def compilations(self) -> int:
        """Graphs compiled so far."""
        return len(self._first_calls)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent in the first call of every graph: compiling it and running it once."""
        return sum(self._first_calls)

    def update(self, weights: Weights, changed: Collection[str]) -> None:
        """Run on other values of the weights that ``changed`` names, in place: nothing is compiled again."""
        self._loader.update(weights, changed)

    def parameters(self) -> list[Parameter]:
        """All weights."""
        return [*self._tower.get_parameters(), *self._language.get_parameters()]

    @property
    def decode_bytes(self) -> int:
        """Bytes of weights that a decode step reads."""
        read = sum(int(parameter.nbytes) for parameter in self._language.get_parameters())
        return read if self._language.tied else read - int(self._language.embed_tokens.nbytes)

    @contextmanager
    def _running(self, graph: str, bucket: int, parts: int = 1) -> Iterator[None]:
        """Counts a graph's first call, and makes a device that fails or is full the page's error."""
        key, start = (graph, bucket, parts), time.perf_counter()
        before = phases() if key not in self._compiled else None
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            raise self._ranks.failure(
                f"MindSpore failed in {graph} ({native.explain(error)}): lower max_pixels or max_length"
            ) from error
        if before is not None:
            self._compiled[key] = phases() - before
            self._first_calls.append(time.perf_counter() - start)

    def buckets(self, graph: str) -> Iterable[int]:
        """Patches that the vision graph, or tokens that a prefill may be padded to, ascending."""
        return bucket_sizes(MIN_PATCHES, MAX_PATCHES) if graph == "vision" else bucket_sizes(MIN_TOKENS, self._max_length)

    def _bucket(self, graph: str, size: int) -> int:
        return next(bucket for bucket in self.buckets(graph) if bucket >= size)

    @property
    def images_at_once(self) -> int:
        """Images that :meth:`vision` takes in one call."""
        return self.attentions.vision.packed_images

    def vision(self, images: Sequence[Patches]) -> list[NDArray[np.float32]]:
        """Features [patches / 4, hidden] of each of up to ``images_at_once`` images, packed into one bucket.

        Raises:
            PageError: attention over so many patches would not fit in the memory that is free.
        """
        ends = np.cumsum([0, *(len(image.pixels) for image in images)])
        live = int(ends[-1])
        bucket = self._bucket("vision", live)
        vision = self._config.vision
        needed = self.attentions.vision.score_bytes(bucket)
        if needed and needed > (free := self._ranks.least(psutil.virtual_memory().available)):
            raise PageError(
                f"an image of {live} patches needs {needed / 2**30:.1f} GiB for its attention, {free / 2**30:.1f} GiB "
                "are free: lower --max-pixels, or use --attn flash"
            )
        parts = 1 if len(images) == 1 else self.images_at_once  # of one image, or padded with empty ones
        cu_seqlens = np.append(ends, np.full(parts - len(images), live)).astype(np.int32)
        tables = [vision_table(image.grid_thw, vision.head_dim, vision.spatial_merge_size) for image in images]
        rows = ([image.pixels for image in images], [cos for cos, _ in tables], [sin for _, sin in tables])
        with self._running("vision", bucket, parts):
            inputs = [Tensor(_padded(np.concatenate(arrays), bucket)) for arrays in rows] + [Tensor(cu_seqlens)]
            features = self._vision(*inputs).asnumpy()[: live // vision.spatial_merge_size**2]
        if not np.isfinite(features).all():
            raise self._overflowed("vision", inputs, live)
        return np.split(features, ends[1:-1] // vision.spatial_merge_size**2)

    def prefill(
        self,
        token_ids: NDArray[np.int32],
        features: Sequence[NDArray[np.float32]],
        position_ids: NDArray[np.int32],
        slot: int = 0,
        live: int = 0,
    ) -> Step:
        """Run the tokens of a prompt behind the first ``live``, which ``slot`` holds; image tokens take the features."""
        inputs = self._prompt(token_ids, features, position_ids, slot, live)
        with self._running("prefill", inputs[0].shape[0]):
            token, logits, finite = self._prefill(*inputs)
            step = Step([int(token.asnumpy()[0])], logits, 0)
        if not finite.asnumpy()[0]:
            raise self._overflowed("prefill", inputs, len(token_ids))
        return step

    def _prompt(
        self,
        token_ids: NDArray[np.int32],
        features: Sequence[NDArray[np.float32]],
        position_ids: NDArray[np.int32],
        slot: int,
        live: int,
    ) -> list[Tensor]:
        """What the prefill graph takes."""
        bucket = self._bucket("prefill", len(token_ids))
        is_image = (token_ids == self._config.image_token_id) & bool(features)
        image_rows = np.zeros((bucket, self._config.hidden_size), np.float32)
        if is_image.any():
            image_rows[: len(token_ids)][is_image] = np.concatenate(features)
        return [
            Tensor(_padded(token_ids, bucket)),
            Tensor(image_rows),
            Tensor(_padded(is_image[:, None].astype(np.float32), bucket)),
            Tensor(np.ascontiguousarray(_padded(position_ids.T, bucket).T)),
            *_integers([slot], [live], [len(token_ids)]),
        ]

    def _overflowed(self, graph: str, inputs: Sequence[Tensor], rows: int) -> OverflowedError:
        """The error of a graph whose answer to these inputs is not finite; ``rows`` are no padding."""
        if graph == "vision":
            probe: nn.Cell = VisionProbe(self._tower, self.attentions.vision)
        else:
            probe = LanguageProbe(self._language, self.attentions.text, self._kv)
        return overflowed(first_overflow(probe, inputs, rows), self._dtype)

    @property
    def decode_steps(self) -> int:
        """Tokens that a text may get in one call of :meth:`decode`."""
        return self.attentions.text.decode_steps

    def decode(self, new: Sequence[NewToken]) -> list[Step]:
        """Tokens more in each of some slots, all in one call."""
        bucket = self.decode_bucket(len(new))
        rows = [token.slot for token in new] if self.attentions.text.rows_are_slots else list(range(len(new)))
        table = np.zeros((5, bucket), np.int32)  # token, position, slot, live, count
        table[2] = np.arange(bucket) if self.attentions.text.rows_are_slots else 0
        table[:, rows] = np.array(new, np.int32).T
        with self._running("decode", bucket):
            tokens, logits, finite = self._decode(*_integers(*table, [len(new)]))
            chosen, sound = tokens.asnumpy(), finite.asnumpy()[rows]
        if not sound.all():  # the token by itself, as a prompt of one behind what its slot holds
            blamed = new[int(np.argmin(sound))]
            token, positions = np.array([blamed.token_id], np.int32), np.full((3, 1), blamed.position, np.int32)
            raise self._overflowed("prefill", self._prompt(token, [], positions, blamed.slot, blamed.live), 1)
        return [Step([int(token) for token in chosen[:, row] if token >= 0], logits, row) for row in rows]

    def decode_bucket(self, segments: int) -> int:
        """Powers of two; all slots where the attention wants them so."""
        if self.attentions.text.rows_are_slots:
            return self._slots
        return min(1 << (segments - 1).bit_length(), self._slots)

    def warm_up(self, patches: int, tokens: int, segments: int) -> None:
        """Compile every graph for images of up to ``patches``, prompts of up to ``tokens`` and decode steps of up to
        ``segments``; it writes to the slots, which must be free."""
        vision = self._config.vision
        for bucket in until(patches, self.buckets("vision")):
            grid = (1, vision.spatial_merge_size, bucket // vision.spatial_merge_size)
            self.vision([Patches(np.zeros((bucket, vision.patch_dim), np.float32), grid)])
        for bucket in until(tokens, self.buckets("prefill")):
            self.prefill(np.zeros(bucket, np.int32), [], np.zeros((3, bucket), np.int32))
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
