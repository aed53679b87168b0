"""Weights in 8 bits: rounded to the nearest, symmetric, with one scale for every output and GROUP inputs."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

GROUP = 128  # kGroup of kernels/cpu/kernels.h

WeightDtype = Literal["fp32", "fp16", "bf16", "int8"]  # what weights are held in
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)


class Quantized(NamedTuple):
    """A weight [out, in] as q * scale."""

    q: NDArray[np.int8]  # [out, in]
    scales: NDArray[np.float32]  # [out, groups], the last group may be short

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape


Source = NDArray[Any] | Quantized  # of any float dtype, or in 8 bits


def quantize(weight: NDArray[Any]) -> Quantized:
    """Round a weight [out, in] of any float dtype to the nearest; scale = max |w| / 127 of its group."""
    out, width = weight.shape
    q, scales = np.empty((out, width), np.int8), np.empty((out, -(-width // GROUP)), np.float32)
    for group in range(scales.shape[1]):
        columns = slice(group * GROUP, (group + 1) * GROUP)
        part = weight[:, columns].astype(np.float32)
        scales[:, group] = np.abs(part).max(1) / np.float32(127)
        divisor = np.where(scales[:, group] > 0, scales[:, group], np.float32(1))
        q[:, columns] = np.rint(part / divisor[:, None]).clip(-127, 127)  # a scale that is subnormal is coarse
    return Quantized(q, scales)


def dequantize(weight: Quantized) -> NDArray[np.float32]:
    """float32 [out, in]."""
    scales = np.repeat(weight.scales, GROUP, axis=1)[:, : weight.q.shape[1]]
    return weight.q * scales


def flat(weight: Source) -> Source:
    """A weight [out, ...] as [out, in]."""
    return weight if isinstance(weight, Quantized) else weight.reshape(len(weight), -1)


def concatenate(weights: Sequence[Source]) -> Source:
    """Weights of one input, one below the other."""
    if len(weights) == 1:
        return weights[0]
    if all(isinstance(weight, Quantized) for weight in weights):
        return Quantized(*(np.concatenate(parts) for parts in zip(*weights, strict=True)))
    whole: NDArray[Any] = np.concatenate([dequantize(w) if isinstance(w, Quantized) else w for w in weights])
    return whole
