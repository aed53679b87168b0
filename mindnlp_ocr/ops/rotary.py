"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from mindspore import Tensor, ops

_halves = ops.Split(axis=-1, output_num=2)
_concat = ops.Concat(axis=-1)
_expand = ops.ExpandDims()


def per_head(angles: Tensor, heads: int) -> Tensor:
    """Repeat cos or sin [tokens, head_dim / 2] for each head, [tokens, heads, head_dim / 2], once for all layers."""
    tokens, half = angles.shape
    return ops.broadcast_to(_expand(angles, 1), (tokens, heads, half))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x by their angle.

    Args:
        x: [..., head_dim].
        cos, sin: [..., head_dim / 2] in the same order, from :func:`per_head`.
    """
    first, second = _halves(x)
    return _concat((first * cos - second * sin, second * cos + first * sin))
