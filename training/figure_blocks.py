"""Tables and pictures on a page, with their captions."""

import numpy as np

from training.code_blocks import CodeSheet
from training.fonts import Mask
from training.pictures import chart, diagram, drawing, photograph
from training.tables import Table


class FigureSheet(CodeSheet):
    """A page with tables and pictures.

    Attributes:
        size: of the letters of running text, in pixels.
        figures: the number of pictures with a caption so far.
        tables: the number of tables so far.
    """

    size: int
    figures = tables = 0

    def _caption(self, kind: str, left: int, right: int, y: int, stop: int, count: int) -> int:
        r = self.r
        face = self._face(self.font, self.size * r.uniform(0.8, 1.0))
        words = ("Table", "TABLE", "Tab.", "表") if kind == "table_caption" else ("Figure", "Fig.", "FIGURE", "图")
        head = f"{words[3]}{count}" if self.chinese else f"{r.choice(words[:3])} {count}"
        text = head + r.choice((": ", ". ", " ", "  ")) + self._words(r.randint(10, 120))
        return self._lines(kind, face, text, (left, right, y, stop), r.random() < 0.6, 1.1)

    def _table(self, left: int, right: int, y: int, stop: int) -> int:
        r = self.r
        size = max(7, round(self.size * r.uniform(0.78, 1.0)))
        if stop - y < 7 * size:
            return y
        self.tables += 1
        captioned, above = r.random() < 0.6, r.random() < 0.65
        if captioned and above:
            y = self._caption("table_caption", left, right, y, stop - 4 * size, self.tables) + r.randint(2, self.size)
        narrow = int((right - left) * (r.uniform(0.55, 0.95) if r.random() < 0.3 else 1.0))
        x = left + int((right - left - narrow) / 2 * (r.random() < 0.7))
        limit = min(stop, self.height - 2)
        head_font = self.store.relative(r, self.font) if not self.chinese and r.random() < 0.6 else self.font
        place = (x, y, min(x + narrow, self.width - 1), limit)
        table = Table(self.store, r, self.page, place, (self.font, head_font), size, self.chinese)
        if table.bottom <= y:
            return y
        self._add("table", x - 2, y - 2, x + narrow + 3, table.bottom + 3)
        end = table.bottom + 2
        if captioned and not above:
            end = self._caption("table_caption", left, right, end + r.randint(2, self.size), stop, self.tables)
        return end + int(self.size * 0.3)

    def _picture(self, left: int, right: int, y: int, stop: int) -> int:
        r = self.r
        width = int((right - left) * (r.uniform(0.35, 1.0) if r.random() < 0.6 else 1.0))
        height = min(int(width * r.uniform(0.3, 1.1)), int((stop - y) * r.uniform(0.3, 0.95)))
        if height < 4 * self.size or width < 5 * self.size:
            return y
        x = left + int((right - left - width) * r.choice((0, 0.5, 0.5, 0.5, 1)))
        picture = self._drawn_picture(height, width)
        part = self.page[y : y + height, x : x + width]
        np.maximum(part, picture[: part.shape[0], : part.shape[1]], out=part)
        if not self._add("image", x, y, x + width, y + height):
            return y
        end = y + height
        if r.random() < 0.6:
            self.figures += 1
            end = self._caption("image_caption", left, right, end + r.randint(2, self.size), stop, self.figures)
        return max(end, y + height) + int(self.size * 0.4)

    def _drawn_picture(self, height: int, width: int) -> Mask:
        r = self.r
        kind = r.choice(("photograph", "chart", "chart", "diagram", "drawing"))
        if kind == "photograph":
            return photograph(r, height, width)
        if kind == "chart":
            return chart(r, height, width, self._face(self.font, self.size * 0.7), self.size)
        if kind == "diagram":
            return diagram(r, height, width, self._face(self.font, self.size * r.uniform(0.7, 0.95)), self._words)
        return drawing(r, height, width)
