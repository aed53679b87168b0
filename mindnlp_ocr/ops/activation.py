"""Activations of the two networks."""

import math

from mindspore import Tensor, ops


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): the vision tower's."""
    return x * ops.sigmoid(1.702 * x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), the exact form with erf: the merger's."""
    return x * 0.5 * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up: the text model's (SwiGLU, arXiv:2002.05202)."""
    return gate * ops.sigmoid(gate) * up
