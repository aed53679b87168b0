"""Reading order: grouping of lines into columns, rows and blocks.

A page is split along its gutters. A gutter is a vertical gap that few lines cross, with running text on both sides. The
lines that cross it (titles, captions of wide figures, headers) divide the page into zones. In every zone, the left column is
read before the right one. A region without a gutter is read row by row, so the cells of a table row stay together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindnlp_ocr.documents.result import Block, BlockKind, Box, Line

MAX_CROSSING = 0.25  # share of the lines that may cross a gutter
MIN_COLUMN_LINES = 3
MIN_COLUMN_WIDTH = 9.0  # minimum width of a column, in line heights
MIN_FILL = 0.55  # median width of the lines of a column, as a share of the column
ROW_OVERLAP = 0.5  # minimum vertical overlap of lines in a row, as a share of the smaller height
PARAGRAPH_GAP = 0.75  # additional gap before a new block, in line heights, beyond the usual gap in the block
TITLE_HEIGHT = 1.35  # minimum line height of a heading, as a multiple of the median
TABLE_ROWS = 2  # minimum number of rows with several cells in a table


class _Row(NamedTuple):
    lines: list[Line]
    box: Box


def arranged(lines: Sequence[Line]) -> tuple[Block, ...]:
    """Group all lines of a page into blocks, in reading order."""
    if not lines:
        return ()
    size = float(np.median([line.box.height for line in lines]))
    return tuple(block for region in _regions(list(lines), size) for block in _blocks(region, size))


def _regions(lines: list[Line], size: float) -> list[list[Line]]:
    """Split lines into regions without a gutter, in reading order."""
    gutter = _gutter(lines, size)
    if gutter is None:
        return [lines]
    regions: list[list[Line]] = []
    zone: list[Line] = []

    def close() -> None:
        for side in (False, True):
            part = [line for line in zone if (_middle_x(line) > gutter) is side]
            if part:
                regions.extend(_regions(part, size))
        zone.clear()

    crossing: list[Line] = []
    for line in sorted(lines, key=lambda line: _middle_y(line)):
        if line.box.left < gutter < line.box.right:
            close()
            crossing.append(line)
        else:
            if crossing:
                regions.append(crossing)
                crossing = []
            zone.append(line)
    close()
    if crossing:
        regions.append(crossing)
    return regions


def _gutter(lines: list[Line], size: float) -> float | None:
    """Return the horizontal position of the gutter that the fewest lines cross, or None if there is no gutter."""
    edges = sorted({round(line.box.right) for line in lines})
    best: tuple[int, float] | None = None
    found = None
    for edge in edges:
        starts = [line.box.left for line in lines if line.box.left >= edge]
        if not starts:
            continue
        gap = min(starts) - edge
        x = edge + gap / 2
        crossing = [line for line in lines if line.box.left < x < line.box.right]
        left = [line for line in lines if line.box.right <= x]
        right = [line for line in lines if line.box.left >= x]
        if gap < 0.5 * size or len(crossing) > MAX_CROSSING * len(lines):
            continue
        if not (_is_column(left, size) and _is_column(right, size)):
            continue
        rank = (len(crossing), -gap)
        if best is None or rank < best:
            best, found = rank, x
    return found


def _is_column(lines: Sequence[Line], size: float) -> bool:
    """Return whether lines look like running text: enough lines in a wide column that most of them fill."""
    rows = _rows(lines)
    if len(rows) < MIN_COLUMN_LINES:
        return False
    left, right = min(line.box.left for line in lines), np.percentile([row.box.right for row in rows], 90)
    column = float(right) - left
    widths = [sum(line.box.width for line in row.lines) for row in rows]
    return column >= MIN_COLUMN_WIDTH * size and float(np.median(widths)) >= MIN_FILL * column


def _rows(lines: Sequence[Line]) -> list[_Row]:
    """Group lines into rows, from top to bottom; the lines of a row are sorted from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: _middle_y(line)):
        if rows and _beside(rows[-1], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [_Row(sorted(row, key=lambda line: line.box.left), Box.around(line.box for line in row)) for row in rows]


def _beside(row: Sequence[Line], line: Line) -> bool:
    """Return whether a line belongs to a row: it is at the same height as all its lines and overlaps none of them."""
    for other in row:
        shared = min(line.box.bottom, other.box.bottom) - max(line.box.top, other.box.top)
        if shared < ROW_OVERLAP * min(line.box.height, other.box.height):
            return False
        overlap = min(line.box.right, other.box.right) - max(line.box.left, other.box.left)
        if overlap > 0.5 * min(line.box.width, other.box.width):
            return False
    return True


def _blocks(lines: Sequence[Line], size: float) -> list[Block]:
    """Group the rows of a region into paragraphs, headings and tables."""
    groups: list[list[_Row]] = []
    for row in _rows(lines):
        if groups and _continues(groups[-1], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [_block(group, size) for group in groups]


def _continues(group: Sequence[_Row], row: _Row) -> bool:
    above = group[-1]
    size = min(above.box.height, row.box.height)
    gap = row.box.top - above.box.bottom
    usual = group[1].box.top - group[0].box.bottom if len(group) > 1 else 0.0
    taller = max(above.box.height, row.box.height) > TITLE_HEIGHT * min(above.box.height, row.box.height)
    same_kind = (len(above.lines) > 1) == (len(row.lines) > 1) or len(group) == 1
    limit = PARAGRAPH_GAP * size + max(0.0, usual)
    return gap <= limit and not (taller and len(above.lines) == len(row.lines) == 1) and (same_kind or gap <= 0.5 * limit)


def _block(rows: Sequence[_Row], size: float) -> Block:
    several = sum(1 for row in rows if len(row.lines) > 1)
    kind: BlockKind = "text"
    if several >= TABLE_ROWS and several >= 0.5 * len(rows):
        kind = "table"
    elif len(rows) <= 2 and several == 0 and min(row.box.height for row in rows) >= TITLE_HEIGHT * size:
        kind = "title"
    lines = tuple(line.model_copy(update={"row": number}) for number, row in enumerate(rows) for line in row.lines)
    return Block(kind=kind, box=Box.around(line.box for line in lines), lines=lines)


def _middle_x(line: Line) -> float:
    return (line.box.left + line.box.right) / 2


def _middle_y(line: Line) -> float:
    return (line.box.top + line.box.bottom) / 2
