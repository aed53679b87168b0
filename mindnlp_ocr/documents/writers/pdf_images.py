"""Encoding of page images for PDF."""

import io
import struct
from typing import Any

from pikepdf import Dictionary, Name
from PIL import Image, ImageChops

from mindnlp_ocr.documents.writers.base import PagePicture

JPEG_QUALITY = 85
FEW_COLOURS = 16  # images with at most this number of colours are stored losslessly, which also makes them smaller
SMALL = 128 * 128  # images up to this number of pixels are stored losslessly, too
_ORIENTATION = 0x0112

Encoded = tuple[bytes, dict[str, Any]]  # data and dictionary entries of a stream


def encode(picture: PagePicture) -> Encoded:
    """Encode the image of a page: the original JPEG if possible, else the smallest suitable encoding."""
    if (own := _own_jpeg(picture)) is not None:
        return own
    image = picture.image()
    colours = image.getcolors(FEW_COLOURS)
    red, green, blue = image.split()
    grey = not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(green, blue).getbbox()
    if grey:
        image = red
    if colours is not None and {colour for _, colour in colours} <= {(0, 0, 0), (255, 255, 255)}:
        return _fax(image.convert("1", dither=Image.Dither.NONE))
    if colours is not None or image.width * image.height <= SMALL:
        return _png(image)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue(), _entries(image, Name.DCTDecode)


def _own_jpeg(picture: PagePicture) -> Encoded | None:
    """Return the original JPEG file if it shows the page as it was read: upright, in RGB or grey."""
    if picture.file is None or picture.pdf_index is not None:
        return None
    file = picture.file
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L") or image.getexif().get(_ORIENTATION, 1) != 1:
            return None
        entries = _entries(image, Name.DCTDecode)
    return file if isinstance(file, bytes) else file.read_bytes(), entries


def _fax(image: Image.Image) -> Encoded:
    """Encode a black-and-white image with CCITT Group 4."""
    stream = io.BytesIO()
    image.save(stream, "TIFF", compression="group4", tiffinfo={278: image.height})  # in one strip
    with Image.open(stream) as tiff:
        tags = tiff.tag_v2  # type: ignore[attr-defined]
        [offset], [count], white_is_zero = tags[273], tags[279], tags[262] == 0
    parameters = Dictionary(K=-1, Columns=image.width, Rows=image.height, BlackIs1=not white_is_zero)
    entries = _entries(image, Name.CCITTFaxDecode) | {"BitsPerComponent": 1, "DecodeParms": parameters}
    return stream.getvalue()[offset : offset + count], entries


def _png(image: Image.Image) -> Encoded:
    """Encode an image losslessly with the data of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    png, data, position = stream.getvalue(), b"", 8
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        if kind == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += length + 12
    colours = 1 if image.mode == "L" else 3
    parameters = Dictionary(Predictor=15, Colors=colours, BitsPerComponent=8, Columns=image.width)
    return data, _entries(image, Name.FlateDecode) | {"DecodeParms": parameters}


def _entries(image: Image.Image, coding: Name) -> dict[str, Any]:
    return {
        "Type": Name.XObject,
        "Subtype": Name.Image,
        "Width": image.width,
        "Height": image.height,
        "ColorSpace": Name.DeviceRGB if image.mode == "RGB" else Name.DeviceGray,
        "BitsPerComponent": 8,
        "Filter": coding,
    }
