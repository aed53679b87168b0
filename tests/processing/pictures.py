"""Images made for tests of opening them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.errors import PageError
from mindnlp_ocr.processing.images import load_image

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
