"""Packing of weights for our CPU operators: panels of 32 outputs (struct Weight in kernels/cpu/kernels.h).

Packing needs memory for only a few panels in addition to the source and the packed weight.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.quantize import GROUP, NUMPY, Quantized, Source, WeightDtype, cast, quantize

PANEL = 32  # number of outputs in a panel: kPanel
HEADER = 8  # number of rows before each group of an int8 panel: kHeader
AT_ONCE = 1 << 22  # number of elements that are packed at a time


def pack(weight: Source, dtype: WeightDtype) -> NDArray[Any]:
    """Pack a published weight [out, in] as [panels, rows, PANEL]; the last panel is padded with zeros.

    Raises:
        SetupError: the weight cannot be stored in this dtype.
    """
    packed = _room(weight, 1, dtype)
    _pack(weight, packed, dtype)
    return packed


def pack_gate(gate: Source, up: Source, dtype: WeightDtype) -> NDArray[Any]:
    """Pack two weights [inner, in] in alternating panels, so that values that are multiplied are computed together."""
    packed = _room(gate, 2, dtype)
    _pack(gate, packed[::2], dtype)
    _pack(up, packed[1::2], dtype)
    return packed


def _room(weight: Source, weights: int, dtype: WeightDtype) -> NDArray[Any]:
    out, width = weight.shape
    return np.empty((weights * -(-out // PANEL), panel_rows(width, dtype), PANEL), NUMPY[dtype])


def _pack(weight: Source, packed: NDArray[Any], dtype: WeightDtype) -> None:
    out, width = weight.shape
    step = max(1, AT_ONCE // (PANEL * width)) * PANEL
    for first in range(0, out, step):
        panels = packed[first // PANEL : (first + step) // PANEL]
        if isinstance(weight, Quantized):
            part: Source = Quantized(weight.q[first : first + step], weight.scales[first : first + step])
        else:
            part = weight[first : first + step]
        if dtype == "int8":
            _pack_int8(part, panels)
        else:
            _pack_floats(cast(part, dtype), panels)


def panel_rows(width: int, dtype: WeightDtype) -> int:
    """Return the number of rows of a panel for ``width`` inputs."""
    if dtype != "int8":
        return width
    if width % 4:
        raise SetupError(
            f"a weight of {width} inputs has no int8 form (not a multiple of 4): use another dtype", code="int8_unsupported"
        )
    return width + HEADER * -(-width // GROUP)


def panel_inputs(rows: int, dtype: WeightDtype) -> int:
    """Return the number of inputs of a panel with ``rows`` rows, the inverse of :func:`panel_rows`."""
    return rows - HEADER * -(-rows // (GROUP + HEADER)) if dtype == "int8" else rows


def _pack_floats(weight: NDArray[Any], panels: NDArray[Any]) -> None:
    columns = _filled(weight, len(panels))
    if panels.dtype == NUMPY["bf16"]:  # columns i and i + PANEL / 2 as one number, which is twice as fast to transpose
        halves = columns.view(np.uint16).reshape(len(panels), 2, PANEL // 2, -1)
        for panel, (first, second) in zip(panels, halves, strict=True):
            panel.view(np.uint32).reshape(-1, PANEL // 2)[...] = (first | second.astype(np.uint32) << 16).T
    else:
        panels[...] = columns.reshape(len(panels), PANEL, -1).transpose(0, 2, 1)


def _pack_int8(weight: Source, panels: NDArray[np.int8]) -> None:
    q, scales = weight if isinstance(weight, Quantized) else quantize(weight)
    width, count = q.shape[1], len(panels)
    q, scales = _filled(q, count).reshape(count, PANEL, width), _filled(scales, count).reshape(count, PANEL, -1)
    for group in range(scales.shape[2]):
        columns = q[:, :, group * GROUP : (group + 1) * GROUP]
        rows = panels[:, group * (GROUP + HEADER) : (group + 1) * (GROUP + HEADER)]
        offsets = -128 * columns.sum(2, dtype=np.int32)
        half = HEADER // 2
        rows[:, :half] = np.ascontiguousarray(scales[:, :, group]).view(np.int8).reshape(count, half, PANEL)
        rows[:, half:HEADER] = offsets.view(np.int8).reshape(count, half, PANEL)
        quads = columns.reshape(count, PANEL, -1, 4).transpose(0, 2, 1, 3)
        rows[:, HEADER:] = quads.reshape(count, -1, PANEL)


def _filled(array: NDArray[Any], panels: int) -> NDArray[Any]:
    """Append rows of zeros up to the end of the last panel."""
    missing = panels * PANEL - len(array)
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array
