"""Searchable PDF: pages as they look, with their text in place, unseen."""

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

USUAL_DPI = 200.0  # of pictures that do not say theirs, or say what cannot be
DPI = range(50, 2401)
LONGEST = 14_400  # points; a side of a page may be no longer
IN_MEMORY = 64 << 20  # bytes of pictures that are held before all that was written goes to a temporary file
BLANK = (0.0, 0.0, 595.0, 842.0)  # A4
_SHOWS_TEXT = "Tj TJ ' \""
_PICTURE = "/PictureOCR"  # its name among the resources of a page


class PdfWriter(Writer):
    """A PDF whose text can be searched, selected and copied.

    A page of a PDF stays what it is, and gains its text; one that has text already is replaced by its picture, for else its
    text would be there twice. A page that was read from its text layer, or could not be read, stays as it is. Of an image
    the page is its picture. The file is written at the end; until then what is too much for memory is in a temporary file.
    """

    suffix = ".pdf"
    one_document = True
    font_name = "/BlankOCR"  # among the resources of a page

    def _begin(self) -> None:
        self._started = False  # with the first page it is known whether this is a PDF
        self._text = TextLayer()
        self._kept: set[int] = set()  # the indices of the pages that were written

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
        self._pdf.Root[self.font_name] = self._pdf.make_indirect(Dictionary())  # where it is found again, until the end
        self._in_memory = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def _from_picture(self, page: Page, picture: PagePicture | None) -> None:
        """A new page."""
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
        """A page of the PDF that was read."""
        if page.error is not None or page.layout == "text-layer" or not page.lines:
            return
        place = _place(_box(target), _rotation(target), page)
        if _has_text(target):
            self._replace(page, picture, target, place)
            return
        target.add_resource(self._font, Name.Font, Name(self.font_name), replace_existing=True)
        content = self._text.content(page, place, self.font_name)
        target.contents_add(self._stream(content), prepend=True)  # before, so that nothing of the page moves it

    def _replace(self, page: Page, picture: PagePicture | None, target: pikepdf.Page, place: Matrix) -> None:
        """Make the picture and the text all that a page shows."""
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
        """Go on from a file that holds all that was written."""
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
        if not self._kept:  # PDF knows no document without a page
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
    """The PDF that a page belongs to; None for images, and for what pikepdf cannot open: its pages become pictures."""
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
        return None  # why the page could not be read: there is nothing to see


def _place(box: tuple[float, float, float, float], rotation: int, page: Page) -> Matrix:
    """From the pixels of a page as it is shown to the space of its PDF page."""
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
    """The part of a page that is shown: left, bottom, right, top."""
    media, crop = (_sorted(box) for box in (page.mediabox, page.cropbox))
    box = (max(media[0], crop[0]), max(media[1], crop[1]), min(media[2], crop[2]), min(media[3], crop[3]))
    return box if box[0] < box[2] and box[1] < box[3] else media


def _sorted(box: pikepdf.Object) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _rotation(page: pikepdf.Page) -> int:
    """By how much a page is turned clockwise when it is shown; the tree above a page may say so."""
    node: Any = page.obj
    for _ in range(100):
        if node is None:
            break
        if "/Rotate" in node:
            return int(node.Rotate) % 360
        node = node.get("/Parent")
    return 0


def _has_text(page: pikepdf.Page) -> bool:
    """Whether something shows text on a page, or in a form that is drawn on it."""
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
            return True  # as good as text: nobody knows what it shows
        objects = part.get("/Resources", Dictionary()).get("/XObject", Dictionary())
        waiting += [form for form in objects.as_dict().values() if form.get("/Subtype") == Name.Form]
    return False
