"""Tests of opening images: exact pixels of every kind of file, and what is remembered of images seen before."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.processing import images
from mindnlp_ocr.processing.images import ImageProcessor
from tests.processing.pictures import GREY, NOISE, Array, encoded, loaded, png, refusal

# Kinds of pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_path_bytes_data_url_pillow_and_array_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(NOISE), kind)
    path = tmp_path / "page"
    path.write_bytes(content)
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
    for source in (path, str(path), f"file://{path}", content, url, Image.open(path), Image.fromarray(NOISE), NOISE):
        np.testing.assert_array_equal(loaded(source), NOISE)


def test_a_jpeg_is_read_as_pillow_decodes_it() -> None:
    content = encoded(Image.fromarray(NOISE), "JPEG")
    np.testing.assert_array_equal(loaded(content), np.asarray(Image.open(io.BytesIO(content))))


def test_the_first_frame_of_an_animation_is_read() -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for kind in ("GIF", "WebP", "PNG"):
        content = encoded(red, kind, save_all=True, append_images=[blue], **({"lossless": True} if kind == "WebP" else {}))
        assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 2
        np.testing.assert_array_equal(loaded(content), np.asarray(red))


def test_a_tiff_of_several_pages_is_refused_with_their_number(tmp_path: Path) -> None:
    path, page = tmp_path / "scan.tif", Image.fromarray(NOISE)
    page.save(path, save_all=True, append_images=[page, page])
    assert refusal(path) == f"{path} has 3 pages: save each page as a file (tiffsplit, ImageMagick)"
    page.save(path)
    np.testing.assert_array_equal(loaded(path), NOISE)


def test_16_bit_grey_is_scaled_to_the_8_bit_version() -> None:
    wide = GREY.astype(np.uint16) * 257
    by_hand = png(42, 30, 16, b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide))
    assert Image.open(io.BytesIO(by_hand)).mode.startswith("I")
    expected = loaded(encoded(Image.fromarray(GREY), "PNG"))
    np.testing.assert_array_equal(loaded(by_hand), expected)
    np.testing.assert_array_equal(loaded(encoded(Image.fromarray(wide), "TIFF")), expected)


def test_16_bit_levels_between_are_rounded_to_the_nearest() -> None:
    wide = np.array([[0, 128, 129, 65_535 - 129, 65_535 - 128, 65_535]], np.uint16)
    assert loaded(encoded(Image.fromarray(wide), "PNG"))[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_the_transparent_level_of_a_grey_png_is_white_paper_at_8_and_at_16_bits() -> None:
    levels = np.array([[0, 100, 200]])
    narrow = png(3, 1, 8, b"\0" + levels.astype(np.uint8).tobytes(), transparent_level=100)
    assert loaded(narrow)[0, :, 0].tolist() == [0, 255, 200]
    wide = png(3, 1, 16, b"\0" + (levels * 257).astype(">u2").tobytes(), transparent_level=100 * 257)
    assert loaded(wide)[0, :, 0].tolist() == [0, 255, 200]


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_a_cmyk_jpeg_has_the_colours_it_prints(ink: tuple[int, ...], expected: tuple[int, ...]) -> None:
    content = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    assert np.unique(loaded(content).reshape(-1, 3), axis=0).tolist() == [list(expected)]


def test_transparent_parts_become_white_and_half_transparent_ones_half_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 128], [10, 20, 30, 255]]], np.uint8)
    expected = [[255, 255, 255], [132, 137, 142], [10, 20, 30]]
    assert loaded(rgba)[0].tolist() == expected
    assert loaded(encoded(Image.fromarray(rgba), "PNG"))[0].tolist() == expected
    grey = Image.merge("LA", [Image.fromarray(rgba[..., c]) for c in (0, 3)])
    assert loaded(encoded(grey, "PNG"))[0].tolist() == [[255] * 3, [132] * 3, [10] * 3]


def test_a_palette_with_transparency_becomes_white_where_it_is_transparent() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    one = encoded(image, "PNG", transparency=1)
    assert Image.open(io.BytesIO(one)).mode == "P"
    assert loaded(one)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    half = encoded(image, "PNG", transparency=bytes([128, 255]))
    assert loaded(half)[0].tolist() == [[132, 137, 142], [200, 100, 50]]
    assert loaded(encoded(image, "GIF", transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


UPRIGHT: dict[int, Callable[[Array], Array]] = {  # EXIF's orientations, from the pixels as stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_photo_is_turned_upright_as_its_exif_says(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = loaded(encoded(Image.fromarray(NOISE), kind))
    turned = loaded(encoded(Image.fromarray(NOISE), kind, exif=exif))
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](plain))


def test_an_orientation_that_does_not_exist_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(loaded(encoded(Image.fromarray(NOISE), "PNG", exif=exif)), NOISE)


# Arrays


def test_arrays_of_one_three_and_four_channels_are_read_contiguous_or_not() -> None:
    grey = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(loaded(GREY), grey)
    np.testing.assert_array_equal(loaded(GREY[..., None]), grey)
    np.testing.assert_array_equal(loaded(NOISE[::2, ::-3]), NOISE[::2, ::-3])
    np.testing.assert_array_equal(loaded(np.asfortranarray(NOISE)), NOISE)
    np.testing.assert_array_equal(loaded(np.dstack([NOISE, np.full_like(GREY, 255)])), NOISE)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (NOISE.astype(np.float32), "float32 (30, 42, 3)"),
        (NOISE.astype(np.int64), "int64 (30, 42, 3)"),
        (GREY > 100, "bool (30, 42)"),
        (NOISE.astype(np.uint16), "uint16 (30, 42, 3)"),
        (NOISE[..., :2], "uint8 (30, 42, 2)"),
        (NOISE[None], "uint8 (1, 30, 42, 3)"),
        (NOISE.transpose(2, 0, 1), "uint8 (3, 30, 42)"),
        (GREY[0], "uint8 (42,)"),
        (np.array(["page.png"]), "<U8 (1,)"),
    ],
)
def test_an_array_that_is_no_image_is_named_by_type_and_shape(array: Array, found: str) -> None:
    expected = "pass uint8 [height, width] or [height, width, 1 | 3 | 4]"
    assert refusal(array) == f"an array of {found} is not an image: {expected}"


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3), (5, 0, 4)])
def test_an_array_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    assert refusal(np.zeros(shape, np.uint8)) == f"an array of {shape} has no pixels: use 1 x 1 or more"


# What was seen before


def test_an_image_seen_before_is_not_opened_again_until_its_patches_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = images.ImageReader(ImageProcessor())
    path = tmp_path / "page.png"
    Image.fromarray(NOISE).save(path)
    first = reader.read(path)
    opened: list[str] = []
    open_ = images._open
    monkeypatch.setattr(images, "_open", lambda file, name: opened.append(name) or open_(file, name))
    again = reader.read(str(path))
    assert (again.grid_thw, again.digest, opened) == (first.grid_thw, first.digest, [])
    np.testing.assert_array_equal(again.patches().pixels, first.patches().pixels)
    assert opened == [str(path)]
    reader.forget()
    assert reader.read(path).digest == first.digest
    assert opened == [str(path)] * 2


def test_a_file_that_changed_and_an_array_that_was_changed_are_other_images(tmp_path: Path) -> None:
    reader = images.ImageReader(ImageProcessor())
    path, array = tmp_path / "page.png", NOISE.copy()
    Image.fromarray(array).save(path)
    before = {reader.read(source).digest for source in (path, array, Image.fromarray(array))}
    assert len(before) == 1  # the same pixels are the same image, wherever they come from
    array[0, 0] ^= 255
    Image.fromarray(array).save(path)
    for source in (path, path.read_bytes(), array, Image.fromarray(array)):
        assert reader.read(source).digest not in before


def test_a_reader_remembers_a_bounded_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_SEEN", 3)
    reader = images.ImageReader(ImageProcessor())
    pages = [encoded(Image.new("RGB", (60, 60), (shade, 0, 0)), "PNG") for shade in range(10)]
    for page in pages:
        reader.read(page)
    opened: list[str] = []
    open_ = images._open
    monkeypatch.setattr(images, "_open", lambda file, name: opened.append(name) or open_(file, name))
    for page in pages[:-4:-1]:
        reader.read(page)
    assert opened == []
    reader.read(pages[0])
    assert len(opened) == 1


def test_a_page_that_cannot_be_read_is_not_remembered_and_named_each_time(tmp_path: Path) -> None:
    reader = images.ImageReader(ImageProcessor())
    path = tmp_path / "page.png"
    path.write_bytes(encoded(Image.fromarray(NOISE), "PNG")[:60])
    for _ in range(2):
        with pytest.raises(PageError, match=f"{path} is truncated or damaged"):
            reader.read(path)
