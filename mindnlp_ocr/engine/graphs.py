"""The compiled graphs: vision and prefill by bucket, decode once. Each is compiled on its first use, and counted."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mindspore as ms
import numpy as np
import psutil
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from mindnlp_ocr.cache.slots import KVSlots
from mindnlp_ocr.engine.buckets import bucket_for, bucket_sizes
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.language import LanguageModel
from mindnlp_ocr.modeling.layers import Weights
from mindnlp_ocr.modeling.rope import vision_table
from mindnlp_ocr.modeling.vision import VisionTower
from mindnlp_ocr.models.config import Qwen2VLConfig
from mindnlp_ocr.ops import native
from mindnlp_ocr.ops.attention import EagerAttention
from mindnlp_ocr.ops.select import Attentions
from mindnlp_ocr.processing.images import Patches

MIN_PATCHES = 64
MAX_PATCHES = 1 << 18
MIN_TOKENS = 64


class Step(NamedTuple):
    """The next token by greedy choice, and the logits it was chosen from."""

    token_id: int
    logits: Tensor  # float32 [1, vocab], on the device until somebody asks


class Vision(nn.Cell):
    """Packed images to their features."""

    def __init__(self, tower: VisionTower, attention: EagerAttention) -> None:
        super().__init__(auto_prefix=False)
        self.tower = tower
        self.attention = attention

    def construct(self, patches: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> Tensor:
        return self.tower(patches, cos, sin, cu_seqlens, self.attention)


class Prefill(nn.Cell):
    """A prompt into slot 0, or nowhere when there is no cache."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots | None) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.attention = attention
        self.kv = kv

    def construct(
        self, token_ids: Tensor, image_rows: Tensor, is_image: Tensor, position_ids: Tensor, live: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.language.prefill(token_ids, image_rows, is_image, position_ids, live, self.attention, self.kv)
        return ops.argmax(logits, -1), logits


class Decode(nn.Cell):
    """One token more in every slot."""

    def __init__(self, language: LanguageModel, attention: EagerAttention, kv: KVSlots) -> None:
        super().__init__(auto_prefix=False)
        self.language = language
        self.attention = attention
        self.kv = kv

    def construct(self, token_ids: Tensor, position_ids: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.language.decode(token_ids, position_ids, live, self.attention, self.kv)
        return ops.argmax(logits, -1), logits


class Graphs:
    """Static-shape graphs over one set of weights. NumPy in, NumPy or a :class:`Step` out."""

    def __init__(
        self, config: Qwen2VLConfig, weights: Weights, max_length: int, attention: Attentions, kv: KVSlots | None
    ) -> None:
        self._config = config
        self._max_length = max_length
        self._tower = VisionTower(config.vision, weights)
        self._language = LanguageModel(config, weights, max_length)
        self._compiled: set[tuple[str, int]] = set()
        self._first_calls: list[float] = []  # seconds
        self._attention = attention
        self._vision = ms.jit(Vision(self._tower, attention.vision))
        self.attach(attention, kv)

    def attach(self, attention: Attentions, kv: KVSlots | None) -> None:
        """Run on this attention and these slots from now on; the graphs over others are dropped."""
        if attention is not self._attention:
            self._attention = attention
            self._vision = ms.jit(Vision(self._tower, attention.vision))
            self._compiled.clear()
        self._compiled = {(graph, bucket) for graph, bucket in self._compiled if graph == "vision"}
        self._prefill = ms.jit(Prefill(self._language, attention.text, kv))
        self._decode = ms.jit(Decode(self._language, attention.text, kv)) if kv is not None else None

    @property
    def compilations(self) -> int:
        """Graphs compiled so far."""
        return len(self._first_calls)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent in the first call of every graph: compiling it and running it once."""
        return sum(self._first_calls)

    @contextmanager
    def _running(self, graph: str, bucket: int) -> Iterator[None]:
        """Counts a graph's first call, and makes a device that fails or is full the page's error."""
        start = time.perf_counter()
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            raise PageError(
                f"MindSpore failed in {graph} ({native.explain(error)}): lower max_pixels or max_length"
            ) from error
        if (graph, bucket) not in self._compiled:
            self._compiled.add((graph, bucket))
            self._first_calls.append(time.perf_counter() - start)

    def vision(self, image: Patches) -> NDArray[np.float32]:
        """Features [patches / 4, hidden] of one image.

        Raises:
            PageError: attention over so many patches would not fit in the memory that is free.
        """
        live = len(image.pixels)
        bucket = bucket_for(live, MIN_PATCHES, MAX_PATCHES)
        vision = self._config.vision
        needed, free = self._attention.vision.score_bytes(bucket), psutil.virtual_memory().available
        if needed > free:
            raise PageError(
                f"an image of {live} patches needs {needed / 2**30:.1f} GiB for its attention, {free / 2**30:.1f} GiB "
                "are free: lower --max-pixels, or use --attn flash"
            )
        cos, sin = vision_table(image.grid_thw, vision.head_dim, vision.spatial_merge_size)
        arrays = (_padded(image.pixels, bucket), _padded(cos, bucket), _padded(sin, bucket))
        with self._running("vision", bucket):
            features = self._vision(*map(Tensor, arrays), Tensor([0, live], ms.int32)).asnumpy()
        return np.asarray(features[: live // vision.spatial_merge_size**2])

    def prefill(
        self, token_ids: NDArray[np.int32], features: Sequence[NDArray[np.float32]], position_ids: NDArray[np.int32]
    ) -> Step:
        """Run a whole prompt of at most ``max_length`` tokens; its image tokens take the features in order."""
        bucket = bucket_for(len(token_ids), MIN_TOKENS, self._max_length)
        is_image = token_ids == self._config.image_token_id
        image_rows = np.zeros((bucket, self._config.hidden_size), np.float32)
        if is_image.any():
            image_rows[: len(token_ids)][is_image] = np.concatenate(features)
        with self._running("prefill", bucket):
            token, logits = self._prefill(
                Tensor(_padded(token_ids, bucket)),
                Tensor(image_rows),
                Tensor(_padded(is_image[:, None].astype(np.float32), bucket)),
                Tensor(np.ascontiguousarray(_padded(position_ids.T, bucket).T)),
                Tensor([len(token_ids)], ms.int32),
            )
            return Step(int(token.asnumpy()[0]), logits)

    def decode(self, token_id: int, position: int, live: int) -> Step:
        """One token more in slot 0, which holds ``live`` tokens already."""
        if self._decode is None:
            raise RuntimeError("decode without KV slots: attach some first")
        with self._running("decode", 1):
            token, logits = self._decode(
                Tensor([token_id], ms.int32), Tensor([[position]] * 3, ms.int32), Tensor([live], ms.int32)
            )
            return Step(int(token.asnumpy()[0]), logits)

    def warm_up(self, patches: int, tokens: int) -> None:
        """Compile every graph for images of up to ``patches`` and prompts of up to ``tokens``; slot 0 must be free."""
        vision = self._config.vision
        for bucket in _until(patches, bucket_sizes(MIN_PATCHES, MAX_PATCHES)):
            grid = (1, vision.spatial_merge_size, bucket // vision.spatial_merge_size)
            self.vision(Patches(np.zeros((bucket, vision.patch_dim), np.float32), grid))
        for bucket in _until(tokens, bucket_sizes(MIN_TOKENS, self._max_length)):
            self.prefill(np.zeros(bucket, np.int32), [], np.zeros((3, bucket), np.int32))
        if self._decode is not None:
            self.decode(0, 0, 0)


def _until(size: int, buckets: Iterator[int]) -> Iterator[int]:
    """The buckets up to the one that holds ``size``."""
    for bucket in buckets:
        yield bucket
        if bucket >= size:
            return


def _padded(array: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    padded = np.zeros((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
