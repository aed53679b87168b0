"""Tests of resizing against Qwen2-VL's own processor, and of its settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import EMBEDDED
from mindnlp_ocr.processing.images import ImageProcessor, smart_resize

# Resizing

FACTOR = 28
sides = st.integers(1, 20_000)


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Height, width, min_pixels and max_pixels, as far apart as rounding to whole patches asks for."""
    short = draw(sides)
    long = draw(st.integers(short, 200 * short))
    height, width = draw(st.permutations([short, long]))
    min_pixels = draw(st.integers(FACTOR**2, 200_000))
    return height, width, min_pixels, draw(st.integers(4 * min_pixels, 4 * min_pixels + 2_000_000))


@settings(deadline=None)
@given(requests())
def test_resized_sides_are_multiples_and_the_area_lies_within_the_limits(request: tuple[int, int, int, int]) -> None:
    height, width, min_pixels, max_pixels = request
    new_height, new_width = smart_resize(height, width, FACTOR, min_pixels, max_pixels)
    assert min(new_height, new_width) >= FACTOR
    assert new_height % FACTOR == new_width % FACTOR == 0
    assert new_height * new_width >= min_pixels
    # A strip whose short side would fall below one factor at the largest area cannot be kept within it.
    if max(height, width) / min(height, width) <= max_pixels / FACTOR**2:
        assert new_height * new_width <= max_pixels


@settings(deadline=None)
@given(requests())
def test_an_image_on_its_side_is_resized_on_its_side(request: tuple[int, int, int, int]) -> None:
    height, width, *limits = request
    assert smart_resize(width, height, FACTOR, *limits) == smart_resize(height, width, FACTOR, *limits)[::-1]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_an_image_of_whole_patches_within_the_limits_keeps_its_size(rows: int, columns: int) -> None:
    height, width = rows * FACTOR, columns * FACTOR
    assert smart_resize(height, width, FACTOR, FACTOR**2, 1600 * FACTOR**2) == (height, width)


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # computed with transformers 4.57.6 from the published limits 3136 and 1003520
        ((1, 1), (56, 56)),
        ((13, 13), (56, 56)),
        ((3, 600), (28, 812)),
        ((42, 70), (56, 56)),  # halves are rounded to even
        ((5000, 30), (5012, 28)),
        ((3508, 2480), (1176, 840)),
    ],
)
def test_sizes_are_the_published_ones(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert smart_resize(*size, FACTOR, 56 * 56, 28 * 28 * 1280) == expected


# preprocessor_config.json


def _processor_folder(folder: Path, **changes: Any) -> Path:
    raw = json.loads((EMBEDDED / "preprocessor_config.json").read_text(encoding="utf-8")) | changes
    (folder / "preprocessor_config.json").write_text(
        json.dumps({name: value for name, value in raw.items() if value != "absent"}), encoding="utf-8"
    )
    return folder


def test_the_size_form_of_newer_releases_is_the_same_processor(tmp_path: Path) -> None:
    size = {"shortest_edge": 784, "longest_edge": 401408}
    original = ImageProcessor.from_folder(EMBEDDED)
    assert (original.min_pixels, original.max_pixels) == (784, 401408)
    for absent in ("absent", None):
        folder = _processor_folder(tmp_path, min_pixels=absent, max_pixels=absent, size=size)
        assert ImageProcessor.from_folder(folder) == original


@pytest.mark.parametrize(
    ("changes", "decisive"),
    [
        ({"patch_size": 0}, "patch_size: Input should be greater than 0"),
        ({"max_pixels": -1}, "max_pixels: Input should be greater than 0"),
        ({"image_std": [0, 1, 1]}, "image_std: Input should be greater than 0"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"size": [3136, 401408], "min_pixels": None}, "size"),
    ],
)
def test_an_impossible_preprocessor_config_names_the_file_and_the_field(
    tmp_path: Path, changes: dict[str, Any], decisive: str
) -> None:
    with pytest.raises(SetupError) as error:
        ImageProcessor.from_folder(_processor_folder(tmp_path, **changes))
    assert str(error.value).startswith(str(tmp_path / "preprocessor_config.json"))
    assert decisive in str(error.value)
