"""Attention windows of the vision tower: the order in which patches of a window are consecutive (NumPy, on the host).

Source: Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923), section 2.1; the order is that of transformers 4.57.6.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Windows(NamedTuple):
    """The windows of an image in merged patches ("units"). Windows, and the units of each window, are ordered row by row.
    Windows at the right and bottom edges may be smaller."""

    order: NDArray[np.int64]  # [units], index of the unit at each position
    sizes: NDArray[np.int64]  # [windows], number of units


def windows_of(grid_thw: tuple[int, int, int], merge: int, side: int) -> Windows:
    """Return the windows of ``side`` x ``side`` units of an image with the given patches in time, height and width."""
    frames, height, width = grid_thw
    frame, row, column = np.indices((frames, height // merge, width // merge))
    down, across = -(-height // (merge * side)), -(-width // (merge * side))
    window = ((frame * down + row // side) * across + column // side).reshape(-1)
    return Windows(np.argsort(window, kind="stable"), np.bincount(window))


def most_windows(units: int, images: int, side: int) -> int:
    """Return the maximum number of windows of images with ``units`` units in total.

    h x w units have ceil(h / side) * ceil(w / side) windows, no more than (h + side - 1) (w + side - 1) / side^2. As h + w
    is at most h w + 1, that is at most (h w + side - 1) / side.
    """
    return (units + images * (side - 1)) // side
