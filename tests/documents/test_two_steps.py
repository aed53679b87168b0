"""Tests of ``--layout model`` with a scripted model: conversion to blocks, and handling of malformed answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.settings import ModelLayoutSettings
from mindnlp_ocr.documents.source import SourcePage
from mindnlp_ocr.documents.two_steps import TwoSteps
from mindnlp_ocr.errors import PageError, SetupError
from tests.documents.scripted import FORMULA, LAYOUT, TABLE, TEXT, Answer, ScriptedModel, box, by_prompt

BLANK = Image.new("RGB", (800, 1000), "white")
LINES = {"prompt": "line", "height": 28}
Read = Callable[..., Page]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a page with a model that gives these answers; a blank one without a search for lines outside of its blocks."""

    def read(answers: dict[str, Answer] | Any, image: Image.Image = BLANK, lines: Any = LINES, **options: Any) -> Page:
        script = by_prompt({TEXT: "words", "line": "a line", **answers}) if isinstance(answers, dict) else answers
        settings = {
            "layout": "model",
            "model_layout": {"most_boxes": 20, "fill_gaps": image is not BLANK},
            "page_prompt": "page",
            "lines": lines,
        }
        model: Any = ScriptedModel(script, tmp_path, **settings)
        page = DocumentReader(model, threads=1, **options).read_image(image)
        page_model[:] = [model]
        return page

    page_model: list[Any] = []
    return read


def test_every_kind_of_block_is_asked_for_with_its_prompt_and_keeps_place_and_kind(read: Read) -> None:
    layout = "\n".join(
        [
            box(50, 20, 950, 40, "header"),
            box(100, 60, 900, 100, "title"),
            box(100, 120, 900, 200, "text"),
            box(100, 220, 900, 400, "table"),
            box(100, 402, 900, 420, "table_caption"),
            box(100, 440, 900, 480, "equation"),
            box(100, 500, 900, 700, "image"),
            box(100, 720, 900, 800, "code"),
            box(450, 960, 550, 980, "page_number"),
        ]
    )
    table = "<fcel>a<fcel>b<nl><fcel>1<ecel><nl>"
    page = read({LAYOUT: layout, TABLE: table, FORMULA: "E = m c^2", TEXT: "some\nwords"})
    kinds = ["header", "title", "text", "table", "caption", "formula", "figure", "code", "footer"]
    assert [block.kind for block in page.blocks] == kinds
    assert [block.label for block in page.blocks][4:6] == ["table_caption", "equation"]
    assert page.layout == "model"
    assert page.blocks[2].box == (80, 120, 720, 200)
    assert page.blocks[2].text == "some\nwords"
    assert page.blocks[3].text == "a\tb\n1\t"
    assert page.blocks[3].html == "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td></td></tr></table>"
    assert page.blocks[5].latex == page.blocks[5].text == "E = m c^2"
    assert page.blocks[6].lines == ()
    assert page.warnings == ()


def test_furniture_is_left_out_on_request(read: Read) -> None:
    layout = box(0, 0, 900, 40, "header") + box(0, 50, 40, 900, "aside_text") + box(100, 120, 900, 200)
    layout += box(100, 900, 900, 940, "page_footnote") + box(450, 960, 550, 980, "page_number")
    assert [block.kind for block in read({LAYOUT: layout}, skip_furniture=True).blocks] == ["text", "footnote"]
    assert len(read({LAYOUT: layout}).blocks) == 5


def test_text_that_is_turned_has_its_corners_where_it_begins(read: Read) -> None:
    page = read({LAYOUT: box(900, 100, 950, 500, turn="right"), TEXT: "up the margin"})
    [block] = page.blocks
    assert (block.angle, block.box) == (90, (720, 100, 760, 500))
    [line] = block.lines
    assert line.polygon is not None
    assert (line.polygon[0], line.polygon[1], line.angle) == ((760, 100), (760, 500), 90)


def test_items_of_a_list_and_paragraphs_that_go_on_are_told(read: Read) -> None:
    layout = box(100, 100, 900, 300, "list") + box(110, 110, 890, 190) + box(110, 200, 890, 290)
    layout += box(100, 400, 500, 900) + box(520, 100, 900, 900, tail="txt_contd_tgt")
    page = read({LAYOUT: layout})
    assert [(block.kind, block.continues) for block in page.blocks] == [
        ("list", False),
        ("list", False),
        ("text", False),
        ("text", True),
    ]
    assert page.text == "words\n\nwords\n\nwords\nwords"


