"""Tests of images that cannot be opened: an error with the name, the reason and the remedy."""

import base64
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.processing.images import MAX_SOURCE_PIXELS, ImageProcessor, load_image
from tests.processing.pictures import NOISE, encoded, loaded, png, refusal

# Files that are no image, or not a whole one


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"\x00" * 500])
def test_a_file_that_is_not_an_image_is_named_with_the_kinds_that_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(content)
    message = f"{path} is not an image that Pillow can open: use PNG, JPEG, WebP, TIFF, BMP or GIF"
    assert refusal(path) == refusal(str(path)) == message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_names_itself_and_the_remedy(tmp_path: Path, kind: str, share: float) -> None:
    whole = encoded(Image.fromarray(np.tile(NOISE, (4, 4, 1))), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    if kind in ("PNG", "JPEG"):
        assert message.startswith(f"{path} is truncated or damaged (image file is truncated")
        assert message.endswith("): save it again")
    else:  # some lose the directory that tells what they are
        assert message.startswith((f"{path} is truncated or damaged (", f"{path} is not an image that Pillow can open"))
        assert message.endswith((": save it again", ": use PNG, JPEG, WebP, TIFF, BMP or GIF"))


def test_a_truncated_pillow_image_is_refused_like_its_file() -> None:
    whole = encoded(Image.fromarray(NOISE), "PNG")
    lazy = Image.open(io.BytesIO(whole[: len(whole) // 2]))  # Pillow has read the header only
    assert "truncated or damaged" in refusal(lazy)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.png") == f"{tmp_path / 'no.png'} is missing: pass an image file"
    assert refusal(tmp_path) == f"{tmp_path} is a folder: pass an image file"


@pytest.mark.parametrize("address", ["http://example.org/page.png", "https://example.org/page.png"])
def test_a_web_address_is_refused_not_fetched(address: str) -> None:
    assert refusal(address) == f"{address} is a web address: download it first, because this engine opens only files"


@pytest.mark.parametrize("source", [None, 5, 1.5, ["page.png"], {"path": "page.png"}, object()])
def test_a_source_of_an_unknown_kind_is_the_pages_error(source: Any) -> None:
    assert type(source).__name__ in refusal(source)


def test_a_name_too_long_for_the_system_is_the_pages_error_and_is_not_printed_whole() -> None:
    assert len(refusal("x" * 10_000)) < 500


# Large and oddly shaped images


def test_a_60000_x_60000_png_is_refused_from_its_header(tmp_path: Path) -> None:
    """Decoding it would have said "truncated": the file holds 100 bytes of pixels."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000, 8, bytes(100)))
    message = refusal(path)
    assert message.startswith(f"{path} ")
    assert "3600000000 pixels" in message or "60000 x 60000 pixels" in message
    assert message.endswith(": scale it down")


def test_pillows_limit_switched_off_leaves_the_engines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    message = refusal(png(60_000, 60_000, 8, bytes(100)))
    assert f"has 60000 x 60000 pixels, more than {MAX_SOURCE_PIXELS:,}: scale it down" in message


def test_the_limit_of_pixels_is_the_one_that_is_named() -> None:
    side = math.isqrt(MAX_SOURCE_PIXELS)
    assert "scale it down" in refusal(png(side + 2, side + 2, 8, bytes(100)))
    assert "truncated" in refusal(png(side, side, 8, bytes(100)))  # allowed, so decoded, and found wanting


def test_a_large_page_within_the_limit_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "truncated" in refusal(png(9_921, 14_031, 8, bytes(100)))  # A2 at 600 dpi


def test_a_1_x_1_image_is_read_as_one_enlarged_patch_grid() -> None:
    processor = ImageProcessor()
    pixels, grid = processor.patches(load_image(np.full((1, 1, 3), (255, 0, 128), np.uint8)))
    assert grid == (1, 4, 4)
    assert (pixels.shape, pixels.dtype) == ((16, 3 * 2 * 14 * 14), np.float32)
    colour = (np.array([255, 0, 128]) / 255 - processor.image_mean) / processor.image_std
    channels = pixels.reshape(16, 3, -1)
    np.testing.assert_allclose(channels, np.broadcast_to(colour[:, None], channels.shape), atol=1e-6)
    assert processor.tokens(grid) == 4


@pytest.mark.parametrize(("width", "height"), [(201, 1), (1, 201), (6001, 30)])
def test_a_side_more_than_200_times_the_other_is_refused(width: int, height: int) -> None:
    with pytest.raises(PageError) as error:
        ImageProcessor().patches(Image.new("RGB", (width, height)))
    assert str(error.value) == f"an image of {width} x {height} pixels is too elongated (limit 200:1): cut it into parts"


@pytest.mark.parametrize(("width", "height"), [(200, 1), (1, 200), (6000, 30)])
def test_a_side_of_200_times_the_other_is_read(width: int, height: int) -> None:
    processor = ImageProcessor()
    pixels, grid = processor.patches(Image.new("RGB", (width, height)))
    assert len(pixels) == math.prod(grid)
    assert min(grid[1:]) == 2


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_pillow_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    assert "no pixel" in refusal(Image.new("RGB", size))


# Data URLs


@pytest.mark.parametrize(
    ("url", "decisive"),
    [
        ("data:image/png,abc", "data:image/png... is not a base64 data URL: use data:image/png;base64,..."),
        (
            "data:image/png;base64,!!!!",
            "data:image/png;base64,... is damaged base64 (Only base64 data is allowed): encode the file again",
        ),
        (
            "data:image/png;base64,AAA",
            "data:image/png;base64,... is damaged base64 (Incorrect padding): encode the file again",
        ),
        ("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", "data:image/png;base64,... is damaged base64"),
        ("data:image/png;base64,", "a data URL of 0 bytes is not an image that Pillow can open"),
        ("data:image/png;base64,aGVsbG8=", "a data URL of 5 bytes is not an image that Pillow can open: use PNG"),
    ],
)
def test_a_bad_data_url_says_what_is_wrong_with_it(url: str, decisive: str) -> None:
    assert decisive in refusal(url)


def test_a_damaged_data_url_is_not_printed_whole() -> None:
    assert len(refusal("data:image/png;base64," + "!" * 100_000)) < 300


def test_the_scheme_of_a_data_url_may_be_in_capitals() -> None:
    content = base64.b64encode(encoded(Image.fromarray(NOISE), "PNG")).decode()
    np.testing.assert_array_equal(loaded(f"DATA:image/png;base64,{content}"), NOISE)
