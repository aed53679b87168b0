"""Plain text: paragraphs with an empty line between them, a form feed between pages."""

import os

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.writers.base import PagePicture, Writer


class TextWriter(Writer):
    """The text of :attr:`Document.text` and a line break; a page that could not be read is empty.

    Several documents in one file stand under their names, as ``head`` prints them. Plain text marks no doubtful line.
    """

    suffix = ".txt"

    def piece(self, text: str) -> None:
        """Write a part of the next page as soon as it is read; ``page`` then ends what came in pieces."""
        self.write(f"{self._break(self.pages)}{text}")
        self._in_pieces = True
        self.stream.flush()

    def _break(self, before: int) -> str:
        """What stands before a page, which begins now, where there are others before it."""
        return "\f" if before and not self._in_pieces else ""

    def _begin(self) -> None:
        self._in_pieces = False
        if self.heads:
            self.write(f"{os.linesep if self.documents > 1 else ''}==> {self.source} <==\n")

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        self.write(f"{self._break(self.pages - 1)}{'' if self._in_pieces else page.text}\n")
        self._in_pieces = False

    def _end(self, error: str | None) -> None:
        if self._in_pieces or self.pages == 0:
            self.write("\n")