def test_a_crop_is_what_its_box_says(read: Read) -> None:
    sizes: list[tuple[int, int]] = []

    def script(prompt: str, image: Image.Image) -> Answer:
        sizes.append(image.size)
        return box(100, 100, 600, 200) if prompt == LAYOUT else "words"

    read(script)
    assert sizes == [(1036, 1036), (400, 100)]


# What models say that they should not


def test_no_box_at_all_reads_the_page_by_its_lines_and_says_so(read: Read, letter: Image.Image) -> None:
    page = read({LAYOUT: "There is a letter."}, letter)
    assert page.layout == "lines"
    assert len(page.lines) > 8
    assert any("found no block with text; the page was read line by line instead" in warning for warning in page.warnings)


def test_no_box_at_all_reads_the_page_whole_where_the_checkpoint_reads_no_lines(read: Read, letter: Image.Image) -> None:
    page = read({LAYOUT: "", "page": "all of it"}, letter, lines=None)
    assert (page.layout, page.text) == ("page", "all of it")
    assert any("the page was read in one request" in warning for warning in page.warnings)


def test_a_page_without_boxes_and_lines_is_blank_and_nothing_is_said(read: Read) -> None:
    page = read({LAYOUT: ""})
    assert (page.text, page.warnings, page.error) == ("", (), None)


def test_boxes_out_of_range_or_of_an_unknown_kind_leave_their_lines_to_be_read(read: Read, letter: Image.Image) -> None:
    bad = box(0, 400, 1800, 900) + box(0, 300, 999, 400, "hologram") + box(100, 100, 100, 900)
    page = read({LAYOUT: box(50, 50, 990, 200) + bad}, letter)
    assert page.layout == "model"
    assert page.blocks[0].text == "words"
    assert page.text.count("a line") > 5
    assert any("3 of 4 boxes of the model were omitted" in warning for warning in page.warnings)
    assert any("lines outside the model's blocks were read separately" in text for text in page.warnings)


def test_boxes_over_others_are_read_once(read: Read) -> None:
    over = box(100, 100, 900, 300) + box(100, 100, 880, 300) + box(120, 120, 500, 200) + box(100, 100, 900, 310, "title")
    page = read({LAYOUT: over})
    assert page.text == "words"
    assert any("3 of 4 boxes of the model were omitted" in warning for warning in page.warnings)


def test_a_caption_over_a_figure_is_no_double(read: Read) -> None:
    page = read({LAYOUT: box(100, 100, 900, 500, "image") + box(120, 120, 880, 160)})
    assert [block.kind for block in page.blocks] == ["figure", "text"]


def test_a_page_that_is_taken_for_a_picture_is_read_all_the_same(read: Read, letter: Image.Image) -> None:
    page = read({LAYOUT: box(0, 0, 1000, 1000, "image")}, letter)
    assert [page.blocks.count(block) for block in page.blocks if block.kind == "figure"] == [1]
    assert page.text.count("a line") > 8


def test_lines_inside_of_a_picture_belong_to_it(read: Read, letter: Image.Image) -> None:
    page = read({LAYOUT: box(0, 0, 1000, 550, "image") + box(0, 550, 1000, 1000)}, letter)
    assert page.text == "words"


def test_a_list_of_boxes_without_end_is_cut(read: Read) -> None:
    rows = "".join(box(10, 10 * row, 900, 10 * row + 8) for row in range(80))
    page = read({LAYOUT: (rows, "repetition")})
    assert len(page.blocks) == 20
    assert any("The list of blocks was truncated because the model repeated itself" in warning for warning in page.warnings)
    assert any("The model detected 80 blocks; only the first 20 were read" in warning for warning in page.warnings)


def test_a_layout_and_a_text_that_are_cut_off_are_marked(read: Read, letter: Image.Image) -> None:
    layout = box(50, 50, 990, 200) + "<|box_start|>050 210 99"
    page = read({LAYOUT: (layout, "length"), TEXT: ("half a wo", "length")}, letter)
    assert page.blocks[0].lines[0].cut == "length"
    assert any(
        "The list of blocks was truncated because the model reached the maximum length" in text for text in page.warnings
    )
    assert page.text.count("a line") > 5


def test_a_block_that_cannot_be_read_leaves_its_lines_to_be_read(read: Read, letter: Image.Image) -> None:
    page = read({LAYOUT: box(0, 0, 1000, 1000), TEXT: PageError("no room")}, letter)
    assert page.text.count("a line") > 8
    assert any("1 of 1 blocks could not be read: no room" in warning for warning in page.warnings)


def test_a_layout_that_cannot_be_asked_for_is_the_error_of_its_page(read: Read) -> None:
    page = read({LAYOUT: PageError("too long")})
    assert page.error == "the layout of the page could not be read: too long"


