"""Normalisation over the last axis of [rows, width]."""

from mindspore import Tensor, ops

NORM_EPS = 1e-6  # epsilon of all norms of a vision tower

_mean = ops.ReduceMean(keep_dims=True)
_outer = ops.MatMul()
_layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=NORM_EPS)


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight, eps [1] (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    inverse = ops.rsqrt(_mean(x * x, -1) + eps)
    return x * _outer(inverse, weight.reshape(1, -1))  # an outer product, so that nothing broadcasts


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (x - mean) / sqrt(variance + 1e-6) * weight + bias (Ba et al. 2016, arXiv:1607.06450)."""
    return _layer_norm(x, weight, bias)[0]
