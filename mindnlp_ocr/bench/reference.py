"""Reference implementation of attention in float64 NumPy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def attend(q: Array, k: Array, v: Array, seen: NDArray[np.bool_]) -> Array:
    """Return softmax(q k^T / sqrt(head_dim)) v over the keys that each row sees (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        q: [tokens, heads, head_dim].
        k, v: [keys, kv_heads, head_dim]; heads / kv_heads neighbouring query heads share one key-value head.
        seen: [tokens, keys]; the result of a row that sees no keys is zero.
    """
    shared = np.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    q, k, v = q.transpose(1, 0, 2), k[:, shared].transpose(1, 2, 0), v[:, shared].transpose(1, 0, 2)
    scores = q @ k / q.shape[-1] ** 0.5
    scores = np.where(seen, scores, -np.inf)
    weights = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True, initial=-1e30)), 0)
    answer: Array = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ v
    return answer.transpose(1, 0, 2)


def attend_images(q: Array, k: Array, v: Array, cu_seqlens: Sequence[int]) -> Array:
    """Return the live rows of packed images; each row sees its own image."""
    image = np.searchsorted(cu_seqlens, np.arange(len(q)), side="right")
    return attend(q, k, v, image[:, None] == image[None])[: cu_seqlens[-1]]


def attend_prompt(q: Array, k: Array, v: Array, live: int) -> Array:
    """Return the first ``live`` rows of a prompt, with a causal mask."""
    return attend(q[:live], k[:live], v[:live], np.tril(np.ones((live, live), bool)))


def attend_slots(
    q: Array, k: Array, v: Array, keys: Array, values: Array, live: Sequence[int], count: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Return the answer, and the keys and values of the slots after ``count`` new tokens per slot were appended to its
    ``live`` rows.

    Args:
        q, k, v: [slots, tokens, heads or kv_heads, head_dim].
        keys, values: [slots, kv_heads, length, head_dim].
    """
    keys, values, y = keys.copy(), values.copy(), np.zeros_like(q)
    for s, (held, new) in enumerate(zip(live, count, strict=True)):
        keys[s, :, held : held + new] = k[s, :new].transpose(1, 0, 2)
        values[s, :, held : held + new] = v[s, :new].transpose(1, 0, 2)
        if new:
            a, b = (x[s, :, : held + new].transpose(1, 0, 2) for x in (keys, values))
            y[s, :new] = attend(q[s, :new], a, b, np.tril(np.ones((new, held + new), bool), held))
    return y, keys, values
