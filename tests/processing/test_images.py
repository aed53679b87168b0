"""Tests of opening images: exact pixels, or an error with the name, the reason and the remedy."""

import base64
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.processing import images
from mindnlp_ocr.processing.images import MAX_SOURCE_PIXELS, ImageProcessor, load_image

Array = NDArray[Any]

NOISE: Array = np.random.default_rng(0).integers(0, 256, (30, 42, 3), np.uint8)
GREY: Array = NOISE[..., 0]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def loaded(source: Any) -> Array:
    image = load_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source: Any) -> str:
    with pytest.raises(PageError) as error:
        load_image(source)
    message = str(error.value)
    assert "\n" not in message
    return message


def png(width: int, height: int, depth: int, rows: bytes = b"", transparent_level: int | None = None) -> bytes:
    """A grey PNG by hand: its header may promise more than its rows hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    transparency = b"" if transparent_level is None else chunk(b"tRNS", struct.pack(">H", transparent_level))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + transparency + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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
    give = "pass uint8 [height, width] or [height, width, 1 | 3 | 4]"
    assert refusal(array) == f"an array of {found} is not an image: {give}"


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
    for shade in range(10):
        reader.read(encoded(Image.new("RGB", (60, 60), (shade, 0, 0)), "PNG"))
    assert len(reader._seen) == 3


def test_a_page_that_cannot_be_read_is_not_remembered_and_named_each_time(tmp_path: Path) -> None:
    reader = images.ImageReader(ImageProcessor())
    path = tmp_path / "page.png"
    path.write_bytes(encoded(Image.fromarray(NOISE), "PNG")[:60])
    for _ in range(2):
        with pytest.raises(PageError, match=f"{path} is truncated or damaged"):
            reader.read(path)
