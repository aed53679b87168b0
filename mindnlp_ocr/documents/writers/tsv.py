"""Tab-separated values, with the columns of ``tesseract page.png - tsv``."""

from mindnlp_ocr.documents.result import Box, Line, Page
from mindnlp_ocr.documents.writers.base import PagePicture, Writer
from mindnlp_ocr.documents.writers.words import pixels, placed, words

HEADER = "level page_num block_num par_num line_num word_num left top width height conf text"
UNKNOWN = "-1"  # confidence of rows other than words, and of words without a confidence


class TsvWriter(Writer):
    """Writes a row for every page, block, paragraph, line and word.

    Page numbers continue over several documents, as Tesseract's do for a list of files. Every block has one paragraph, and
    words have the confidence of their line.
    """

    suffix = ".tsv"

    def _begin(self) -> None:
        if self.documents == 1:
            self._number = 0
            self.write(HEADER.replace(" ", "\t") + "\n")

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        self._number += 1
        page = placed(page)
        rows = [self._row(1, (), Box(0, 0, page.width, page.height), page)]
        for block_number, block in enumerate(page.blocks, 1):
            rows.append(self._row(2, (block_number,), block.box, page))
            rows.append(self._row(3, (block_number, 1), block.box, page))
            for line_number, line in enumerate(block.lines, 1):
                rows += self._line((block_number, 1, line_number), line, page)
        self.write("".join(rows))

    def _line(self, place: tuple[int, ...], line: Line, page: Page) -> list[str]:
        confidence = UNKNOWN if line.confidence is None else f"{100 * line.confidence:.2f}"
        rows = [self._row(4, place, line.box, page)]
        for number, word in enumerate(words(line), 1):
            rows.append(self._row(5, (*place, number), word.box, page, confidence, word.text))
        return rows

    def _row(
        self, level: int, place: tuple[int, ...], box: Box, page: Page, confidence: str = UNKNOWN, text: str = ""
    ) -> str:
        left, top, right, bottom = pixels(box, page)
        numbers = (level, self._number, *place, *[0] * (4 - len(place)), left, top, right - left, bottom - top)
        return "\t".join([*map(str, numbers), confidence, text]) + "\n"

    def _end(self, error: str | None) -> None:
        pass
