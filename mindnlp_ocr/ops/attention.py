"""Attention for the three shapes of work, and the write into the KV slots. Eager: these definitions come first.

Scores are scaled by 1 / sqrt(head_dim). Grouped-query heads are never repeated: the query heads of a group are rows of
one product with their shared key-value head (Ainslie et al. 2023, arXiv:2305.13245).
"""

import math

import mindspore as ms
from mindspore import Parameter, Tensor, ops

MASKED = -1e30  # finite: a row of nothing but masked keys must not become NaN

_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(axis=-1)
_concat = ops.Concat(axis=-1)
_scatter = ops.ScatterUpdate()


def vision_mask(heads: int, patches: int, live: Tensor) -> tuple[Tensor, Tensor]:
    """What hides all but the first ``live`` (int32 [1]) patches: a column for q and one for k. One pair for all layers.

    The mask rides in the product of q and k as one more column, 1 times 0 or MASKED: an add over patches^2 would cost half
    as much as the product itself.
    """
    dead = (ops.arange(patches).reshape(1, patches, 1) >= live).astype(ms.float32) * MASKED
    return ops.ones((heads, patches, 1), ms.float32), ops.broadcast_to(dead, (heads, patches, 1))


def vision_attention(q: Tensor, k: Tensor, v: Tensor, mask: tuple[Tensor, Tensor]) -> Tensor:
    """Every patch of one image attends to every patch of it.

    Args:
        q, k, v: [heads, patches, head_dim].
        mask: from :func:`vision_mask`.
    Returns:
        [heads, patches, head_dim]; rows of padding hold numbers without meaning.
    """
    scale = 1.0 / math.sqrt(q.shape[2])
    return _weighted(_softmax(_scores(_concat((q * scale, mask[0])), _concat((k, mask[1])))), v)


def prefill_mask(heads: int, tokens: int) -> Tensor:
    """[heads, tokens, tokens] float32: 0 for the token itself and those before, MASKED for later. One for all layers."""
    index = ops.arange(tokens)
    later = (index.reshape(1, 1, tokens) > index.reshape(1, tokens, 1)).astype(ms.float32) * MASKED
    return ops.broadcast_to(later, (heads, tokens, tokens))


def prefill_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Causal attention of a prompt over itself. Padding at the end is hidden by causality.

    Args:
        q: [heads, tokens, head_dim].
        k, v: [kv_heads, tokens, head_dim].
        mask: from :func:`prefill_mask`.
    Returns:
        [heads, tokens, head_dim].
    """
    heads, tokens, head_dim = q.shape
    kv_heads = k.shape[0]
    q = (q * (1.0 / math.sqrt(head_dim))).reshape(kv_heads, heads // kv_heads * tokens, head_dim)
    scores = _softmax(_scores(q, k).reshape(heads, tokens, tokens) + mask)
    return _weighted(scores.reshape(kv_heads, heads // kv_heads * tokens, tokens), v).reshape(heads, tokens, head_dim)


def decode_mask(heads: int, kv_shape: tuple[int, int, int, int], live: Tensor) -> Tensor:
    """[slots, kv_heads, group, length] float32: 0 for the ``live`` (int32 [slots]) rows, MASKED behind them."""
    slots, kv_heads, length, _ = kv_shape
    dead = (ops.arange(length) >= live.reshape(slots, 1, 1, 1)).astype(ms.float32) * MASKED
    return ops.broadcast_to(dead, (slots, kv_heads, heads // kv_heads, length))


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """One new token a slot attends to the live part of its slot.

    Args:
        q: [slots, heads, head_dim].
        keys, values: [slots, kv_heads, max_length, head_dim].
        mask: from :func:`decode_mask`.
    Returns:
        [slots, heads, head_dim].
    """
    slots, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    q = (q * (1.0 / math.sqrt(head_dim))).reshape(slots, kv_heads, heads // kv_heads, head_dim)
    scores = _softmax(_scores(q, keys) + mask)
    return _weighted(scores, values).reshape(slots, heads, head_dim)


def write_rows(rows: Parameter, index: Tensor, new: Tensor) -> None:
    """rows[index] = new, in place: rows [all rows, head_dim], index [n] int32, new [n, head_dim]."""
    _scatter(rows, index, new)


def eager_score_bytes(heads: int, tokens: int) -> int:
    """Bytes that the eager form needs at its peak for tokens^2 float32 scores: the scores and their softmax."""
    return 2 * heads * tokens * tokens * 4
