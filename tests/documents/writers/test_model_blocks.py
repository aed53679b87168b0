"""Tests of blocks that a model detected, in all formats: tables, formulas, code, figures, paragraphs and rotated text."""

import json
import re
from itertools import pairwise

import pytest
from lxml import etree

from mindnlp_ocr.documents.regions import blocks_of
from mindnlp_ocr.documents.result import Block, Box, Document, Page
from mindnlp_ocr.documents.tables import MOST_CELLS, cells_of, has_spans, to_html
from mindnlp_ocr.documents.writers.words import placed
from tests.documents.writers.pages import block, line, page, written

PARAGRAPH = "It was a bright cold day in April, and the clocks were striking thirteen over the whole of the town."
HTML = '<table><tr><th rowspan="2">Name</th><td>a &lt; b</td></tr><tr><td>2</td></tr></table>'
FOUND = [
    {"type": "header", "bbox": [0.1, 0.01, 0.9, 0.04], "content": "Running head"},
    {"type": "text", "label": "paragraph_title", "bbox": [0.1, 0.05, 0.9, 0.1], "content": "x"},
    {"type": "title", "label": "paragraph_title", "bbox": [0.1, 0.05, 0.9, 0.1], "content": "Part"},
    {"type": "text", "bbox": [0.1, 0.1, 0.4, 0.4], "content": PARAGRAPH, "merge_prev": False},
    {"type": "image", "bbox": [0.5, 0.1, 0.9, 0.4], "content": None},
    {"type": "text", "bbox": [0.1, 0.41, 0.4, 0.45], "content": "It goes on with \\(a_1 * b\\).", "merge_prev": True},
    {"type": "text", "label": "list_item", "bbox": [0.1, 0.46, 0.4, 0.49], "content": "first"},
    {"type": "table", "bbox": [0.1, 0.5, 0.9, 0.7], "content": HTML},
    {"type": "equation", "bbox": [0.1, 0.7, 0.9, 0.75], "content": "\\[\nx_i = \\frac{1}{2}\n\\]"},
    {"type": "code", "bbox": [0.1, 0.75, 0.9, 0.85], "content": "```python\nif x:\n    print(x)\n```"},
    {"type": "aside_text", "bbox": [0.95, 0.1, 1.0, 0.9], "angle": 90, "content": "in the margin"},
    {"type": "text", "bbox": [0.1, 0.9, 0.9, 0.95], "content": "  "},
]


@pytest.fixture
def read() -> Page:
    blocks = blocks_of(FOUND, (800, 600), lambda logprobs: (None, False))
    return page(*blocks, layout="model")


def text_of(name: str, one: Page) -> str:
    return written(name, Document(source="a.png", pages=(one,))).decode()


def test_markdown_has_levels_html_formulas_fences_and_whole_paragraphs(read: Page) -> None:
    assert text_of("markdown", read) == (
        f"Running head\n\n## x\n\n## Part\n\n{PARAGRAPH} It goes on with $a_1 * b$.\n\n- first\n\n{HTML}\n\n"
        "$$\nx_i = \\frac{1}{2}\n$$\n\n```\nif x:\n    print(x)\n```\n\nin the margin\n"
    )


def test_plain_text_keeps_what_goes_on_and_leaves_figures_out(read: Page) -> None:
    assert "thirteen over the whole of the town.\nIt goes on" in text_of("text", read)
    assert "Name\ta < b\n2" in text_of("text", read)
    assert "\n\n\n" not in text_of("text", read)


def test_json_says_all_of_it(read: Page) -> None:
    [result] = json.loads(text_of("json", read))["results"]
    blocks = {one["label"]: one for one in result["pages"][0]["blocks"]}
    assert blocks["table"]["html"] == HTML
    assert blocks["equation"]["latex"] == "x_i = \\frac{1}{2}"
    assert (blocks["image"]["kind"], blocks["image"]["lines"]) == ("figure", [])
    assert (blocks["aside_text"]["kind"], blocks["aside_text"]["angle"]) == ("aside", 90)
    assert result["pages"][0]["blocks"][-1]["text"] == "in the margin"  # nothing was read in the last one


