"""Comparison of a table that a model wrote with the detected lines of the same table."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from mindnlp_ocr.documents.result import Box, Line
from mindnlp_ocr.documents.tables import Cell, cells_of, to_html

AGREEMENT = 0.9  # minimum agreement of the texts; docs/documents.md contains the trial
OVERLAP = 0.75  # maximum overlap of adjacent columns or rows, as a share of the median line height
SHORT = 2  # a text of up to so many characters may occur in a cell by chance


def trusted(content: str, lines: Sequence[Line]) -> str | None:
    """Return the HTML of a table that a model wrote, or None if it cannot be trusted.

    A table is trusted if it has at least two rows and two columns, its text agrees with that of the lines, no cell is
    repeated, and the lines that are found in its cells lie in the order of its rows and columns.
    """
    cells = cells_of(content)
    if min(len({cell.row for cell in cells}), len({cell.column for cell in cells})) < 2:
        return None
    same_text = agreement((cell.text for cell in cells), (line.text for line in lines)) >= AGREEMENT
    return to_html(cells) if same_text and not repeats(cells, lines) and in_order(cells, lines) else None


def agreement(one: Iterable[str], other: Iterable[str]) -> float:
    """Return the share of two texts that is the same, from 0 to 1, by the pairs of adjacent characters of their words.

    The beginning and the end of a word count as characters. The order of the words does not matter, because lines may join
    cells, and cells may join lines.
    """
    first, second = _pairs(one), _pairs(other)
    return 2 * (first & second).total() / max(1, first.total() + second.total())


def _pairs(texts: Iterable[str]) -> Counter[str]:
    return Counter(a + b for text in texts for word in text.split() for a, b in pairwise(f" {word} "))


def repeats(cells: Sequence[Cell], lines: Sequence[Line]) -> bool:
    """Return whether several cells have the same text, which occurs less often in the lines.

    A text that is wrapped over several lines does not count as occurring in them.
    """
    text = "\n".join(_without_spaces(line.text) for line in lines)
    counts = Counter(_without_spaces(cell.text) for cell in cells)
    return any(count > max(1, text.count(content)) for content, count in counts.items() if len(content) > SHORT)


def in_order(cells: Sequence[Cell], lines: Sequence[Line]) -> bool:
    """Return whether the lines lie in the order of the rows and columns of the cells that contain them.

    Only lines whose text is unique, and found in exactly one cell, are considered.
    """
    counts = Counter(_without_spaces(line.text) for line in lines)
    contents = [(_without_spaces(cell.text), cell) for cell in cells]
    placed: list[tuple[Cell, Box]] = []
    for line in lines:
        text = _without_spaces(line.text)
        owners = [cell for content, cell in contents if text == content or (len(text) > SHORT and text in content)]
        if len(owners) == counts[text] == 1:
            placed.append((owners[0], line.box))
    tolerance = OVERLAP * median(line.box.height for line in lines)
    return all(
        (one.column + one.columns > other.column or box.right <= beside.left + tolerance)
        and (one.row + one.rows > other.row or box.bottom <= beside.top + tolerance)
        for one, box in placed
        for other, beside in placed
    )


def _without_spaces(text: str) -> str:
    return "".join(text.split())
