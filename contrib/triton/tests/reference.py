"""Attention in float64 NumPy, and values that must not affect results. It needs only NumPy; run_adapter.py uses it as
too."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rng(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def poison(array: Array) -> None:
    """Replace every number by NaN, inf or -inf."""
    array[...] = np.resize([np.nan, np.inf, -np.inf], array.shape)


def attend(q: Array, k: Array, v: Array, visible: Array) -> Array:
    """Return the float64 attention of one head: q [rows, dim], k and v [keys, dim], visible [rows, keys]."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = np.where(visible, q @ k.T / q.shape[1] ** 0.5, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v


def segments_expected(q: Array, k: Array, v: Array, bounds: Sequence[int], causal: bool) -> Array:
    out = np.zeros(q.shape)
    share = q.shape[1] // k.shape[1]
    for first, stop in pairwise(bounds):
        visible = np.tri(stop - first) > 0 if causal else np.ones((stop - first, stop - first), bool)
        for head in range(q.shape[1] if stop > first else 0):
            rows = slice(first, stop)
            out[rows, head] = attend(q[rows, head], k[rows, head // share], v[rows, head // share], visible)
    return out


def decoded_expected(q: Array, k: Array, v: Array, live: Sequence[int]) -> Array:
    out = np.zeros(q.shape)
    slots, new, heads, _ = q.shape
    for slot in range(slots):
        keys = live[slot] + new
        visible = np.arange(keys) <= live[slot] + np.arange(new)[:, None]
        for head in range(heads):
            pair = slot, head // (heads // k.shape[1]), slice(0, keys)
            out[slot, :, head] = attend(q[slot, :, head], k[pair], v[pair], visible)
    return out
