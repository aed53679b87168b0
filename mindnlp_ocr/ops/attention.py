"""Attention for the three shapes of work, and the writes into the KV slots. MindSpore's own operators: the definition.

Every implementation has the methods of :class:`EagerAttention`; ``select.py`` chooses one. What the layers of a graph share
(masks, lengths) is made once by the ``..._mask`` methods and is opaque to the caller.

Scores are scaled by 1 / sqrt(head_dim). Grouped-query heads are never repeated: the query heads of a group are rows of
one product with their shared key-value head (Ainslie et al. 2023, arXiv:2305.13245).
"""

import math
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindnlp_ocr.ops.layout import heads_first, tokens_first

MASKED = -1e30  # finite: a row of nothing but masked keys must not become NaN

_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(axis=-1)
_concat = ops.Concat(axis=-1)
_scatter = ops.ScatterUpdate()


class EagerAttention(nn.Cell):
    """Attention whose scores are held in full: O(tokens^2) memory.

    Key and value rows of the slots are [slots * kv_heads * max_length, head_dim]; token t of head h in slot s is row
    (s * kv_heads + h) * max_length + t. Answers for padding are finite numbers without meaning.
    """

    decoder_layer: Any = None  # an operator that takes a whole layer of a decode step, where there is one

    def __init__(self, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim

    def slot_tensor(self, x: Tensor) -> Tensor:
        """Keys or values [slots, kv_heads, max_length, head_dim] in the shape in which the slots hold them."""
        return x.reshape(-1, x.shape[3])

    # Packed images

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        """For :meth:`vision`: cu_seqlens int32 [images + 1] says where each image begins, and the end of the last.

        The mask rides in the product of q and k, as one column more for each image: q has a 1 in the column of its own
        image, k MASKED in those of all others. An add over patches^2 would cost half as much as the product itself.
        """
        index = ops.arange(patches).reshape(patches, 1)
        own = ops.logical_and(index >= cu_seqlens[:-1], index < cu_seqlens[1:]).astype(ms.float32)
        shape = (self.heads, patches, own.shape[1])
        return ops.broadcast_to(own, shape), ops.broadcast_to((1.0 - own) * MASKED, shape)

    def vision(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        """Every patch attends to every patch of its own image.

        Args:
            q, k, v: [patches, heads, head_dim].
            mask: from :meth:`vision_mask`.
        Returns:
            [patches, heads, head_dim].
        """
        scale = 1.0 / math.sqrt(q.shape[2])
        q, k, v = heads_first(q * scale), heads_first(k), heads_first(v)
        return tokens_first(_weighted(_softmax(_scores(_concat((q, mask[0])), _concat((k, mask[1])))), v))

    # A prompt

    def prefill_mask(self, tokens: int, live: Tensor) -> Any:
        """For :meth:`prefill`: ``live`` int32 [1] tokens are not padding, which causality hides here.

        [heads, tokens, tokens] float32: 0 for the token itself and those before, MASKED for later.
        """
        index = ops.arange(tokens)
        later = (index.reshape(1, 1, tokens) > index.reshape(1, tokens, 1)).astype(ms.float32) * MASKED
        return ops.broadcast_to(later, (self.heads, tokens, tokens))

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        """Causal attention of a prompt over itself.

        Args:
            q: [tokens, heads, head_dim].
            k, v: [tokens, kv_heads, head_dim].
            mask: from :meth:`prefill_mask`.
        Returns:
            [tokens, heads, head_dim].
        """
        tokens, heads, head_dim = q.shape
        kv_heads = k.shape[1]
        rows = (kv_heads, heads // kv_heads * tokens)
        q = heads_first(q * (1.0 / math.sqrt(head_dim))).reshape(*rows, head_dim)
        scores = _softmax(_scores(q, heads_first(k)).reshape(heads, tokens, tokens) + mask)
        return tokens_first(_weighted(scores.reshape(*rows, tokens), heads_first(v)).reshape(heads, tokens, head_dim))

    def prompt_rows(self, kv_shape: tuple[int, int, int, int], tokens: int) -> Any:
        """For :meth:`write_prompt`: int32 [tokens * kv_heads], rows of the first tokens of slot 0."""
        _, kv_heads, length, _ = kv_shape
        starts = (ops.arange(kv_heads) * length).reshape(1, kv_heads)
        return (starts + ops.arange(tokens).reshape(tokens, 1)).reshape(-1).astype(ms.int32)

    def write_prompt(self, keys: Parameter, values: Parameter, k: Tensor, v: Tensor, rows: Any) -> None:
        """Put k and v [tokens, kv_heads, head_dim] into slot 0, in place."""
        _scatter(keys, rows, k.reshape(-1, k.shape[2]).astype(keys.dtype))
        _scatter(values, rows, v.reshape(-1, v.shape[2]).astype(values.dtype))

    # New tokens over the slots

    def decode_mask(self, kv_shape: tuple[int, int, int, int], tokens: int, live: Tensor, count: Tensor) -> Any:
        """For :meth:`decode` of up to ``tokens`` new tokens a slot.

        Args:
            live: int32 [slots], rows that each slot holds before them.
            count: int32 [slots], how many of them are new in each slot; the others are padding.
        """
        slots, kv_heads, length, _ = kv_shape
        index = ops.arange(tokens).astype(ms.int32).reshape(1, tokens)
        live, count = live.reshape(slots, 1), count.reshape(slots, 1)
        # A token of padding repeats the last new one, value and place; in a slot without any, what is there stays.
        token = ops.minimum(index, ops.maximum(count - 1, 0))
        at = ops.minimum(live + token, length - 1).reshape(slots, tokens, 1)
        rows = ((ops.arange(slots * kv_heads).astype(ms.int32) * length).reshape(slots, 1, kv_heads) + at).reshape(-1)
        source = (ops.arange(slots).astype(ms.int32).reshape(slots, 1) * tokens + token).reshape(-1)
        fresh = ops.broadcast_to(count > 0, (slots, tokens * kv_heads)).reshape(-1, 1)
        seen = (live + index + 1).reshape(slots, 1, tokens, 1, 1)
        hidden = (ops.arange(length).reshape(1, 1, 1, 1, length) >= seen).astype(ms.float32) * MASKED
        group = self.heads // kv_heads
        hidden = ops.broadcast_to(hidden, (slots, kv_heads, tokens, group, length))
        return rows, source, fresh, hidden.reshape(slots, kv_heads, tokens * group, length)

    def decode(self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, mask: Any) -> Tensor:
        """New tokens attend to the live rows of their slot and, causally, to one another; k and v are written in place.

        Args:
            q: [slots, tokens, heads, head_dim].
            k, v: [slots, tokens, kv_heads, head_dim], written behind the live rows.
            keys, values: the rows of all slots, float32, float16 or bfloat16.
            mask: from :meth:`decode_mask`.
        Returns:
            [slots, tokens, heads, head_dim].
        """
        rows, source, fresh, hidden = mask
        slots, tokens, heads, head_dim = q.shape
        kv_heads = k.shape[2]
        for held, new in ((keys, k), (values, v)):
            new = ops.gather(new.reshape(slots * tokens, kv_heads, head_dim), source, 0).reshape(-1, head_dim)
            old = ops.gather(held, rows, 0)
            _scatter(held, rows, ops.select(ops.broadcast_to(fresh, new.shape), new.astype(held.dtype), old))
        shape = (slots, kv_heads, keys.shape[0] // (slots * kv_heads), head_dim)
        group = heads // kv_heads
        q = (q * (1.0 / math.sqrt(head_dim))).reshape(slots, tokens, kv_heads, group, head_dim)
        q = ops.transpose(q, (0, 2, 1, 3, 4)).reshape(slots, kv_heads, tokens * group, head_dim)
        scores = _softmax(_scores(q, keys.reshape(shape).astype(q.dtype)) + hidden)
        y = _weighted(scores, values.reshape(shape).astype(q.dtype))
        y = ops.transpose(y.reshape(slots, kv_heads, tokens, group, head_dim), (0, 2, 1, 3, 4))
        return y.reshape(slots, tokens, heads, head_dim)

    def score_bytes(self, tokens: int) -> int:
        """Bytes at the peak for tokens^2 scores: float32 scores and their softmax."""
        return 2 * self.heads * tokens * tokens * 4
