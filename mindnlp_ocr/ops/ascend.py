"""Attention on the operators that Ascend ships, through MindSpore's primitives. Nothing here has run on an NPU.

docs/ascend.md says which operator does what, where its limits are documented, and what was checked without hardware. The
operators compute in 16 bits: q, k and v are cast on the way in and the answer back to float32. The KV slots are held in
that same 16-bit dtype (``AscendAttention.dtype``), because an operator that reads them takes no other, and a cast of the
whole cache for every token would cost more than the attention.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore.ops.auto_generate import FlashAttentionScore, IncreFlashAttention, KVCacheScatterUpdate, PromptFlashAttention

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.ops.attention import EagerAttention

MAX_IMAGES = 1023  # TND takes 1,024 sequences; the padding is one
_MAX_PATCHES = (1 << 20) - 1  # and 2**20 rows; keys have one more than queries
HEAD_DIMS = range(16, 513, 16)
_MAX_HEADS, _MAX_GROUP, _MAX_WIDTH = 256, 64, 65534
_TRIANGLE = 2048  # side of the mask of sparse_mode 3, whatever the prompt's length
_HIGH_PRECISION = 0  # of inner_precise; 1 is faster and sums in 16 bits
_BOTTOM_RIGHT_CAUSAL = 3  # of sparse_mode


class AscendAttention(EagerAttention):
    """As :class:`EagerAttention`, on FlashAttentionScore, PromptFlashAttention and IncreFlashAttention.

    Masks are bool, True where a key is hidden. Each comes from its ``*_mask`` method, is made once a graph and handed to
    every layer. Shapes and dtypes are checked while a graph compiles.
    """

    def __init__(self, heads: int, kv_heads: int, head_dim: int, dtype: Any = ms.float16) -> None:
        """``dtype``: float16 or bfloat16, of the operators and of the KV slots.

        Raises:
            SetupError: arguments that the operators do not take.
        """
        check_arguments(heads, kv_heads, head_dim, dtype)
        super().__init__(heads, kv_heads, head_dim)
        self.dtype = dtype
        scale = 1.0 / math.sqrt(head_dim)
        self.packed = FlashAttentionScore(heads, scale_value=scale, input_layout="TND", sparse_mode=0)
        self.prompt = PromptFlashAttention(
            heads,
            scale_value=scale,
            input_layout="BSH",
            num_key_value_heads=kv_heads,
            sparse_mode=_BOTTOM_RIGHT_CAUSAL,
            inner_precise=_HIGH_PRECISION,
        )
        self.incremental = IncreFlashAttention(
            heads, input_layout="BNSD", scale_value=scale, num_key_value_heads=kv_heads, inner_precise=_HIGH_PRECISION
        )
        self.write = KVCacheScatterUpdate()
        self.later = later_tokens()
        self.first_row = Tensor([0], ms.int32)

    def slot_tensor(self, x: Tensor) -> Tensor:
        """Keys or values [slots, kv_heads, max_length, head_dim] in ``dtype``."""
        return x.astype(self.dtype)

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Where each image ends, among the queries and among the keys.

        The padding is one more sequence. TND takes no sequence without keys, and there may be no padding: so ``vision``
        adds a row of zeros to the keys, which makes the last sequence one key longer than its queries.

        Args:
            cu_seqlens: int32 [images + 1], see :func:`check_lengths`.
        Returns:
            Cumulative lengths int64 [images + 1]: the last is ``patches`` of the queries, ``patches + 1`` of the keys.
        """
        _check_packing(patches, cu_seqlens.shape, cu_seqlens.dtype)
        ends = cu_seqlens[1:].astype(ms.int64)
        return ops.concat((ends, Tensor([patches], ms.int64))), ops.concat((ends, Tensor([patches + 1], ms.int64)))

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: tuple[Tensor, Tensor]) -> Tensor:
        """Every patch attends to all patches of its image.

        Args:
            q: float32 [patches, heads, head_dim], images one after another, then padding.
            k, v: float32 [patches, kv_heads, head_dim].
            mask: from :meth:`vision_mask`.
        Returns:
            float32 [patches, heads, head_dim]; rows of padding hold finite numbers without meaning.
        """
        self.check_inputs("vision", q, k, v, q.shape[0])
        self.check("vision", ("mask",), (mask[0],), ((mask[1].shape[0],),), (ms.int64,))
        spare = ops.zeros((1, self.kv_heads, self.head_dim), self.dtype)
        k, v = ops.concat((k.astype(self.dtype), spare)), ops.concat((v.astype(self.dtype), spare))
        answer = self.packed(q.astype(self.dtype), k, v, None, None, None, None, None, mask[0], mask[1])
        return answer[3].astype(ms.float32)

    def prefill_mask(self, tokens: int, live: Tensor) -> Tensor:
        """bool [2048, 2048], the same for every prompt: padding at the end is hidden by causality."""
        return self.later

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Causal attention of a prompt over itself.

        Args:
            q: float32 [tokens, heads, head_dim].
            k, v: float32 [tokens, kv_heads, head_dim].
            mask: from :meth:`prefill_mask`.
        Returns:
            float32 [tokens, heads, head_dim].
        """
        tokens = q.shape[0]
        self.check_inputs("prefill", q, k, v, tokens)
        self.check("prefill", ("mask",), (mask,), ((_TRIANGLE, _TRIANGLE),), (ms.bool_,))
        q, k, v = (x.reshape(1, tokens, -1).astype(self.dtype) for x in (q, k, v))
        return self.prompt(q, k, v, mask).astype(ms.float32).reshape(tokens, self.heads, self.head_dim)

    def decode_mask(
        self, kv_shape: tuple[int, int, int, int], tokens: int, live: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What each slot hides, and where its new token goes.

        Args:
            kv_shape: (slots, kv_heads, max_length, head_dim).
            tokens: that come in every slot; the operator takes one.
            live: int32 [slots], rows held before the new token, each below max_length.
            count: not looked at. A slot without a new token gets a row behind its live ones, where nobody reads it.
        Returns:
            bool [slots, 1, 1, max_length], and ``live``.
        """
        _check_one_token(kv_shape, tokens)
        slots, length = kv_shape[0], kv_shape[2]
        self.check("decode", ("live",), (live,), ((slots,),), (ms.int32,))
        return ops.arange(length).reshape(1, 1, 1, length) > live.reshape(slots, 1, 1, 1), live

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One new token a slot is written behind its live rows, and attends to them and itself.

        Args:
            q: float32 [slots, 1, heads, head_dim].
            k, v: float32 [slots, 1, kv_heads, head_dim].
            keys, values: ``dtype`` [slots, kv_heads, max_length, head_dim], written in place.
            mask: from :meth:`decode_mask`.
        Returns:
            float32 [slots, 1, heads, head_dim].
        """
        slots = q.shape[0]
        kv = (slots, 1, self.kv_heads, self.head_dim)
        shapes = ((slots, 1, self.heads, self.head_dim), kv, kv)
        self.check("decode", ("q", "k", "v"), (q, k, v), shapes, (ms.float32,) * 3)
        self.check_slots("decode", keys, values, slots)
        hidden, live = mask
        self.check("decode", ("mask",), (hidden,), ((slots, 1, 1, keys.shape[2]),), (ms.bool_,))
        k, v = (x.reshape(slots, self.kv_heads, 1, self.head_dim).astype(self.dtype) for x in (k, v))
        # What the write returns is the slot itself: read through it, so that no order but this one is possible.
        keys, values = self.write(keys, live, k, -2, "update"), self.write(values, live, v, -2, "update")
        q = q.reshape(slots, self.heads, 1, self.head_dim).astype(self.dtype)
        answer = self.incremental(q, [keys], [values], hidden)
        return answer.astype(ms.float32).reshape(slots, 1, self.heads, self.head_dim)

    def prompt_rows(self, kv_shape: tuple[int, int, int, int], tokens: int) -> None:
        """None: the operator counts rows itself."""
        return

    def write_prompt(self, keys: Parameter, values: Parameter, k: Tensor, v: Tensor, rows: Any) -> None:
        """Rows 0 to ``tokens`` of the only slot, in place.

        Args:
            keys, values: ``dtype`` [1, kv_heads, max_length, head_dim].
            k, v: float32 [tokens, kv_heads, head_dim].
        """
        tokens = k.shape[0]
        self.check("write_prompt", ("k", "v"), (k, v), ((tokens, self.kv_heads, self.head_dim),) * 2, (ms.float32,) * 2)
        self.check_slots("write_prompt", keys, values, 1)
        _check_room(tokens, keys.shape[2])
        k, v = (ops.transpose(x.expand_dims(0), (0, 2, 1, 3)).astype(self.dtype) for x in (k, v))
        self.write(keys, self.first_row, k, -2, "update")
        self.write(values, self.first_row, v, -2, "update")

    def score_bytes(self, tokens: int) -> int:
        """None in our hands: the operators hold scores a tile at a time."""
        return 0

    def check_inputs(self, work: str, q: Tensor, k: Tensor, v: Tensor, rows: int) -> None:
        kv = (rows, self.kv_heads, self.head_dim)
        self.check(work, ("q", "k", "v"), (q, k, v), ((rows, self.heads, self.head_dim), kv, kv), (ms.float32,) * 3)

    def check_slots(self, work: str, keys: Parameter, values: Parameter, slots: int) -> None:
        kv = (slots, self.kv_heads, "max_length", self.head_dim)
        self.check(work, ("keys", "values"), (keys, values), (kv, kv), (self.dtype,) * 2)

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
    """x / sqrt(mean(x^2) + eps) * weight, as one operator: x float32 [rows, width], weight float32 [width]."""
    return ops.RmsNorm(eps)(x, weight)[0]


@cache
def later_tokens() -> Tensor:
    """bool [2048, 2048], True above the diagonal: what a token may not see. One of 4 MiB for all layers."""
    return Tensor(np.triu(np.ones((_TRIANGLE, _TRIANGLE), np.bool_), 1))


def check_arguments(heads: int, kv_heads: int, head_dim: int, dtype: Any) -> None:
    """Whether the operators take attention of this form.

    Raises:
        SetupError: what they do not take, and the remedy.
    """
    if dtype not in (ms.float16, ms.bfloat16):
        raise SetupError(f"Ascend attention in {dtype}: its operators take float16 and bfloat16; give one of them")
    for name, value in (("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)):
        if not isinstance(value, int) or value < 1:
            raise SetupError(f"Ascend attention: {name} is {value!r}; give a whole number from 1")
    if heads > _MAX_HEADS or heads % kv_heads or heads // kv_heads > _MAX_GROUP:
        raise SetupError(
            f"Ascend attention: {heads} heads over {kv_heads} key-value heads; its operators take up to {_MAX_HEADS} heads, "
            f"a multiple of the key-value heads of at most {_MAX_GROUP}: use attention eager"
        )
    if head_dim not in HEAD_DIMS:
        raise SetupError(
            f"Ascend attention: head_dim is {head_dim}; its operators take multiples of {HEAD_DIMS.step} up to "
            f"{HEAD_DIMS[-1]}: use attention eager"
        )
    if heads * head_dim > _MAX_WIDTH:
        raise SetupError(
            f"Ascend attention: {heads} heads of {head_dim} are {heads * head_dim} wide; a prompt may be at most "
            f"{_MAX_WIDTH}: use attention eager"
        )


def check_lengths(patches: int, cu_seqlens: Sequence[int]) -> None:
    """Whether these are cumulative lengths of images, where the host knows them: a graph cannot look.

    Raises:
        SetupError: they do not start at 0, do not grow, end behind ``patches``, or are too many.
    """
    lengths = [int(length) for length in cu_seqlens]
    _require_packing(patches, (len(lengths),), ms.int32)
    if lengths[0] != 0:
        raise SetupError(f"cumulative lengths start at {lengths[0]}: put 0 first")
    for image, (start, end) in enumerate(pairwise(lengths)):
        if end <= start:
            raise SetupError(f"cumulative lengths go from {start} to {end} at image {image}: give every image a patch")
    if lengths[-1] > patches:
        raise SetupError(f"cumulative lengths end at {lengths[-1]}, but there are {patches} patches: use a larger bucket")


def _require_packing(patches: int, shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) != 1 or shape[0] < 2 or dtype != ms.int32:
        raise SetupError(f"cumulative lengths are {dtype} {tuple(shape)}; give Int32 (images + 1,)")
    images = shape[0] - 1
    if images > MAX_IMAGES:
        raise SetupError(f"{images} images in one graph: Ascend attention takes up to {MAX_IMAGES}; read fewer at once")
    if not 0 < patches <= _MAX_PATCHES:
        raise SetupError(f"{patches} patches in one graph: Ascend attention takes 1 to {_MAX_PATCHES}; read fewer at once")


def _require_one_token(kv_shape: tuple[int, ...], new: int) -> None:
    if len(kv_shape) != 4:
        raise SetupError(f"KV slots of shape {tuple(kv_shape)}: give (slots, kv_heads, max_length, head_dim)")
    if new != 1:
        raise SetupError(f"{new} new tokens a slot: IncreFlashAttention takes 1; decode one at a time")


def _require_tensors(
    work: str,
    names: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[Any, ...],
    expected_shapes: tuple[tuple[int | str, ...], ...],
    expected_dtypes: tuple[Any, ...],
) -> None:
    """A name in place of a length stands for any length."""
    for name, shape, dtype, lengths, expected in zip(names, shapes, dtypes, expected_shapes, expected_dtypes, strict=True):
        fits = len(shape) == len(lengths) and all(isinstance(b, str) or a == b for a, b in zip(shape, lengths, strict=True))
        if not fits or dtype != expected:
            raise SetupError(f"{work}: {name} is {dtype} {_text(shape)}; give {expected} {_text(lengths)}")


def _require_room(tokens: int, length: int) -> None:
    if tokens > length:
        raise SetupError(f"write_prompt: {tokens} tokens into a slot of {length}: raise max_length")


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# A constexpr runs in Python while a graph compiles, and what it raises comes out of the call that compiled.
_check_packing = ops.constexpr(_require_packing)
_check_one_token = ops.constexpr(_require_one_token)
_check_tensors = ops.constexpr(_require_tensors)
_check_room = ops.constexpr(_require_room)
