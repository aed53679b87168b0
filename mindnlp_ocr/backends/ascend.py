"""The backend for Ascend's attention operators, through MindSpore's primitives. It has never run on an NPU.

docs/ascend.md describes the operators, their documented limits, and what was tested without hardware. The operators compute
in 16 bits: q, k and v are cast to 16 bits, and the result is cast back to float32. The KV slots have the same 16-bit dtype
(``AscendBackend.dtype``), because casting the whole cache for every token would cost more than the attention.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, ops
from mindspore.ops.auto_generate import FlashAttentionScore, IncreFlashAttention, PromptFlashAttention

from mindnlp_ocr.backends.base import StepInputs
from mindnlp_ocr.backends.eager import EagerBackend
from mindnlp_ocr.errors import SetupError

MAX_SEQUENCES = 1023  # images or windows: TND supports 1,024 sequences, one of which is the padding
_MAX_PATCHES = (1 << 20) - 1  # TND supports 2**20 rows, and there is one more key than queries
HEAD_DIMS = range(16, 513, 16)
_MAX_HEADS, _MAX_GROUP = 256, 64
_HIGH_PRECISION = 0  # value of inner_precise; 1 is faster, but sums in 16 bits
_FULL_MASK = 0  # value of sparse_mode
_UNBOUNDED = (1 << 31) - 1  # value of next_tokens; the default, 0, hides keys beyond the number of queries


class AscendBackend(EagerBackend):
    """The counterpart of :class:`EagerBackend` with FlashAttentionScore, PromptFlashAttention and IncreFlashAttention.

    ``extend`` accepts one token for every slot, or one segment of any length.

    Masks are bool, True for hidden keys. They are created by the ``*_mask`` methods once per graph and shared by all layers.
    Shapes and dtypes are checked while a graph is compiled.
    """

    packed_images = 1
    most_windows = MAX_SEQUENCES
    rows_are_slots = True
    slots_on_device = True
    samples_in_graph = True

    def __init__(self, heads: int, kv_heads: int, head_dim: int, dtype: Any = ms.float16) -> None:
        """Create the operators. ``dtype`` is the dtype of the operators and the KV slots, float16 or bfloat16.

        Raises:
            SetupError: the operators do not support these arguments.
        """
        check_arguments(heads, kv_heads, head_dim, dtype)
        super().__init__(heads, kv_heads, head_dim)
        self.dtype = dtype
        scale = 1.0 / math.sqrt(head_dim)
        self.packed = FlashAttentionScore(heads, scale_value=scale, input_layout="TND", sparse_mode=0)
        self.prompt = PromptFlashAttention(
            heads,
            scale_value=scale,
            pre_tokens=_UNBOUNDED,
            next_tokens=_UNBOUNDED,
            input_layout="BNSD",
            num_key_value_heads=kv_heads,
            sparse_mode=_FULL_MASK,
            inner_precise=_HIGH_PRECISION,
        )
        self.incremental = IncreFlashAttention(
            heads, input_layout="BNSD", scale_value=scale, num_key_value_heads=kv_heads, inner_precise=_HIGH_PRECISION
        )
        self.write = ops.ScatterNdUpdate()

    def slot_tensor(self, x: Tensor) -> Tensor:
        """Convert keys or values [slots, kv_heads, max_length, head_dim] to ``dtype``."""
        return x.astype(self.dtype)

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of the images or windows among the queries and among the keys.

        The padding is an additional sequence. TND supports no sequence without keys, but the padding and windows may be
        empty. Therefore ``vision`` adds a row of zeros to the keys for each sequence. An empty sequence has one key and no
        query, and the last sequence has more keys than queries. Results for padding are meaningless.

        Args:
            cu_seqlens: int32 [sequences + 1], see :func:`check_lengths`; the first is not empty, empty ones come last.
        Returns:
            Cumulative lengths int64 [sequences + 1]: the last is ``patches`` of the queries, ``patches + sequences`` of the
            keys.
        """
        _check_packing(patches, cu_seqlens.shape, cu_seqlens.dtype)
        ends, sequences = cu_seqlens[1:].astype(ms.int64), cu_seqlens.shape[0] - 1
        empty = ops.cumsum((cu_seqlens[1:] == cu_seqlens[:-1]).astype(ms.int32), 0).astype(ms.int64)
        return (
            ops.concat((ends, Tensor([patches], ms.int64))),
            ops.concat((ends + empty, Tensor([patches + sequences], ms.int64))),
        )

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: tuple[Tensor, Tensor]) -> Tensor:
        """Attention of every patch to all patches of its image or window.

        Args:
            q: float32 [patches, heads, head_dim], images or windows in sequence, then padding.
            k, v: float32 [patches, kv_heads, head_dim].
            mask: from :meth:`vision_mask`.
        Returns:
            float32 [patches, heads, head_dim]; rows of padding are finite but meaningless.
        """
        kv = (q.shape[0], self.kv_heads, self.head_dim)
        self.check(
            "vision", ("q", "k", "v"), (q, k, v), ((q.shape[0], self.heads, self.head_dim), kv, kv), (ms.float32,) * 3
        )
        self.check("vision", ("mask",), (mask[0],), ((mask[1].shape[0],),), (ms.int64,))
        spare = ops.zeros((mask[1].shape[0] - 1, self.kv_heads, self.head_dim), self.dtype)
        k, v = ops.concat((k.astype(self.dtype), spare)), ops.concat((v.astype(self.dtype), spare))
        answer = self.packed(q.astype(self.dtype), k, v, None, None, None, None, None, mask[0], mask[1])
        return answer[3].astype(ms.float32)

    def extend_mask(self, kv_shape: tuple[int, int, int, int], tokens: int, step: StepInputs) -> Any:
        """Return the keys hidden from each new token, and the positions to which keys and values are written.

        Args:
            kv_shape: (slots, kv_heads, max_length, head_dim).
            tokens: number of tokens per segment; 1 with a segment for each slot, any number with a single segment.
            step: with a segment for each slot, its ``slots`` must be 0, 1, 2 and so on.
        """
        slots, cached, count = step
        segments = cached.shape[0]
        _check_segments(kv_shape, segments, tokens)
        names, integers = ("slots", "cached", "count"), (slots, cached, count)
        self.check("extend", names, integers, ((segments,),) * 3, (ms.int32,) * 3)
        _, kv_heads, length, _ = kv_shape
        shape = (segments, tokens, kv_heads)
        # Padding repeats the value, position and mask of the last new token. Inactive slots do not change.
        index = ops.range(0, tokens, 1).astype(ms.int32).reshape(1, tokens)
        token = ops.minimum(index, ops.maximum(count - 1, 0).reshape(segments, 1))
        last = cached.reshape(segments, 1) + token
        place = (slots.reshape(segments, 1, 1), ops.range(0, kv_heads, 1).astype(ms.int32).reshape(1, 1, kv_heads))
        row = ops.minimum(last, length - 1).reshape(segments, tokens, 1)
        at = ops.stack([ops.broadcast_to(x, shape).reshape(-1) for x in (*place, row)], 1)
        source = (ops.range(0, segments, 1).astype(ms.int32).reshape(segments, 1) * tokens + token).reshape(-1)
        fresh = ops.broadcast_to((count > 0).reshape(segments, 1, 1), shape).reshape(-1, 1)
        fresh = ops.broadcast_to(fresh, (segments * tokens * kv_heads, self.head_dim))
        hidden = ops.range(0, length, 1).reshape(1, 1, 1, length) > last.reshape(segments, 1, tokens, 1)
        return hidden, at, source, fresh, slots

    def extend(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        """Causal attention of new tokens to their slot and to one another. Appends k and v to the slots in place.

        Args:
            q: float32 [segments, tokens, heads, head_dim].
            k, v: float32 [segments, tokens, kv_heads, head_dim].
            keys, values: ``dtype`` [slots, kv_heads, max_length, head_dim], written in place.
            mask: from :meth:`extend_mask`.
        Returns:
            float32 [segments, tokens, heads, head_dim]; rows of padding are finite but meaningless.
        """
        segments, tokens = q.shape[0], q.shape[1]
        _check_segments(keys.shape, segments, tokens)
        kv = (segments, tokens, self.kv_heads, self.head_dim)
        shapes = ((segments, tokens, self.heads, self.head_dim), kv, kv)
        self.check("extend", ("q", "k", "v"), (q, k, v), shapes, (ms.float32,) * 3)
        held = ("slots", self.kv_heads, "max_length", self.head_dim)
        self.check("extend", ("keys", "values"), (keys, values), (held, held), (self.dtype,) * 2)
        hidden, at, source, fresh, slots = mask
        self.check("extend", ("mask",), (hidden,), ((segments, 1, tokens, keys.shape[2]),), (ms.bool_,))
        # The write returns the slots themselves. Reading its result ensures that the write comes first.
        keys, values = self.written(keys, k, at, source, fresh), self.written(values, v, at, source, fresh)
        q = ops.transpose(q, (0, 2, 1, 3)).astype(self.dtype)
        if segments == keys.shape[0] and tokens == 1:
            answer = self.incremental(q, [keys], [values], hidden)
        else:
            answer = self.prompt(q, ops.gather(keys, slots, 0), ops.gather(values, slots, 0), hidden)
        return ops.transpose(answer.astype(ms.float32), (0, 2, 1, 3))

    def written(self, held: Parameter, new: Tensor, rows: Tensor, source: Tensor, fresh: Tensor) -> Tensor:
        """Write [segments, tokens, kv_heads, head_dim] to ``held`` for :meth:`extend`, and return ``held``."""
        new = ops.gather(new.reshape(-1, self.kv_heads, self.head_dim), source, 0).reshape(-1, self.head_dim)
        old = ops.gather_nd(held, rows).astype(ms.float32)
        return self.write(held, rows, ops.select(fresh, new, old).astype(self.dtype))

    def score_bytes(self, tokens: int) -> int:
        """Return 0, because the operators compute scores in tiles."""
        return 0

    def check(
        self,
        work: str,
        names: tuple[str, ...],
        tensors: tuple[Tensor, ...],
        shapes: tuple[tuple[int | str, ...], ...],
        dtypes: tuple[Any, ...],
    ) -> None:
        _check_tensors(work, names, tuple([x.shape for x in tensors]), tuple([x.dtype for x in tensors]), shapes, dtypes)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm as one operator: x / sqrt(mean(x^2) + eps) * weight, x float32 [rows, width], weight float32 [width]."""
    return ops.RmsNorm(eps)(x, weight)[0]


def check_arguments(heads: int, kv_heads: int, head_dim: int, dtype: Any) -> None:
    """Check that the operators support attention with these arguments.

    Raises:
        SetupError: an argument is not supported.
    """
    if dtype not in (ms.float16, ms.bfloat16):
        raise SetupError(
            f"Ascend attention in {dtype}: its operators support float16 and bfloat16; use one of them",
            code="ascend_dtype_unsupported",
        )
    for name, value in (("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)):
        if not isinstance(value, int) or value < 1:
            raise SetupError(f"Ascend attention: {name} is {value!r}; use a whole number from 1", code="not_positive")
    if heads > _MAX_HEADS or heads % kv_heads or heads // kv_heads > _MAX_GROUP:
        raise SetupError(
            f"Ascend attention: {heads} heads over {kv_heads} key-value heads; its operators support up to {_MAX_HEADS} "
            f"heads, at most {_MAX_GROUP} per key-value head and the same number for each: use attention eager",
            code="ascend_heads_unsupported",
        )
    if head_dim not in HEAD_DIMS:
        raise SetupError(
            f"Ascend attention: head_dim is {head_dim}; its operators support multiples of {HEAD_DIMS.step} up to "
            f"{HEAD_DIMS[-1]}: use attention eager",
            code="ascend_heads_unsupported",
        )


def check_lengths(patches: int, cu_seqlens: Sequence[int]) -> None:
    """Check cumulative lengths of images on the host, since a graph cannot check values.

    Raises:
        SetupError: the lengths do not start at 0, do not increase, exceed ``patches``, or are too many.
    """
    lengths = [int(length) for length in cu_seqlens]
    _require_packing(patches, (len(lengths),), ms.int32)
    if lengths[0] != 0:
        raise SetupError(f"cumulative lengths start at {lengths[0]}: put 0 first", code="cumulative_lengths_invalid")
    for image, (start, end) in enumerate(pairwise(lengths)):
        if end <= start:
            raise SetupError(
                f"cumulative lengths go from {start} to {end} at image {image}: every image needs a patch",
                code="cumulative_lengths_invalid",
            )
    if lengths[-1] > patches:
        raise SetupError(
            f"cumulative lengths end at {lengths[-1]}, but there are {patches} patches: use a larger bucket",
            code="cumulative_lengths_invalid",
        )


def _require_packing(patches: int, shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) != 1 or shape[0] < 2 or dtype != ms.int32:
        raise SetupError(
            f"cumulative lengths are {dtype} {tuple(shape)}; use Int32 (images + 1,)", code="cumulative_lengths_invalid"
        )
    images = shape[0] - 1
    if images > MAX_SEQUENCES:
        raise SetupError(
            f"{images} images in one graph: Ascend attention supports up to {MAX_SEQUENCES}; read fewer at once",
            code="ascend_graph_too_large",
        )
    if not 0 < patches <= _MAX_PATCHES:
        raise SetupError(
            f"{patches} patches in one graph: Ascend attention supports 1 to {_MAX_PATCHES}; read fewer at once",
            code="ascend_graph_too_large",
        )


def _require_segments(kv_shape: tuple[int, ...], segments: int, tokens: int) -> None:
    if len(kv_shape) != 4:
        raise SetupError(
            f"KV slots of shape {tuple(kv_shape)}: use (slots, kv_heads, max_length, head_dim)", code="ascend_shape_invalid"
        )
    if segments != 1 and (segments, tokens) != (kv_shape[0], 1):
        raise SetupError(
            f"{segments} segments of {tokens} tokens over {kv_shape[0]} slots: Ascend attention supports one token in every "
            "slot, or one segment of any length",
            code="ascend_step_unsupported",
        )
    if tokens > kv_shape[2]:
        raise SetupError(f"{tokens} tokens into a slot of {kv_shape[2]}: raise max_length", code="context_length_exceeded")


def _require_tensors(
    work: str,
    names: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[Any, ...],
    expected_shapes: tuple[tuple[int | str, ...], ...],
    expected_dtypes: tuple[Any, ...],
) -> None:
    """Check shapes and dtypes. A name in place of a length allows any length."""
    for name, shape, dtype, lengths, expected in zip(names, shapes, dtypes, expected_shapes, expected_dtypes, strict=True):
        fits = len(shape) == len(lengths) and all(isinstance(b, str) or a == b for a, b in zip(shape, lengths, strict=True))
        if not fits or dtype != expected:
            raise SetupError(
                f"{work}: {name} is {dtype} {_text(shape)}; use {expected} {_text(lengths)}", code="ascend_shape_invalid"
            )


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# A constexpr runs in Python while a graph is compiled, and its exceptions are raised by the call that compiles the graph.
_check_packing = ops.constexpr(_require_packing)
_check_segments = ops.constexpr(_require_segments)
_check_tensors = ops.constexpr(_require_tensors)
