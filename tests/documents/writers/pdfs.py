"""PDFs made for tests, and what reads them."""

import io
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image, ImageDraw

from mindnlp_ocr.documents.result import Document, Page
from mindnlp_ocr.documents.writers.base import PagePicture
from tests.documents.writers.pages import (
    block,
    line,
    page,
    written,
)

Read = Callable[[bytes], list[str]]


def by_pdfium(pdf: bytes) -> list[str]:
    """The text of every page, blanks at line ends aside."""
    document = pypdfium2.PdfDocument(pdf)
    return ["\n".join(one.get_textpage().get_text_range().split("\r\n")) for one in document]


def by_poppler(pdf: bytes) -> list[str]:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: apt-get install poppler-utils")
    done = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True)
    return done.stdout.decode().split("\f")[:-1]


def pdf(*pages: Page, pictures: list[PagePicture | None] | None = None, source: str = "scan.png", **more: Any) -> bytes:
    return written("pdf", Document(source=source, pages=pages, **more), pictures=pictures)


def rendered(data: bytes, scale: float, index: int = 0) -> Image.Image:
    return pypdfium2.PdfDocument(data)[index].render(scale=scale).to_pil().convert("RGB")


def images(data: bytes) -> list[pikepdf.Object]:
    with pikepdf.open(io.BytesIO(data)) as opened:
        return [
            dict(image.stream_dict, data=image.read_raw_bytes())
            for one in opened.pages
            for image in one.resources.get("/XObject", pikepdf.Dictionary()).as_dict().values()
        ]


def photograph(width: int = 400, height: int = 300) -> Image.Image:
    """More colours than any drawing has."""
    ramp = np.add.outer(np.arange(height), np.arange(width))
    pixels = np.stack([ramp % 256, (2 * ramp) % 256, (3 * ramp) % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels)


def drawing(ink: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (400, 300), ground)
    ImageDraw.Draw(image).rectangle((40, 30, 199, 89), fill=ink)
    return image


def drawn(
    content: bytes,
    rotation: int = 0,
    media: tuple[float, ...] = (0, 0, 300, 200),
    crop: tuple[float, ...] | None = None,
    unit: int | None = None,
    pages: int = 1,
    **save: Any,
) -> bytes:
    """A PDF with the same drawing on every page."""
    made = pikepdf.new()
    for _ in range(pages):
        made.add_blank_page(page_size=(100, 100))
        one = made.pages[-1].obj
        one.MediaBox, one.Rotate, one.Contents = pikepdf.Array(media), rotation, made.make_stream(content)
        if crop is not None:
            one.CropBox = pikepdf.Array(crop)
        if unit is not None:
            one.UserUnit = unit
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        one.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
    stream = io.BytesIO()
    made.save(stream, **save)
    return stream.getvalue()


BAR = b"0 g 20 20 100 30 re f"
WORDS = b"BT /F 20 Tf 20 100 Td (printed words) Tj ET"


def of_pdf(source: bytes, index: int = 0, password: str | None = None) -> PagePicture:
    opened = pypdfium2.PdfDocument(source, password=password)
    return PagePicture(
        lambda: opened[index].render(scale=2).to_pil().convert("RGB"),
        dpi=144,
        file=source,
        pdf_index=index,
        password=password,
    )


def read_as(text: str, number: int = 1, **more: Any) -> Page:
    return page(block(line(text, 40, 300, 240, 360)), number=number, width=600, height=400, dpi=144.0, **more)
