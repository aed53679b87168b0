"""Tables, drawn cell by cell, and their structure in OTSL (Lysak et al. 2023, arXiv:2305.03393) with the text of the cells.

Every place of the grid is a token: ``<fcel>`` is followed by text, ``<ecel>`` is empty, ``<lcel>`` is joined to the cell on
its left, ``<ucel>`` to the cell above, ``<xcel>`` to both; ``<nl>`` ends a row. MinerU2.5 writes tables in the same way.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from training.figures import amount, code, number
from training.fonts import Font, Mask, Store, load_face
from training.texts import Texts

STYLES = ("grid", "grid", "rows", "booktabs", "booktabs", "none", "shaded")
RULED = ("grid", "rows")  # styles with rules between all rows
CONTENTS = ("number", "number", "number", "amount", "code", "entry", "entry", "words", "words")
MOST_ROWS, MOST_COLUMNS = 22, 9
MOST_LINES = 4  # of a cell
MOST_STRETCH = 1.6
SPARSE = 0.12  # share of the columns that are mostly empty
TRIES = 6  # texts that are drawn for a cell until one fits
EMPTY_HEADS = (0.15, 0.04)  # share of the heads of the first column, and of those of the others, that are empty


@dataclass
class Cell:
    """A cell, the rows and columns that it covers, and the lines of its text."""

    row: int
    column: int
    rows: int = 1
    columns: int = 1
    lines: tuple[str, ...] = ()


def otsl(cells: list[Cell], rows: int, columns: int, between: str = " ") -> str:
    """The table as the model writes it.

    Args:
        between: what joins the lines of a cell.
    """
    grid = [["<ecel>"] * columns for _ in range(rows)]
    for cell in cells:
        for row in range(cell.row, cell.row + cell.rows):
            for column in range(cell.column, cell.column + cell.columns):
                left, up = column > cell.column, row > cell.row
                grid[row][column] = "<xcel>" if left and up else "<lcel>" if left else "<ucel>" if up else "<ecel>"
        if text := between.join(cell.lines).strip():
            grid[cell.row][cell.column] = "<fcel>" + text
    return "".join("".join(row) + "<nl>" for row in grid)


def cell_text(texts: Texts, r: Random, content: str, chinese: bool, longest: int) -> str:
    """Return a random text for a cell of this content, one of CONTENTS or "head"; words have about ``longest`` letters."""
    if content == "number":
        return str(r.randint(0, 10 ** r.randint(1, 5))) if r.random() < 0.4 else number(r)
    if content == "amount":
        return amount(r)
    if content == "code":
        return code(r)
    if content == "words":
        length = r.randint(4, longest)
        return texts.snippet(r, "zh" if chinese else "en", length // 2 if chinese else length)
    if content == "head" and r.random() < 0.5:
        word = texts.chinese_word(r) if chinese else texts.word(r)
        return word if r.random() < 0.4 else word.capitalize()
    return texts.entry(r, chinese)


class Table:
    """A table in a part of a page: its style is chosen first, then rows are added as long as they fit.

    Args:
        page: where it is drawn; 255 is ink.
        place: left, top, right and lowest edge in pixels.
        fonts: the fonts of the body and of the head.
        fill: set the rows farther apart, so that the table ends at its lowest edge.

    Attributes:
        bottom: its lower edge; the upper edge if it has fewer than two rows, or too few to fill the place.
        text: the table in OTSL, or an empty text.
    """

    def __init__(
        self,
        store: Store,
        r: Random,
        page: Mask,
        place: tuple[int, int, int, int],
        fonts: tuple[Font, Font],
        size: int,
        chinese: bool,
        fill: bool = False,
    ) -> None:
        self._store, self._r, self._page, self._chinese = store, r, page, chinese
        self._keep = store.script(r, fonts[0]) if chinese else fonts[0].keep
        self._face, self._head_face = (load_face(font.path, size) for font in fonts)
        self._face.spacing = self._head_face.spacing = 0.0
        self._size = size
        self._left, self._top, right, self._limit = place
        self._columns = r.randint(2, max(2, min(MOST_COLUMNS, (right - self._left) // (5 * size))))
        self._style, self._ink = r.choice(STYLES), r.randint(90, 255)
        self._pad = size * r.uniform(0.2, 0.6)
        self._free = int(self._face.height * r.uniform(0.02, 0.7)) // 2  # above and below the text of a cell
        empty = r.choice((0.0, 0.0, 0.05, 0.3))
        self._empty = [r.uniform(0.5, 0.95) if r.random() < SPARSE else empty for _ in range(self._columns)]
        self._bold_column = r.random() < 0.15
        self._contents = [r.choice(CONTENTS) for _ in range(self._columns)]
        if r.random() < 0.7:
            self._contents[0] = r.choice(("entry", "words", "code"))
        self._wraps = r.random() < 0.25
        self._sides = [r.choice(("left", "left", "middle", "right")) for _ in range(self._columns)]
        if r.random() < 0.6:
            self._sides[0] = "left"
        self._middle = r.random() < 0.5  # of the height, instead of the top
        self._group_rules = r.random() < 0.5  # above the cells of several rows, if there are no other rules between rows
        weights = [r.uniform(0.45, 1.7) * (1.7 if name == "words" else 1.0) for name in self._contents]
        ends = np.cumsum([0.0, *weights]) / sum(weights)
        self._edges = [int(self._left + (right - self._left - 1) * end) for end in ends]
        self._cells: list[Cell] = []
        self._rows = [self._top]  # upper edges, and the lower edge of the last
        self._heads = self._add_head()
        self._add_body()
        if fill:
            self._fill()
        self.bottom = self._rows[-1] if len(self._rows) > 2 else self._top
        self.text = ""
        if self.bottom > self._top:
            self.text = otsl(self._cells, len(self._rows) - 1, self._columns, "" if chinese else " ")
            self._draw()

    # Rows

    def _add_row(self, cells: list[Cell], head: bool = False) -> bool:
        """Add a row if it fits. The height is that of its highest cell."""
        face = self._head_face if head else self._face
        lines = max([1, *(len(cell.lines) for cell in cells if cell.rows == 1)])
        bottom = self._rows[-1] + lines * face.height + 2 * self._free + 2
        if bottom > self._limit:
            return False
        self._cells += cells
        self._rows.append(bottom)
        return True

    def _add_head(self) -> int:
        """Add no row, one row, or two rows of which the upper one names groups of columns; return their number."""
        r, k = self._r, self._r.random()
        if k < 0.1:
            return 0
        if k < 0.75 or self._columns < 3:
            return int(self._add_row([self._cell(0, n, "head") for n in range(self._columns)], True))
        upper: list[Cell] = []
        lower: list[Cell] = []
        column = 0
        while column < self._columns:
            count = min(r.choice((1, 1, 2, 2, 3)), self._columns - column)
            if count > 1:
                upper.append(self._cell(0, column, "head", columns=count))
                lower += [self._cell(1, n, "head") for n in range(column, column + count)]
            else:
                upper.append(self._cell(0, column, "head", rows=2))
            column += count
        if not self._add_row(upper, True):
            return 0
        if not self._add_row(lower, True):
            for cell in upper:
                cell.rows = 1
            return 1
        return 2

    def _add_body(self) -> None:
        r, wanted, groups = self._r, self._r.randint(2, MOST_ROWS), self._r.random() < 0.15
        sections = 0.1 if r.random() < 0.15 else 0.0
        until, group = 0, Cell(0, 0)  # the last row of a group, whose first cell is common
        for row in range(len(self._rows) - 1, wanted + self._heads):
            if r.random() < sections and row >= until:
                if not self._add_row([self._cell(row, 0, "words", columns=self._columns)]):
                    break
                continue
            cells = [self._cell(row, n, self._contents[n]) for n in range(1, self._columns)]
            if row >= until:
                until = row + (r.choice((1, 2, 2, 3, 4)) if groups else 1)
                group = self._cell(row, 0, self._contents[0])
                cells.insert(0, group)
                added = self._add_row(cells)
            else:
                added = self._add_row(cells)
                group.rows += added
            if not added:
                break

    def _cell(self, row: int, column: int, content: str, rows: int = 1, columns: int = 1) -> Cell:
        head = content == "head"
        face = self._head_face if head else self._face
        room = self._edges[column + columns] - self._edges[column] - 2 * self._pad
        empty = EMPTY_HEADS[column > 0] if head else self._empty[column] if column else 0.0
        if rows == columns == 1 and self._r.random() < empty:
            return Cell(row, column, rows, columns)
        for _ in range(TRIES):
            text = self._keep(self._words(content))
            if self._wraps and content == "words":
                return Cell(row, column, rows, columns, self._wrapped(text, room))
            if text and face.width(text) <= room:
                break
        line = face.fit(text, room)
        return Cell(row, column, rows, columns, (line,) if line else ())

    def _words(self, content: str) -> str:
        return cell_text(self._store.texts, self._r, content, self._chinese, 70 if self._wraps else 30)

    def _wrapped(self, text: str, room: float) -> tuple[str, ...]:
        lines: list[str] = []
        rest = text.strip()
        while rest and len(lines) < MOST_LINES:
            line = self._face.fit(rest, room)
            if not line:
                break
            lines.append(line)
            rest = rest[len(line) :].strip()
        return tuple(lines)

    def _fill(self) -> None:
        more = (self._limit - self._top) / max(1, self._rows[-1] - self._top)
        if more > MOST_STRETCH:
            self._rows = [self._top]
        self._rows = [self._top + int((y - self._top) * more) for y in self._rows]

    # Ink

    def _draw(self) -> None:
        page, right = self._page, self._edges[-1]
        if self._style == "shaded":
            page[self._top : self._rows[max(1, self._heads)], self._left : right] = self._r.randint(30, 110)
            for row in range(self._heads + 1, len(self._rows) - 1, 2) if self._r.random() < 0.5 else ():
                page[self._rows[row] : self._rows[row + 1], self._left : right] = self._r.randint(12, 50)
        for cell in self._cells:
            self._draw_text(cell)
        if self._style in RULED:
            for cell in self._cells:
                self._draw_rules(cell)
        if self._style == "booktabs":
            for row in {0, self._heads, len(self._rows) - 1}:
                y = self._rows[row]
                page[y : y + self._r.randint(1, 2), self._left : right] = self._ink
            for cell in self._cells if self._heads == 2 else ():
                if cell.columns > 1 and cell.row == 0:
                    x0, x1 = self._edges[cell.column] + 3, self._edges[cell.column + cell.columns] - 3
                    page[self._rows[1] : self._rows[1] + 1, x0:x1] = self._ink

    def _draw_text(self, cell: Cell) -> None:
        head = cell.row < self._heads
        face = self._head_face if head or (self._bold_column and cell.column == 0) else self._face
        x0, x1 = self._edges[cell.column] + self._pad, self._edges[cell.column + cell.columns] - self._pad
        top, bottom = self._rows[cell.row], self._rows[cell.row + cell.rows]
        used = len(cell.lines) * face.height
        y = top + self._free + 1
        ruled = self._style in RULED
        if not ruled and not head and cell.rows > 1 and self._group_rules:
            self._page[top, self._edges[0] : self._edges[-1]] = self._ink
        # Without rules between rows, the text of a cell of several rows stands in the first one, since nothing else shows
        # where the cell begins.
        if (self._middle and (ruled or head or cell.rows == 1)) or bottom - top < used + self._free:
            y = max(top, (top + bottom - used) // 2)
        side = "middle" if cell.columns > 1 else self._sides[cell.column]
        for line in cell.lines:
            free = x1 - x0 - face.width(line)
            x = x0 + max(0.0, {"left": 0.0, "middle": free / 2, "right": free}[side])
            face.draw(self._page, x, y, line)
            y += face.height

    def _draw_rules(self, cell: Cell) -> None:
        page = self._page
        x0, x1 = self._edges[cell.column], self._edges[cell.column + cell.columns]
        y0, y1 = self._rows[cell.row], min(self._rows[cell.row + cell.rows], len(page) - 1)
        for y in (y0, y1):
            page[y, x0 : x1 + 1] = self._ink
        if self._style == "grid":
            for x in (x0, min(x1, page.shape[1] - 1)):
                page[y0 : y1 + 1, x] = self._ink


def draw_table(store: Store, r: Random, height: int, width: int) -> tuple[Mask, str]:
    """Draw a table that fills most of a picture, as it is cut from a page: with some margin, and sometimes with a part of
    the line below. Returns the picture and the OTSL, which is empty if there are too few rows."""
    chinese = bool(store.chinese) and r.random() < 0.42
    font = r.choice(store.chinese_body if chinese else store.latin_body)
    head_font = store.relative(r, font) if not chinese and r.random() < 0.6 else font
    if not chinese and store.monospaced and r.random() < 0.06:
        font = head_font = r.choice(store.monospaced)
    size = r.choice((11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24))
    page = np.zeros((height, width), np.uint8)
    left, top, right, bottom = (int(size * r.choice((0.05, 0.2, 0.4, 0.8)) * r.random()) for _ in range(4))
    below = int(size * r.uniform(0.6, 1.2)) if r.random() < 0.15 else 0  # with a part of the next line
    place = (left, top, width - right, height - bottom - below - 1)
    table = Table(store, r, page, place, (font, head_font), size, chinese, fill=True)
    if below and table.text:
        face = load_face(font.path, size)
        text = font.keep(store.texts.snippet(r, "zh" if chinese else "en", 60))
        face.draw(page, left, height - int(below * r.uniform(0.2, 0.7)), face.fit(text, width - left))
    return page, table.text
