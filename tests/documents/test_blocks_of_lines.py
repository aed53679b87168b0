"""Tests of ``--layout model`` where the lines of a page are read one by one and put into the blocks of the model."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.regions import blocks_of_lines
from mindnlp_ocr.documents.result import Box, Line, Page
from mindnlp_ocr.errors import PageError, SetupError
from tests.documents.scripted import LAYOUT, Answer, ScriptedModel, box

SIZE = (1000, 1000)


def block(left: float, top: float, right: float, bottom: float, kind: str = "text") -> dict[str, Any]:
    """Create a detected block; its box is in thousandths of a page of 1000 x 1000 pixels."""
    return {"type": kind, "label": kind, "bbox": [left / 1000, top / 1000, right / 1000, bottom / 1000]}


def line(text: str, left: float, top: float, right: float = 500, bottom: float | None = None) -> Line:
    return Line(text=text, box=Box(left, top, right, top + 20 if bottom is None else bottom))


def test_a_line_belongs_to_the_block_that_contains_most_of_it_and_blocks_keep_the_order_of_the_model() -> None:
    lines = [line("first", 100, 100), line("second", 100, 130), line("beside", 600, 100, 900)]
    found = [block(580, 90, 920, 140), block(90, 90, 510, 142)]  # the second box ends within its last line
    blocks, outside = blocks_of_lines(found, lines, SIZE)
    assert [b.text for b in blocks] == ["beside", "first\nsecond"]
    assert blocks[1].box == (100, 100, 500, 150)
    assert outside == []


def test_a_line_between_two_blocks_is_in_one_of_them_only() -> None:
    blocks, outside = blocks_of_lines(
        [block(0, 0, 500, 109), block(0, 109, 500, 200)], [line("a", 0, 50), line("b", 0, 100), line("c", 0, 150)], SIZE
    )
    assert [b.text for b in blocks] == ["a", "b\nc"]
    assert outside == []


def test_lines_outside_of_all_blocks_are_returned_and_blocks_without_lines_are_omitted_except_figures() -> None:
    stray = line("stray", 100, 800)
    found = [block(0, 0, 500, 100), block(0, 200, 500, 400, "image"), block(0, 500, 500, 600, "title")]
    blocks, outside = blocks_of_lines(found, [line("Heading", 10, 520), stray], SIZE)
    assert [(b.kind, b.text, b.level) for b in blocks] == [("figure", "", None), ("title", "Heading", 1)]
    assert blocks[0].box == (0, 200, 500, 400)
    assert outside == [stray]


def test_text_in_a_list_is_an_item_and_a_list_without_items_takes_its_lines() -> None:
    found = [block(0, 0, 500, 100, "list"), block(0, 0, 500, 50), block(0, 300, 500, 400, "list")]
    blocks, _ = blocks_of_lines(found, [line("1. one", 0, 10), line("2. two", 0, 60), line("3. three", 0, 310)], SIZE)
    assert [(b.kind, b.text) for b in blocks] == [("list", "2. two"), ("list", "1. one"), ("list", "3. three")]


def test_the_rows_of_a_table_are_kept_over_a_gap() -> None:
    cells = [line("a", 0, 0, 90), line("1", 200, 0, 290), line("b", 0, 30, 90), line("2", 200, 30, 290)]
    cells += [line("sum", 0, 200, 90), line("3", 200, 200, 290)]
    [table], _ = blocks_of_lines([block(0, 0, 300, 230, "table")], cells[::-1], SIZE)
    assert table.kind == "table"
    assert table.text == "a\t1\nb\t2\nsum\t3"


# Whole pages


def read(folder: Path, image: Image.Image, layout: Answer, **model_layout: Any) -> Page:
    """Read a page whose lines are numbered in the order of their requests."""
    count = iter(range(1000))

    def script(prompt: str, _: Image.Image) -> Answer:
        return layout if prompt == LAYOUT else f"line {next(count)}"

    settings = {"read_by": "lines", **model_layout}
    model: Any = ScriptedModel(script, folder, layout="model", model_layout=settings, lines={"prompt": "line", "height": 28})
    return DocumentReader(model, threads=1).read_image(image)


def test_every_line_is_read_once_and_the_model_names_the_blocks(tmp_path: Path, letter: Image.Image) -> None:
    by_lines = read(tmp_path, letter, "")
    page = read(tmp_path, letter, box(0, 0, 1000, 200, "title") + box(0, 200, 1000, 600))
    assert [b.kind for b in page.blocks][:2] == ["title", "text"]
    assert page.layout == "model"
    texts = [sorted(line.text for line in p.lines) for p in (page, by_lines)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == len(texts[0]) > 8
    tops = [line.box.top for b in page.blocks[:2] for line in b.lines]
    assert max(tops) < 0.62 * letter.height
    assert page.warnings == ()


def test_lines_outside_of_the_blocks_are_left_out_if_the_settings_say_so(tmp_path: Path, letter: Image.Image) -> None:
    page = read(tmp_path, letter, box(0, 0, 1000, 200, "title"), fill_gaps=False)
    assert [b.kind for b in page.blocks] == ["title"]
    assert all(line.box.top < 0.2 * letter.height for line in page.lines)


@pytest.mark.parametrize(
    ("layout", "warning"),
    [
        ("", "The model found no block with text; the blocks were composed from the lines instead."),
        (PageError("too long"), "The blocks of the page were composed from its lines instead: the layout of the page could"),
    ],
)
def test_without_a_layout_no_line_is_lost(tmp_path: Path, letter: Image.Image, layout: Answer, warning: str) -> None:
    page = read(tmp_path, letter, layout)
    assert len(page.lines) > 8
    assert page.error is None
    assert page.warnings[0].startswith(warning)


def test_blocks_cannot_be_read_by_lines_without_settings_for_lines(tmp_path: Path) -> None:
    model: Any = ScriptedModel(lambda *_: "", tmp_path, layout="model", model_layout={"read_by": "lines"})
    with pytest.raises(SetupError, match="read_by is 'lines', but it has no settings for lines: add them"):
        DocumentReader(model)
