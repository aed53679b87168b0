"""The base class of all output formats, :class:`Writer`, and the image of a page that some of them need."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar

from PIL import Image

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.errors import PageError, SetupError, described

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_CHARACTER = re.compile("[\ufffe\uffff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def encodable(text: str) -> str:
    """Replace characters that UTF-8 cannot encode (from file names that are not UTF-8) by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def printable(text: str) -> str:
    """Convert text to one line for XML, PDF and tables: control characters and line breaks become one space."""
    return _CONTROL.sub(" ", _NO_CHARACTER.sub("\ufffd", encodable(text)))


@dataclass(frozen=True)
class PagePicture:
    """The image of a page, for formats that show it. It is opened or rendered on demand.

    Attributes:
        render: returns the page as it was opened, in RGB and with the size to which the positions of its lines refer.
        dpi: resolution, if it is known.
        file: the path of the file that contains the page, or its contents; None if there is no file.
        pdf_index: the index of the page in ``file``, from 0, if that is a PDF; None for images.
        password: password of the PDF.
    """

    render: Callable[[], Image.Image]
    dpi: float | None = None
    file: Path | bytes | None = None
    pdf_index: int | None = None
    password: str | None = None

    def image(self) -> Image.Image:
        """Return the page in RGB."""
        image = self.render()
        return image if image.mode == "RGB" else image.convert("RGB")


class Writer(ABC):
    """Writes documents to an open binary stream, page by page, so that memory does not grow with their length.

    Call ``begin`` for every document, ``page`` for each of its pages, and ``end``. After the last document, call ``finish``
    if the run is complete, and ``close`` in any case. ``close`` always leaves a valid file, and does not close the stream.

    Attributes:
        suffix: suffix of file names in this format.
        one_document: whether a file can contain only one document.
    """

    suffix: ClassVar[str]
    one_document: ClassVar[bool] = False

    def __init__(self, stream: BinaryIO, *, heads: bool = False) -> None:
        """With ``heads``, write the name of every document before its text; JSON always contains the names."""
        self.stream, self.heads = stream, heads
        self.source = ""  # name of the current document
        self.documents = 0  # number of documents begun
        self.pages = 0  # number of pages of the current document
        self.error_code: str | None = None  # of the error of the document that ended
        self._open = self._closed = False

    def begin(self, source: str) -> None:
        """Begin a document with the name ``source``."""
        if self.one_document and self.documents:
            raise SetupError(
                f"{source} is a second document, but a {self.suffix} file contains only one: use --output-dir DIR",
                code="format_one_document",
            )
        self.source, self.pages, self._open = source, 0, True
        self.documents += 1
        self._begin()
        self.stream.flush()

    def page(self, page: Page, picture: PagePicture | None = None) -> None:
        """Write the next page. Only PDF needs the picture."""
        self.pages += 1
        self._page(page, picture)
        self.stream.flush()

    def end(self, error: str | None = None, error_code: str | None = None) -> None:
        """End the document; ``error`` is the reason if it could not be opened or read completely, with its code."""
        self._open, self.error_code = False, error_code
        self._end(error)
        self.stream.flush()

    def finish(self, **about: Any) -> None:  # noqa: B027 - most formats ignore it
        """Add information at the end of a run, such as ``model`` and ``cache``. Only JSON contains it."""

    def close(self) -> None:
        """Write the end of the file. A document that was interrupted is ended with an error."""
        if self._closed:
            return
        self._closed = True
        if self._open:
            message = f"the run was stopped after {self.pages} pages of this document: run it again"
            self.end(**described(PageError(message, code="run_stopped")))
        self._close()
        self.stream.flush()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, text: str) -> None:
        """Write text in UTF-8."""
        self.stream.write(encodable(text).encode())

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _page(self, page: Page, picture: PagePicture | None) -> None: ...

    @abstractmethod
    def _end(self, error: str | None) -> None: ...

    def _close(self) -> None:  # noqa: B027 - most formats need no end
        """Write the end of the file."""