@pytest.mark.parametrize(
    "content",
    ["<fcel>a<lcel><nl><ucel><xcel><nl>", "no table at all", "<nl><nl>", "<table><tr><td>x<table>", "<fcel>" * 300],
)
def test_a_table_is_read_whatever_is_said_of_it(read: Read, content: str) -> None:
    page = read({LAYOUT: box(100, 100, 900, 500, "table"), TABLE: content})
    assert page.error is None
    for block in page.blocks:
        assert all(0 <= line.box.left <= line.box.right <= 800 for line in block.lines)


def test_pages_come_in_their_order_and_those_that_are_read_already_are_handed_on(tmp_path: Path) -> None:
    def script(prompt: str, image: Image.Image) -> Answer:
        return box(0, 0, 900, 900) if prompt == LAYOUT else f"{image.width}"

    model: Any = ScriptedModel(script, tmp_path, layout="model", model_layout={"fill_gaps": False})
    pages = [SourcePage(number, Image.new("RGB", (100 * number, 300), "white")) for number in range(1, 6)]
    ready = Page(number=9, layout="text-layer")
    results = list(DocumentReader(model, threads=1).read_pages([*pages[:2], ready, *(lambda p=p: p for p in pages[2:])]))
    assert [page.text for page in results] == ["90", "180", "", "270", "360", "450"]
    assert "open" in results[-1].timings_ms


def test_a_reading_that_is_given_up_asks_for_nothing_more(tmp_path: Path) -> None:
    pages = (SourcePage(number, BLANK) for number in range(1, 100))
    model: Any = ScriptedModel(
        by_prompt({LAYOUT: box(0, 0, 900, 900), TEXT: "a"}), tmp_path, layout="model", model_layout={"fill_gaps": False}
    )
    reading = DocumentReader(model, threads=1).read_pages(pages)
    assert next(reading).number == 1
    reading.close()  # type: ignore[attr-defined]
    assert len(model.asked) <= 2 * 3


def test_between_two_requests_a_page_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    rows = "".join(box(10, 10 * row, 900, 10 * row + 8) for row in range(20))
    model: Any = ScriptedModel(by_prompt({LAYOUT: rows, TEXT: "a"}), tmp_path)
    steps = TwoSteps(model, ModelLayoutSettings(), wanted=lambda: len(model.asked) < 4)
    with pytest.raises(PageError, match="the page could not be read in two steps: the reading was cancelled"):
        steps.read(BLANK)
    assert len(model.asked) == 4


def test_a_layout_that_is_not_wanted_any_more_is_not_asked_for(tmp_path: Path) -> None:
    model: Any = ScriptedModel(by_prompt({LAYOUT: ""}), tmp_path)
    with pytest.raises(PageError, match="the reading was cancelled") as raised:
        TwoSteps(model, ModelLayoutSettings(), wanted=lambda: False).detect(BLANK)
    assert (raised.value.code, model.asked) == ("layout_failed", [])


def test_small_pictures_are_read_whole_where_the_settings_say_so(tmp_path: Path) -> None:
    model: Any = ScriptedModel(by_prompt({"page": "whole"}), tmp_path, layout="model", model_layout={},
                               page_prompt="page", page_max_pixels=800_000)  # fmt: skip
    page = DocumentReader(model, threads=1).read_image(BLANK)
    assert (page.layout, page.text) == ("page", "whole")


def test_settings_of_a_kind_of_block_are_passed_on(tmp_path: Path) -> None:
    sampling = {"[default]": {"top_k": 3, "max_new_tokens": 7}}
    layout = {"prompts": {"[default]": "Read."}, "sampling": sampling, "fill_gaps": False}
    model: Any = ScriptedModel(
        by_prompt({LAYOUT: box(0, 0, 900, 900), "Read.": "x"}), tmp_path, layout="model", model_layout=layout
    )
    assert DocumentReader(model, threads=1).read_image(BLANK).text == "x"
    used = model.requests[1].sampling
    assert (used.top_k, used.max_new_tokens, used.no_repeat_ngram_size) == (3, 7, 100)


def test_without_the_extra_or_the_settings_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = ScriptedModel(by_prompt({}), tmp_path, layout="page")
    with pytest.raises(SetupError, match="--layout model was requested, but the checkpoint does not declare"):
        DocumentReader(model, layout="model")
    monkeypatch.setitem(__import__("sys").modules, "mindnlp_ocr.documents.mineru", None)
    monkeypatch.delattr("mindnlp_ocr.documents.mineru", raising=False)
    with pytest.raises(SetupError, match=r"needs mineru-vl-utils, .*pip install 'mindnlp-ocr\[mineru\]'"):
        DocumentReader(model, layout="model", preset="mineru")
