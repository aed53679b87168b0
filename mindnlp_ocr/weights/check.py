"""Check that stored weights match the configuration."""

import difflib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.names import expected_shapes
from mindnlp_ocr.weights.quantize import GROUP, SCALE, WeightDtype

DTYPES: dict[str, WeightDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
LISTED = 5


class Stored(NamedTuple):
    shape: tuple[int, ...]
    dtype: str  # name in safetensors


def check(where: object, found: Mapping[str, Stored], config: ModelConfig) -> WeightDtype:
    """Check the weights, and return the dtype of all matrices, or "fp32" if they have different dtypes.

    Weights that the network does not have cause a warning.

    Args:
        where: the source of the weights, with which messages begin.
        found: the stored weights by published names.

    Raises:
        SetupError: weights are missing or have a wrong shape, or a dtype other than float32, float16, bfloat16, or int8 in
            the format of `mindnlp-ocr convert`.
    """
    expected = expected_shapes(config)
    extra = sorted(name for name in found if name not in expected and not _harmless(name, expected))
    faults: list[str] = []
    dtypes: set[WeightDtype] = set()
    for name, shape in expected.items():
        if name not in found:
            near = difflib.get_close_matches(name, extra, 1) if len(faults) < LISTED else []
            faults.append(f"{name} is missing" + (f" (did {near[0]} mean it?)" if near else ""))
            continue
        stored = found[name]
        if stored.shape != shape:
            faults.append(f"{name} has the shape {stored.shape}, but config.json implies {shape}")
        elif stored.dtype == "I8" and len(shape) > 1:
            dtypes.add("int8")
            faults += _scale_faults(name, shape, found)
        elif stored.dtype not in DTYPES:
            faults.append(f"{name} is stored as {stored.dtype}, not one of {', '.join(sorted(DTYPES))}")
        elif len(shape) > 1:
            dtypes.add(DTYPES[stored.dtype])
    if faults:
        raise SetupError(f"{where}: the weights do not match config.json: {listed(faults)}", code="weights_mismatch")
    if extra:
        names = [f"{name}{_nearest(name, expected) if number < LISTED else ''}" for number, name in enumerate(extra)]
        warnings.warn(
            f"{where} contains weights that this network does not have: {listed(names)}", RuntimeWarning, stacklevel=2
        )
    return dtypes.pop() if len(dtypes) == 1 else "fp32"


def listed(faults: list[str]) -> str:
    """List the first faults and the number of the others."""
    more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
    return "; ".join(faults[:LISTED]) + more


def _harmless(name: str, expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether an extra weight is expected: a scale, a tied head that was stored, or a table of old releases."""
    return name.removesuffix(SCALE) in expected or name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")


def _nearest(name: str, expected: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, expected, 1)
    return f" (the nearest that it has is {near[0]})" if near else ""


def _scale_faults(name: str, shape: tuple[int, ...], found: Mapping[str, Stored]) -> Iterator[str]:
    scales = (shape[0], -(-math.prod(shape[1:]) // GROUP))
    if name + SCALE not in found:
        yield f"{name} is stored as I8, and {name + SCALE} is missing"
    elif found[name + SCALE] != (scales, "F32"):
        yield f"{name + SCALE} is {found[name + SCALE].dtype} {found[name + SCALE].shape}, not F32 {scales}"
