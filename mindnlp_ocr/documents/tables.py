"""Conversion of HTML tables to cells on a grid, and back to HTML."""

from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser

MOST_CELLS = 5_000  # maximum of a table; only a model that repeats itself writes more
MOST_SPAN = 200


@dataclass(frozen=True)
class Cell:
    """A cell and its place on the grid.

    Attributes:
        text: the text on one line, without markup.
        row, column: position of its top left corner, from 0.
        rows, columns: number of rows and columns that it spans.
        head: whether it is a header cell (``th``).
    """

    text: str
    row: int
    column: int
    rows: int = 1
    columns: int = 1
    head: bool = False


class _Parser(HTMLParser):
    """Collects rows of (text, rows, columns, head). The text of a nested table belongs to the outer cell."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[tuple[list[str], int, int, bool]]] = []
        self._depth = 0
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._depth += 1
        if self._depth > 1 or (tag in ("br", "p", "div") and self._cell is not None):
            if self._cell is not None:
                self._cell.append(" ")
        elif tag == "tr":
            self.rows.append([])
            self._cell = None
        elif tag in ("td", "th"):
            if not self.rows:
                self.rows.append([])
            self._cell = []
            given = dict(attrs)
            self.rows[-1].append((self._cell, _span(given.get("rowspan")), _span(given.get("colspan")), tag == "th"))

    def handle_endtag(self, tag: str) -> None:
        if self._depth > 1 and self._cell is not None:
            self._cell.append(" ")
        if tag == "table":
            self._depth = max(0, self._depth - 1)
        elif self._depth <= 1 and tag in ("td", "th", "tr"):
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def _span(text: str | None) -> int:
    return max(1, min(int(text), MOST_SPAN)) if text and text.isascii() and text.isdigit() else 1


def cells_of(html: str) -> tuple[Cell, ...]:
    """Return the cells of an HTML table, row by row; none if there is no table, and at most ``MOST_CELLS``."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    cells: list[Cell] = []
    taken: dict[int, int] = {}  # the first free row of each column
    row = 0
    for found in parser.rows:
        if not found and max(taken.values(), default=0) <= row:
            continue  # an empty row, unless it consists of cells that began above
        column = 0
        for text, rows, columns, head in found:
            if len(cells) == MOST_CELLS:
                return tuple(cells)
            while taken.get(column, 0) > row:
                column += 1
            cells.append(Cell(" ".join("".join(text).split()), row, column, rows, columns, head))
            for place in range(column, column + columns):
                taken[place] = row + rows
            column += columns
        row += 1
    return tuple(cells)


def to_html(cells: tuple[Cell, ...]) -> str:
    """Return the table as HTML that contains only rows, cells, spans and escaped text."""
    rows: list[list[str]] = [[] for _ in range(1 + max((cell.row for cell in cells), default=-1))]
    for cell in cells:
        tag = "th" if cell.head else "td"
        spans = "".join(
            f' {name}="{value}"' for name, value in (("rowspan", cell.rows), ("colspan", cell.columns)) if value > 1
        )
        rows[cell.row].append(f"<{tag}{spans}>{escape(cell.text, quote=False)}</{tag}>")
    return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>" if rows else ""


def has_spans(cells: tuple[Cell, ...]) -> bool:
    """Return whether a cell spans several rows or columns, which Markdown cannot represent."""
    return any(cell.rows > 1 or cell.columns > 1 for cell in cells)
