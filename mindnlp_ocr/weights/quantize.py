"""Symmetric 8-bit quantization of weights, with one scale for every output and group of GROUP inputs."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.errors import SetupError

GROUP = 128  # kGroup in kernels/cpu/kernels.h
SCALE = "_scale"  # suffix of scales: the 8-bit weight NAME is int8, and NAME_scale is float32

WeightDtype = Literal["fp32", "fp16", "bf16", "int8"]  # dtypes of weights in memory
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)
NUMPY: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "int8": np.int8}


class Quantized(NamedTuple):
    """A weight [out, in] as q * scale."""

    q: NDArray[np.int8]  # [out, in]
    scales: NDArray[np.float32]  # [out, groups], the last group may be short

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape


Source = NDArray[Any] | Quantized  # a weight in any float dtype or in 8 bits


def quantize(weight: NDArray[Any]) -> Quantized:
    """Quantize a weight [out, in] of any float dtype by rounding to nearest; scale = max |w| / 127 of each group."""
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
    """Return the weight in float32, [out, in]."""
    scales = np.repeat(weight.scales, GROUP, axis=1)[:, : weight.q.shape[1]]
    return weight.q * scales


def cast(weight: Source, dtype: WeightDtype) -> NDArray[Any]:
    """Convert a weight to fp32, fp16 or bf16.

    Raises:
        SetupError: the weight exceeds the range of fp16.
    """
    array = dequantize(weight) if isinstance(weight, Quantized) else weight
    if dtype == "fp16" and (largest := float(np.abs(array).max(initial=0))) > np.finfo(np.float16).max:
        raise SetupError(f"a weight of {largest:g} does not fit in fp16: use bf16 or fp32", code="fp16_overflow")
    return array.astype(NUMPY[dtype], copy=False)


def flat(weight: Source) -> Source:
    """Reshape a weight [out, ...] to [out, in]."""
    return weight if isinstance(weight, Quantized) else weight.reshape(len(weight), -1)


def concatenate(weights: Sequence[Source]) -> Source:
    """Concatenate weights with the same input along their outputs."""
    if len(weights) == 1:
        return weights[0]
    if all(isinstance(weight, Quantized) for weight in weights):
        return Quantized(*(np.concatenate(parts) for parts in zip(*weights, strict=True)))
    whole: NDArray[Any] = np.concatenate([dequantize(w) if isinstance(w, Quantized) else w for w in weights])
    return whole
