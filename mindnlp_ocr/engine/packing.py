"""Packing of images into the inputs of the vision graph on the host, and unpacking of its features."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.architectures import VisionConfig
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.modeling.rope import vision_table
from mindnlp_ocr.modeling.windows import Windows, most_windows, windows_of
from mindnlp_ocr.processing.images import Patches


class PackedImages:
    """Images that follow one another in a bucket of patches, padded with empty images to ``places``.

    If blocks have windows, the patches and the features of each image are in the order of its windows. The list of windows
    is padded to the largest number that the bucket can have, so that the graph has a single shape.

    Args:
        most: maximum number of windows of the backend.

    Raises:
        PageError: the images have more windows than that.
    """

    def __init__(self, images: Sequence[Patches], config: VisionConfig, bucket: int, places: int, most: int) -> None:
        self._config, self._bucket, self._images = config, bucket, images
        self._merged = config.spatial_merge_size**2
        self._ends = np.cumsum([0, *(len(image.pixels) for image in images)])
        self._windows: list[Windows] = []
        self.patches = int(self._ends[-1])
        self.cu_seqlens = padded_ends(self._ends, places)
        self.cu_windows: NDArray[np.int32] | None = None
        if config.window:
            self._windows = [windows_of(image.grid_thw, config.spatial_merge_size, config.window) for image in images]
            ends = np.cumsum([0, *np.concatenate([windows.sizes for windows in self._windows])]) * self._merged
            room = windows_in(config, bucket, places, most)
            if len(ends) > room + 1:
                raise PageError(
                    f"images with {len(ends) - 1} windows, but attention supports at most {room}: lower --max-pixels",
                    code="image_windows_exceeded",
                )
            self.cu_windows = padded_ends(ends, room)

    def inputs(self) -> list[NDArray[np.generic]]:
        """Return the inputs of the graph: patches [bucket, patch_dim], cos and sin [bucket, head_dim / 2], cu_seqlens int32
        [places + 1], and, if blocks have windows, cu_windows int32 [windows + 1]."""
        head_dim, merge = self._config.head_dim, self._config.spatial_merge_size
        tables = [vision_table(image.grid_thw, head_dim, merge) for image in self._images]
        rows = ([image.pixels for image in self._images], [cos for cos, _ in tables], [sin for _, sin in tables])
        ends = [self.cu_seqlens] if self.cu_windows is None else [self.cu_seqlens, self.cu_windows]
        return [*(self._packed(arrays) for arrays in rows), *ends]

    def _packed(self, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        packed = np.zeros((self._bucket, arrays[0].shape[1]), np.float32)
        for number, array in enumerate(arrays):
            place = packed[self._ends[number] : self._ends[number + 1]]
            if self._windows:
                units = array.reshape(-1, self._merged, array.shape[1])
                np.take(units, self._windows[number].order, 0, out=place.reshape(units.shape))
            else:
                place[...] = array
        return packed

    def features(self, found: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the features of each image, [patches / 4, hidden], in the order of its patches.

        Args:
            found: the output of the graph [bucket / 4, hidden].
        """
        parts = np.split(found[: self.patches // self._merged], self._ends[1:-1] // self._merged)
        for number, windows in enumerate(self._windows):
            ordered = np.empty_like(parts[number])
            ordered[windows.order] = parts[number]
            parts[number] = ordered
        return parts


def windows_in(config: VisionConfig, bucket: int, images: int, most: int) -> int:
    """Return the length of a graph's list of windows, for a bucket, a number of images and the backend's limit ``most``."""
    return min(most, most_windows(bucket // config.spatial_merge_size**2, images, config.window))


def padded_ends(ends: NDArray[np.int64], places: int) -> NDArray[np.int32]:
    """Pad cumulative lengths to int32 [places + 1] with empty segments."""
    return np.append(ends, np.full(places + 1 - len(ends), ends[-1])).astype(np.int32)
