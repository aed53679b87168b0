"""Plain text: paragraphs separated by empty lines, and pages by form feeds."""

import os

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.writers.base import PagePicture, Writer


class TextWriter(Writer):
    """Writes the text of :attr:`Document.text` and a line break; a page that could not be read is empty.

    With several documents in one file, each follows a line with its name, as in the output of ``head``. Doubtful lines are
    not marked.
    """

    suffix = ".txt"

    def piece(self, text: str) -> None:
        """Write a part of the next page while it is read; a call of ``page`` must follow the last part."""
        self.write(f"{self._break(self.pages)}{text}")
        self._in_pieces = True
        self.stream.flush()

    def _break(self, before: int) -> str:
        """Return the separator before the current page."""
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