def test_hocr_alto_and_tsv_have_every_block_and_word(read: Page) -> None:
    for name in ("hocr", "alto"):
        etree.fromstring(text_of(name, read).encode())
    hocr, alto, tsv = (text_of(name, read) for name in ("hocr", "alto", "tsv"))
    assert hocr.count('class="ocr_carea"') + hocr.count('class="ocr_photo"') == len(read.blocks)
    assert alto.count("<Illustration") == 1
    for text in (hocr, alto, tsv):
        assert all(word in text for word in ("striking", "thirteen", "Name", "margin"))
    assert len(re.findall("^2\t", tsv, re.MULTILINE)) == len(read.blocks)


def test_a_paragraph_is_parted_into_lines_that_fit_its_box(read: Page) -> None:
    paragraph = next(one for one in placed(read).blocks if one.text.startswith("It was"))
    lines = paragraph.lines
    assert len(lines) > 3
    assert " ".join(one.text for one in lines) == PARAGRAPH
    assert [one.row for one in lines] == list(range(len(lines)))
    assert all(above.box.bottom == pytest.approx(below.box.top) for above, below in pairwise(lines))
    assert Box.around(one.box for one in lines) == pytest.approx(paragraph.box)
    table = next(one for one in placed(read).blocks if one.kind == "table")
    assert table == next(one for one in read.blocks if one.kind == "table")


def test_text_without_blanks_is_parted_between_characters() -> None:
    chinese = "由模型查找的版面块在各种输出格式中都保留其位置和文字" * 3
    one = block(line(chinese, 100, 100, 300, 300)).model_copy(update={"label": "text"})
    lines = placed(page(one, layout="model")).lines
    assert "".join(part.text for part in lines) == chinese
    assert len(lines) > 3


def test_a_line_of_a_gap_and_an_empty_box_are_left_as_they_are() -> None:
    gap, empty = block(line(PARAGRAPH, 0, 0, 100, 300)), block(line("x", 5, 5, 5, 5)).model_copy(update={"label": "text"})
    assert placed(page(gap, empty, layout="model")).lines == page(gap, empty).lines


def test_a_heading_of_a_named_document_is_one_level_lower(read: Page) -> None:
    text = written("markdown", Document(source="a.png", pages=(read,)), heads=True).decode()
    assert "### Part" in text


def test_code_with_a_fence_in_it_has_a_longer_one() -> None:
    one = Block(kind="code", box=Box(0, 0, 9, 9), lines=(line("```"), line("x", row=1)))
    assert "````\n```\nx\n````" in text_of("markdown", page(one, layout="model"))


# Tables


def test_cells_lie_on_the_grid_and_come_back_the_same() -> None:
    cells = cells_of(HTML)
    assert [(cell.row, cell.column, cell.rows, cell.columns, cell.text) for cell in cells] == [
        (0, 0, 2, 1, "Name"),
        (0, 1, 1, 1, "a < b"),
        (1, 1, 1, 1, "2"),
    ]
    assert to_html(cells) == HTML
    assert has_spans(cells)


@pytest.mark.parametrize(
    ("html", "texts"),
    [
        ("<td>a<td>b<tr><td>c", ["a", "b", "c"]),
        ("<table><tr><td>a<br>b <script>x</script></td></tr></table>", ["a b x"]),
        ("<table><tr><td>o<table><tr><td>i</td></tr></table>p</td><td>q</td></tr></table>", ["o i p", "q"]),
        ('<table><tr><td colspan="99999999">a</td><td rowspan="x">b</td></tr></table>', ["a", "b"]),
        ("no table", []),
        ("", []),
    ],
)
def test_html_of_any_kind_is_read(html: str, texts: list[str]) -> None:
    cells = cells_of(html)
    assert [" ".join(cell.text.split()) for cell in cells] == texts
    assert "<script" not in to_html(cells)


def test_a_table_without_end_is_cut() -> None:
    assert len(cells_of("<td>x" * (MOST_CELLS + 10))) == MOST_CELLS
