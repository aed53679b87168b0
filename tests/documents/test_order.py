"""Tests of the reading order: columns, headings across columns, tables and paragraphs."""

import random

import pytest

from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.result import Box, Line

HEIGHT, LEADING = 20.0, 26.0


def line(text: str, left: float, top: float, width: float, height: float = HEIGHT) -> Line:
    return Line(text=text, box=Box(left, top, left + width, top + height))


def column(name: str, left: float, top: float, count: int, width: float = 400.0) -> list[Line]:
    """Create running text: full lines and a short last line."""
    widths = [width] * (count - 1) + [width * 0.4]
    return [line(f"{name}{i}", left, top + i * LEADING, w) for i, w in enumerate(widths)]


def texts(lines: list[Line]) -> list[str]:
    """Return the order of lines, and check that it does not depend on the order of detection."""
    orders = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(lines, len(lines))
        orders.append([found.text for block in arranged(shuffled) for found in block.lines])
    assert orders[0] == orders[1] == orders[2]
    return orders[0]


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def test_the_left_column_is_read_before_the_right_one() -> None:
    page = column("a", 50, 100, 8) + column("b", 500, 100, 9)
    assert texts(page) == names("a", 8) + names("b", 9)


def test_headings_and_footers_across_the_columns_stand_where_they_stand() -> None:
    page = [
        line("title", 200, 20, 560, 34),
        *column("a", 50, 100, 5),
        *column("b", 500, 105, 5),
        line("middle", 60, 260, 830),
        *column("c", 50, 320, 5),
        *column("d", 500, 320, 5),
        line("footer", 100, 500, 750),
    ]
    expected = ["title", *names("a", 5), *names("b", 5), "middle", *names("c", 5), *names("d", 5), "footer"]
    assert texts(page) == expected


def test_three_columns() -> None:
    page = column("a", 0, 0, 6, 280) + column("b", 320, 3, 6, 280) + column("c", 640, 0, 6, 280)
    assert texts(page) == names("a", 6) + names("b", 6) + names("c", 6)


def test_the_cells_of_a_table_row_stay_together_in_their_order() -> None:
    rows = [("item", "amount", "price"), ("paper", "2", "3.50"), ("ink", "1", "12.00"), ("pens", "10", "7.90")]
    page = [
        line(cell, 50 + 300 * i, 100 + 30 * row, 12.0 * len(cell))
        for row, cells in enumerate(rows)
        for i, cell in enumerate(cells)
    ]
    (block,) = arranged(page)
    assert block.kind == "table"
    assert block.text == "\n".join("\t".join(cells) for cells in rows)


def test_a_label_and_its_value_are_one_row_also_where_one_is_a_little_higher() -> None:
    page = [line("Date:", 50, 100, 60), line("2026-11-24", 300, 104, 120), line("Name:", 50, 130, 60)]
    assert [[found.text for found in row] for block in arranged(page) for row in block.rows] == [
        ["Date:", "2026-11-24"],
        ["Name:"],
    ]


def test_paragraphs_are_blocks_and_a_large_line_is_a_title() -> None:
    page = [line("heading", 50, 0, 300, 36), *column("a", 50, 70, 4), *column("b", 50, 70 + 4 * LEADING + 24, 3)]
    blocks = arranged(page)
    assert [(block.kind, block.lines[0].text, len(block.lines)) for block in blocks] == [
        ("title", "heading", 1),
        ("text", "a0", 4),
        ("text", "b0", 3),
    ]
    assert blocks[1].box == Box(50, 70, 450, 70 + 3 * LEADING + HEIGHT)


@pytest.mark.parametrize("lines", [[], [line("only", 0, 0, 50)]], ids=["none", "one"])
def test_pages_of_no_line_or_one(lines: list[Line]) -> None:
    assert texts(lines) == [found.text for found in lines]
