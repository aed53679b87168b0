"""Windows of the vision tower: patches that see one another alone lie one behind the other. In NumPy on the host.

Source: Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923), section 2.1; the order is that of transformers 4.57.6.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Windows(NamedTuple):
    """Of one image, in merged patches ("units"): windows row by row, and the units of each row by row. Those on the right
    and at the bottom may be cut."""

    order: NDArray[np.int64]  # [units], the unit that comes at each place
    sizes: NDArray[np.int64]  # [windows], units in each


def windows_of(grid_thw: tuple[int, int, int], merge: int, side: int) -> Windows:
    """Windows of ``side`` x ``side`` units, of an image of so many patches in time, height and width."""
    frames, height, width = grid_thw
    frame, row, column = np.indices((frames, height // merge, width // merge))
    down, across = -(-height // (merge * side)), -(-width // (merge * side))
    window = ((frame * down + row // side) * across + column // side).reshape(-1)
    return Windows(np.argsort(window, kind="stable"), np.bincount(window))


def most_windows(units: int, images: int, side: int) -> int:
    """As many windows as images of so many units together can have.

    h x w units have ceil(h / side) * ceil(w / side) windows, no more than (h + side - 1) (w + side - 1) / side^2. As h + w
    is at most h w + 1, that is at most (h w + side - 1) / side.
    """
    return (units + images * (side - 1)) // side
