"""What the vision graph takes: patches window by window, lists of one length, and features in order again."""

import numpy as np
import pytest

from mindnlp_ocr.architectures import Qwen2Vision, Qwen25Vision
from mindnlp_ocr.engine.packing import PackedImages
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.processing.images import Patches
from tests.windows import VISION

WINDOWED = Qwen25Vision.model_validate(VISION)
WHOLE = Qwen2Vision(depth=1, embed_dim=64, hidden_size=64, num_heads=4)


def numbered(*grids: tuple[int, int]) -> list[Patches]:
    """Every patch holds its own number, from 1."""
    starts = np.cumsum([1, *(height * width for height, width in grids)])
    return [
        Patches(np.repeat(np.arange(start, start + h * w, dtype=np.float32)[:, None], 1176, 1), (1, h, w))
        for start, (h, w) in zip(starts, grids, strict=False)
    ]


def test_without_windows_patches_keep_their_order_and_places_are_filled_up() -> None:
    packed = PackedImages(numbered((2, 4), (4, 4)), WHOLE, 64, 4, 10)
    patches, cos, sin, ends = packed.inputs()
    assert patches[:, 0].tolist() == [*range(1, 25), *[0] * 40]
    assert (cos.shape, sin.shape, ends.dtype) == ((64, 8), (64, 8), np.int32)
    assert ends.tolist() == [0, 8, 24, 24, 24]
    rows = np.arange(16, dtype=np.float32)[:, None]
    assert [part[:, 0].tolist() for part in packed.features(rows)] == [[0, 1], [2, 3, 4, 5]]


def test_patches_come_window_by_window_and_features_in_their_order() -> None:
    packed = PackedImages(numbered((2, 12), (4, 4)), WINDOWED, 64, 2, 1000)  # six units in a row: a window of 4 and one of 2
    patches, _, _, ends, windows = packed.inputs()
    assert ends.tolist() == [0, 24, 40]
    assert windows.tolist() == [0, 16, 24, 40, 40, 40]  # room for (16 units + 2 images * 3) // 4 windows
    assert patches[:40, 0].tolist() == list(range(1, 41))
    packed = PackedImages(numbered((4, 12)), WINDOWED, 64, 1, 1000)  # two rows of six units
    patches, turned, *_ = packed.inputs()
    units = patches[:48:4, 0].astype(int) // 4
    assert units.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11]
    plain = PackedImages(numbered((4, 12)), WHOLE, 64, 1, 1000).inputs()[1]
    for place, unit in enumerate(units):
        np.testing.assert_array_equal(turned[4 * place : 4 * place + 4], plain[4 * unit : 4 * unit + 4])
    found = np.append(units, np.full(4, -1))[:, None].astype(np.float32)
    assert packed.features(found)[0][:, 0].tolist() == list(range(12))


def test_more_windows_than_attention_takes_are_refused() -> None:
    PackedImages(numbered((2, 24)), WINDOWED, 64, 1, 3)
    with pytest.raises(PageError, match="images with 4 windows, but attention supports at most 3: lower --max-pixels"):
        PackedImages(numbered((2, 32)), WINDOWED, 64, 1, 3)
