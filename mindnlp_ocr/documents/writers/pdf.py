"""Searchable PDF: pages with their original appearance and an invisible text layer."""

import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pikepdf
from pikepdf import Dictionary, Name, Stream

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.writers.base import PagePicture, Writer, printable
from mindnlp_ocr.documents.writers.pdf_images import Encoded, encode
from mindnlp_ocr.documents.writers.pdf_text import Matrix, TextLayer
from mindnlp_ocr.documents.writers.words import placed
from mindnlp_ocr.errors import OCRError

USUAL_DPI = 200.0  # resolution of images without a plausible resolution in their metadata
DPI = range(50, 2401)
LONGEST = 14_400  # maximum side of a page in points
IN_MEMORY = 64 << 20  # bytes of images to keep in memory before everything is moved to a temporary file
BLANK = (0.0, 0.0, 595.0, 842.0)  # A4
_SHOWS_TEXT = "Tj TJ ' \""
_PICTURE = "/PictureOCR"  # name in the resources of a page


class PdfWriter(Writer):
    """Writes a PDF whose text can be searched, selected and copied.

    A text layer is added to the pages of a PDF. A page that already contains text is replaced by its image, since it would
    contain the text twice otherwise. A page that was read from its text layer, or could not be read, stays unchanged. An
    image becomes a page. The file is written at the end; until then, data that exceeds ``IN_MEMORY`` is in a temporary file.
    """

    suffix = ".pdf"
    one_document = True
    font_name = "/BlankOCR"  # name in the resources of a page

    def _begin(self) -> None:
        self._started = False  # the first page determines whether the source is a PDF
        self._text = TextLayer()
        self._kept: set[int] = set()  # indices of the pages that were written

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        page = placed(page)
        if not self._started:
            self._start(_opened(picture))
        index = picture.pdf_index if picture is not None and self._opened else None
        if picture is None or index is None or index >= len(self._pdf.pages):
            self._kept.add(len(self._pdf.pages))
            self._from_picture(page, picture)
        elif index not in self._kept:
            self._kept.add(index)
            self._onto_page(page, picture, self._pdf.pages[index])
        if self._in_memory > IN_MEMORY:
            self._spill()

    def _start(self, opened: pikepdf.Pdf | None) -> None:
        self._started = True
        self._opened, self._pdf = opened is not None, pikepdf.new() if opened is None else opened
        self._pdf.Root[self.font_name] = self._pdf.make_indirect(Dictionary())  # temporary reference, removed at the end
        self._in_memory = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def _from_picture(self, page: Page, picture: PagePicture | None) -> None:
        """Add a page that shows an image."""
        dpi = page.dpi or (picture.dpi if picture else None) or USUAL_DPI
        if not DPI.start <= dpi < DPI.stop:
            dpi = USUAL_DPI
        box = BLANK
        if page.width and page.height:
            scale = min(72 / dpi, LONGEST / max(page.width, page.height))
            box = (0.0, 0.0, page.width * scale, page.height * scale)
        self._pdf.add_blank_page(page_size=(max(box[2], 3), max(box[3], 3)))
        added = self._pdf.pages[-1]
        self._replace(page, picture if page.width and page.height else None, added, _place(box, 0, page))

    def _onto_page(self, page: Page, picture: PagePicture, target: pikepdf.Page) -> None:
        """Add text to a page of the original PDF."""
        if page.error is not None or page.layout == "text-layer" or not page.lines:
            return
        place = _place(_box(target), _rotation(target), page)
        if _has_text(target):
            self._replace(page, picture, target, place)
            return
        target.add_resource(self._font, Name.Font, Name(self.font_name), replace_existing=True)
        content = self._text.content(page, place, self.font_name)
        target.contents_add(
            self._stream(content), prepend=True
        )  # first, so that transformations of the page do not affect it

    def _replace(self, page: Page, picture: PagePicture | None, target: pikepdf.Page, place: Matrix) -> None:
        """Replace the contents of a page by its image and text."""
        target.obj.Resources = Dictionary(Font=Dictionary({self.font_name: self._font}), XObject=Dictionary())
        content = b""
        if (encoded := _encoded(page, picture)) is not None:
            data, entries = encoded
            target.obj.Resources.XObject[_PICTURE] = Stream(self._pdf, data, **entries)
            self._in_memory += len(data)
            drawn = place.before(page.width, 0, 0, -page.height, 0, page.height)
            content = f"q {drawn} cm {_PICTURE} Do Q\n".encode()
        target.obj.Contents = self._stream(content + self._text.content(page, place, self.font_name))
        if "/StructParents" in target.obj:
            del target.obj["/StructParents"]

    @property
    def _font(self) -> pikepdf.Object:
        return self._pdf.Root[self.font_name]

    def _spill(self) -> None:
        """Move everything written so far to a temporary file, and continue from it."""
        folder = tempfile.TemporaryDirectory(prefix="mindnlp-ocr-")
        path = Path(folder.name) / "written.pdf"
        self._pdf.save(path, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
        self._pdf.close()
        self._pdf, self._in_memory = pikepdf.open(path), 0
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = folder

    def _stream(self, content: bytes) -> Stream:
        return Stream(self._pdf, zlib.compress(content), Filter=Name.FlateDecode)

    def _end(self, error: str | None) -> None:
        if not self._started:
            self._start(None)
        pdf = self._pdf
        if not self._kept:  # PDF requires at least one page
            pdf.add_blank_page(page_size=BLANK[2:])
        for index in reversed(range(len(pdf.pages))):
            if self._kept and index not in self._kept:
                del pdf.pages[index]
        self._text.write_font(pdf, self._font)
        del pdf.Root[self.font_name]
        self._describe(pdf)
        pdf.save(self.stream, object_stream_mode=pikepdf.ObjectStreamMode.generate, deterministic_id=True)
        pdf.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _describe(self, pdf: pikepdf.Pdf) -> None:
        title = str(pdf.docinfo.get("/Title", "")) or printable(Path(self.source).name)
        with pdf.open_metadata(set_pikepdf_as_editor=False) as metadata:
            metadata["dc:title"] = printable(title)
            metadata["pdf:Producer"] = f"mindnlp-ocr {__version__}"


def _opened(picture: PagePicture | None) -> pikepdf.Pdf | None:
    """Open the PDF of a page. None for images, and for PDFs that pikepdf cannot open; their pages become images."""
    if picture is None or picture.file is None or picture.pdf_index is None:
        return None
    file: Any = io.BytesIO(picture.file) if isinstance(picture.file, bytes) else picture.file
    try:
        pdf = pikepdf.open(file, password=picture.password or "")
        return pdf if picture.pdf_index < len(pdf.pages) else None
    except pikepdf.PdfError:
        return None


def _encoded(page: Page, picture: PagePicture | None) -> Encoded | None:
    try:
        return None if picture is None else encode(picture)
    except (OCRError, OSError):
        if page.error is None:
            raise
        return None  # the page could not be rendered, so there is nothing to show


def _place(box: tuple[float, float, float, float], rotation: int, page: Page) -> Matrix:
    """Return the transformation from pixels of the displayed page to the coordinates of the PDF page."""
    left, bottom, right, top = box
    across, along = (top - bottom, right - left) if rotation % 180 else (right - left, top - bottom)
    x, y = across / max(page.width, 1), along / max(page.height, 1)
    if rotation == 90:
        return Matrix(0, x, y, 0, left, bottom)
    if rotation == 180:
        return Matrix(-x, 0, 0, y, right, bottom)
    if rotation == 270:
        return Matrix(0, -x, -y, 0, right, top)
    return Matrix(x, 0, 0, -y, left, top)


def _box(page: pikepdf.Page) -> tuple[float, float, float, float]:
    """Return the visible part of a page: left, bottom, right, top."""
    media, crop = (_sorted(box) for box in (page.mediabox, page.cropbox))
    box = (max(media[0], crop[0]), max(media[1], crop[1]), min(media[2], crop[2]), min(media[3], crop[3]))
    return box if box[0] < box[2] and box[1] < box[3] else media


def _sorted(box: pikepdf.Object) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _rotation(page: pikepdf.Page) -> int:
    """Return the clockwise rotation of a page for display, which it may inherit from the page tree."""
    node: Any = page.obj
    for _ in range(100):
        if node is None:
            break
        if "/Rotate" in node:
            return int(node.Rotate) % 360
        node = node.get("/Parent")
    return 0


def _has_text(page: pikepdf.Page) -> bool:
    """Return whether a page, or a form on it, shows text."""
    seen: set[tuple[int, int]] = set()
    waiting: list[Any] = [page.obj]
    while waiting:
        part = waiting.pop()
        if part.objgen in seen:
            continue
        seen.add(part.objgen)
        try:
            if pikepdf.parse_content_stream(part, _SHOWS_TEXT):
                return True
        except pikepdf.PdfError:
            return True  # the content cannot be parsed, so it may contain text
        objects = part.get("/Resources", Dictionary()).get("/XObject", Dictionary())
        waiting += [form for form in objects.as_dict().values() if form.get("/Subtype") == Name.Form]
    return False
