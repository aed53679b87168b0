"""PDF documents, which PDFium opens and renders."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pypdfium2
from PIL import Image
from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

from mindnlp_ocr.documents.result import Box, Line
from mindnlp_ocr.errors import PageError

DEFAULT_DPI = 200.0
MIN_DPI = 24.0
MAX_RENDERED_PIXELS = 40_000_000  # a page of size A2 at 200 dpi has 15 million
LOCK = threading.RLock()  # PDFium is not thread-safe


class Pdf:
    """An open PDF, whose pages are rendered on demand.

    Args:
        source: the path of the file, or its contents.
        name: the name for messages.
        password: password of an encrypted file.
        dpi: resolution of rendered pages; it is lowered for pages that would be too large.

    Raises:
        PageError: the file is encrypted, damaged, or not a PDF.
    """

    def __init__(self, source: Path | bytes, name: str, password: str | None = None, dpi: float = DEFAULT_DPI) -> None:
        self._name, self.wanted_dpi = name, dpi
        try:
            with LOCK:
                self._file = pypdfium2.PdfDocument(source, password=password)
                self.pages = len(self._file)
        except pypdfium2.PdfiumError as error:
            code = getattr(error, "err_code", None)
            if code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
                wanted = "the password is wrong" if password else "it is encrypted"
                raise PageError(f"{name} cannot be opened ({wanted}): add --password", code="pdf_password") from error
            raise PageError(f"{name} is damaged or not a PDF ({error}): save it again", code="pdf_damaged") from error
        except OSError as error:
            raise PageError(
                f"{name} cannot be opened ({error.strerror}): pass a PDF that can be read", code="file_unreadable"
            ) from error
        if self.pages == 0:
            raise PageError(f"{name} has no pages: save it again", code="pdf_empty")

    def close(self) -> None:
        """Close the file and free its memory."""
        with LOCK:
            self._file.close()

    def size(self, index: int) -> tuple[float, float]:
        """Return the width and height of a page in points, as it is displayed.

        Raises:
            PageError: the page is damaged.
        """
        with LOCK:
            width, height = self._page(index).get_size()
            return float(width), float(height)

    def dpi(self, index: int) -> float:
        """Return the resolution at which a page is rendered."""
        width, height = self.size(index)
        if width <= 0 or height <= 0:
            raise PageError(
                f"page {index + 1} of {self._name} has no area ({width:g} x {height:g} points): exclude it with --pages",
                code="pdf_page_empty",
            )
        most: float = 72 * (MAX_RENDERED_PIXELS / (width * height)) ** 0.5
        return min(self.wanted_dpi, most)

    def render(self, index: int) -> Image.Image:
        """Render a page in RGB.

        Raises:
            PageError: the page is damaged or far too large.
        """
        dpi = self.dpi(index)
        if dpi < MIN_DPI:
            width, height = (side / 72 * 0.0254 for side in self.size(index))
            raise PageError(
                f"page {index + 1} of {self._name} measures {width:.1f} x {height:.1f} metres, too large to be rendered at "
                f"{MIN_DPI:g} dpi: split it",
                code="pdf_page_too_large",
            )
        try:
            with LOCK:
                bitmap = self._page(index).render(scale=dpi / 72, rev_byteorder=True)
                image: Image.Image = bitmap.to_pil().convert("RGB").copy()
                return image
        except (pypdfium2.PdfiumError, MemoryError, ValueError) as error:
            raise PageError(
                f"page {index + 1} of {self._name} cannot be rendered ({error}): lower --dpi", code="pdf_page_unrenderable"
            ) from error

    def text_lines(self, index: int) -> Sequence[Line]:
        """Return the lines of the text layer of a page, in pixels of the rendered page; empty if there is no text layer."""
        scale = self.dpi(index) / 72
        with LOCK:
            page = self._page(index)
            height = page.get_height()
            text = page.get_textpage()
            lines = []
            for number in range(text.count_rects()):
                left, bottom, right, top = text.get_rect(number)
                found = " ".join(text.get_text_bounded(left, bottom, right, top).split())
                if found:
                    box = Box(left * scale, (height - top) * scale, right * scale, (height - bottom) * scale)
                    lines.append(Line(text=found, box=box))
        return lines

    def _page(self, index: int) -> Any:
        try:
            return self._file[index]
        except pypdfium2.PdfiumError as error:
            raise PageError(
                f"page {index + 1} of {self._name} is damaged ({error}): save the file again", code="pdf_page_damaged"
            ) from error
