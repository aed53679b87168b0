"""What every output format has in common: :class:`Writer`, and the picture of a page that some of them need."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar

from PIL import Image

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.errors import SetupError

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_CHARACTER = re.compile("[\ufffe\uffff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def encodable(text: str) -> str:
    """The text with U+FFFD in place of what UTF-8 cannot hold, as it stands in file names that are not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def printable(text: str) -> str:
    """The text on one line, as XML, PDF and tables can hold it: control characters and line breaks become one space."""
    return _CONTROL.sub(" ", _NO_CHARACTER.sub("\ufffd", encodable(text)))


@dataclass(frozen=True)
class PagePicture:
    """The picture of a page, for formats that show it. Nothing is opened or rendered before it is asked for.

    Attributes:
        render: gives the page as it was opened, in RGB and of the size that the positions of its lines refer to.
        dpi: pixels an inch, where they are known.
        file: the file that holds the page, or its bytes; None where there is none.
        pdf_index: where ``file`` is a PDF, the index of the page in it, from 0; None for images.
        password: of the PDF.
    """

    render: Callable[[], Image.Image]
    dpi: float | None = None
    file: Path | bytes | None = None
    pdf_index: int | None = None
    password: str | None = None

    def image(self) -> Image.Image:
        """The page in RGB."""
        image = self.render()
        return image if image.mode == "RGB" else image.convert("RGB")


class Writer(ABC):
    """Writes documents to an open binary stream, a page at a time, so that their length needs no memory.

    For every document ``begin``, ``page`` for each of its pages and ``end``; after the last one ``finish``, where a run
    came to its end, and ``close`` in any case. ``close`` leaves a valid file wherever it is called, and the stream open.

    Attributes:
        suffix: what names of files in this format end with.
        one_document: whether the format holds one document only.
    """

    suffix: ClassVar[str]
    one_document: ClassVar[bool] = False

    def __init__(self, stream: BinaryIO, *, heads: bool = False) -> None:
        """``heads``: name every document where it begins, as wanted where several share a text; JSON always does."""
        self.stream, self.heads = stream, heads
        self.source = ""  # of the document that is being written
        self.documents = 0  # that were begun
        self.pages = 0  # of this document
        self._open = self._closed = False

    def begin(self, source: str) -> None:
        """Begin a document, which was given under this name."""
        if self.one_document and self.documents:
            raise SetupError(
                f"{source} is a second document, and a {self.suffix} file holds one: give --output-dir DIR for a file each"
            )
        self.source, self.pages, self._open = source, 0, True
        self.documents += 1
        self._begin()
        self.stream.flush()

    def page(self, page: Page, picture: PagePicture | None = None) -> None:
        """Write the next page. The picture is needed by PDF alone."""
        self.pages += 1
        self._page(page, picture)
        self.stream.flush()

    def end(self, error: str | None = None) -> None:
        """End the document; ``error`` says why it could not be opened, or not be read to its end."""
        self._open = False
        self._end(error)
        self.stream.flush()

    def finish(self, **about: Any) -> None:  # noqa: B027 - most formats have no place for it
        """Take what is known at the end of a run, such as ``model`` and ``cache``; JSON alone has a place for it."""

    def close(self) -> None:
        """Write what has to stand at the end of the file. A document that was broken off is ended, with an error."""
        if self._closed:
            return
        self._closed = True
        if self._open:
            error = f"the run was stopped after {self.pages} of its pages: run it again"
            self.end(error)
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

    def _close(self) -> None:  # noqa: B027 - few formats have an end of their own
        """Write the end of the file."""
