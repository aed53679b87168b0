"""Activation functions of the vision tower and the language model."""

import math

from mindspore import Tensor, ops


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the activation of the vision tower."""
    return x * ops.sigmoid(1.702 * x)


def gelu(x: Tensor) -> Tensor:
    """Return x * Phi(x), computed exactly with erf: the activation of the merger."""
    return x * 0.5 * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, the activation of the language model (SwiGLU, arXiv:2002.05202)."""
    return gate * ops.sigmoid(gate) * up
