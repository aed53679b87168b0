"""The documents that a user names, whose pages are opened on demand."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from mindnlp_ocr.documents.pdf import DEFAULT_DPI, Pdf
from mindnlp_ocr.documents.result import Line
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.processing.images import errors_of, load_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pbm"}
SUFFIXES = IMAGE_SUFFIXES | {".pdf"}
STANDARD_INPUT = "-"
PDF_HEAD = 1024  # number of bytes within which the header of a PDF must begin


@dataclass(frozen=True)
class SourcePage:
    """One opened page.

    Attributes:
        number: page number, from 1.
        image: the page in RGB.
        dpi: resolution, if it is known.
        text_layer: the lines of the text layer of a PDF, if they were requested.
        warnings: warnings about the page.
    """

    number: int
    image: Image.Image
    dpi: float | None = None
    text_layer: Sequence[Line] = ()
    warnings: tuple[str, ...] = ()


class Source:
    """An open document.

    Args:
        name: the path of a file, or "-" for standard input.
        dpi: resolution at which the pages of a PDF are rendered.
        password: password of an encrypted PDF.
        content: the document, or the path of a file with its contents, if ``name`` is not the path of a local file.

    Raises:
        PageError: the document cannot be opened.
    """

    def __init__(
        self, name: str, dpi: float = DEFAULT_DPI, password: str | None = None, content: Path | bytes | None = None
    ) -> None:
        self.name = name
        self.content: Path | bytes = self._content(name) if content is None else content
        self.pdf = Pdf(self.content, name, password, dpi) if _is_pdf(self.content) else None
        self.pages = self.pdf.pages if self.pdf is not None else self._frames()

    def close(self) -> None:
        """Close the document."""
        if self.pdf is not None:
            self.pdf.close()

    def page(self, index: int, text_layer: bool = False) -> SourcePage:
        """Open a page.

        Args:
            index: index of the page, from 0.
            text_layer: whether to read the text layer of a PDF, too.

        Raises:
            PageError: the page cannot be opened.
        """
        if self.pdf is not None:
            lines = self.pdf.text_lines(index) if text_layer else ()
            dpi, warnings = self.pdf.dpi(index), []
            if dpi < self.pdf.wanted_dpi:
                warnings.append(f"The page is so large that it was rendered at {dpi:.0f} dpi.")
            return SourcePage(index + 1, self.pdf.render(index), dpi, lines, tuple(warnings))
        if self._is_tiff or index:
            with errors_of(self.name), Image.open(self._stream()) as image:
                image.seek(index)
                return SourcePage(index + 1, load_image(image.copy()), _dpi(image))
        with errors_of(self.name), Image.open(self._stream()) as image:
            said, frames = _dpi(image), getattr(image, "n_frames", 1)
        warnings = [f"The file is an animation of {frames} frames; only the first was read."] if frames > 1 else []
        source = self.content if isinstance(self.content, bytes) else str(self.content)
        return SourcePage(1, load_image(source), said, (), tuple(warnings))

    def _content(self, name: str) -> Path | bytes:
        if name == STANDARD_INPUT:
            content = sys.stdin.buffer.read()
            if not content:
                raise PageError("standard input is empty: send a PDF or an image to it", code="document_empty")
            return content
        path = Path(name.removeprefix("file://"))
        try:
            if path.is_file():
                return path
            what = "a folder without documents" if path.is_dir() else "missing"
        except OSError as error:
            raise PageError(
                f"{name[:60]}... cannot be opened ({error.strerror}): pass a PDF or an image", code="file_unreadable"
            ) from error
        if name.startswith(("http://", "https://")):
            raise PageError(
                f"{name} is a web address: download it first, because this program opens only files", code="web_address"
            )
        if name[:5].lower() == "data:":
            raise PageError(
                "a data URL was given: use a file, or send its bytes to standard input", code="data_url_unsupported"
            )
        raise PageError(f"{path} is {what}: pass a PDF or an image file", code="file_missing")

    def _stream(self) -> Path | BytesIO:
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content

    def _frames(self) -> int:
        """Return the number of pages of an image file, which is 1 unless it is a TIFF."""
        with errors_of(self.name), Image.open(self._stream()) as image:
            self.size = image.size  # size of the first page, which is not decoded yet
            self._is_tiff = image.format == "TIFF"
            return int(getattr(image, "n_frames", 1)) if self._is_tiff else 1


def is_document(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry of a folder is a file with the suffix of a document."""
    return Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()


def _is_pdf(content: Path | bytes) -> bool:
    if isinstance(content, bytes):
        return b"%PDF-" in content[:PDF_HEAD]
    try:
        with content.open("rb") as file:
            return b"%PDF-" in file.read(PDF_HEAD)
    except PermissionError as error:
        raise PageError(
            f"{content} may not be read ({error.strerror}): change its permissions", code="permission_denied"
        ) from error
    except OSError as error:
        raise PageError(f"{content} cannot be read ({error.strerror}): use another file", code="file_unreadable") from error


def _dpi(image: Image.Image) -> float | None:
    """Return the resolution in the metadata of an image, or None if it is missing or implausible."""
    found = image.info.get("dpi")
    try:
        dpi = float(found[0]) if found else 0.0
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        dpi = 0.0
    return round(dpi, 3) if 50 <= dpi <= 2400 else None


def expand(name: str) -> Iterator[str]:
    """Yield the documents of a file, folder or pattern. A name without documents is yielded itself, and fails later."""
    if name == STANDARD_INPUT:
        yield name
        return
    if os.path.isdir(name):  # noqa: PTH112 - unlike Path, it accepts any string, such as data URLs
        try:
            entries = sorted(entry.path for entry in os.scandir(name) if is_document(entry))
        except PermissionError as error:
            raise SetupError(
                f"{name} may not be listed ({error.strerror}): change its permissions", code="permission_denied"
            ) from error
        yield from entries or [name]
        return
    if not os.path.exists(name) and glob.has_magic(name):  # noqa: PTH110
        yield from sorted(glob.glob(name, recursive=True)) or [name]
        return
    yield name
