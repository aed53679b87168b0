"""Tests of tables on pages that are read by lines, where the model is asked for the cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.agreement import AGREEMENT, agreement, trusted
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Block, Box, Document, Line, Page
from mindnlp_ocr.documents.settings import ModelLayoutSettings
from mindnlp_ocr.documents.tables import cells_of, to_html
from mindnlp_ocr.documents.two_steps import Found, TwoSteps
from mindnlp_ocr.errors import PageError
from tests.documents.scripted import LAYOUT, TABLE, Answer, ScriptedModel, box, by_prompt
from tests.documents.writers.pages import written

PAGE = Image.new("RGB", (800, 1000), "white")


def line(text: str, row: int, left: float, right: float) -> Line:
    """Create a line in a row of a table; rows are 30 pixels high, and lines 20."""
    return Line(text=text, box=Box(left, 100 + 30 * row, right, 120 + 30 * row), row=row)


LINES = (
    line("Item", 0, 100, 150), line("Price", 0, 300, 350),
    line("Black tea", 1, 100, 200), line("3.20", 1, 300, 340),
    line("Coffee 4.10", 2, 100, 340),
)  # fmt: skip
OTSL = "<fcel>Item<fcel>Price<nl><fcel>Black tea<fcel>3.20<nl><fcel>Coffee<fcel>4.10<nl>"
HTML = (
    "<table><tr><td>Item</td><td>Price</td></tr><tr><td>Black tea</td><td>3.20</td></tr>"
    "<tr><td>Coffee</td><td>4.10</td></tr></table>"
)


def table(lines: Sequence[Line] = LINES) -> Block:
    return Block(kind="table", label="table", box=Box.around(one.box for one in lines), lines=tuple(lines))


def rows(*texts: Sequence[str]) -> str:
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in row)}</tr>" for row in texts) + "</table>"


# Comparison with the lines


def test_a_line_may_hold_several_cells_and_a_cell_several_lines() -> None:
    lines = [line("Item", 0, 100, 150), line("Price", 0, 300, 350), line("a long", 1, 100, 180), line("name", 2, 100, 160),
             line("3.20", 1, 300, 340), line("tea 4.10", 3, 100, 340)]  # fmt: skip
    html = rows(["Item", "Price"], ["a long name", "3.20"], ["tea", "4.10"])
    assert trusted(html, lines) == html


def test_the_agreement_counts_pairs_of_characters_inside_words() -> None:
    assert agreement(["ab", "c"], ["c ab"]) == 1
    assert agreement(["ab"], ["ax"]) == pytest.approx(1 / 3)
    assert agreement([], []) == agreement(["ab"], []) == 0


def test_a_table_with_other_text_is_not_trusted_but_a_few_wrong_characters_are_accepted() -> None:
    one_wrong = HTML.replace("Black", "Blaek")
    assert AGREEMENT < agreement((cell.text for cell in cells_of(one_wrong)), (one.text for one in LINES)) < 1
    assert trusted(one_wrong, LINES) == one_wrong
    assert trusted(HTML.replace("Black tea", "Green juice"), LINES) is None
    assert trusted(rows(["Item", "Price"], ["Black tea", "3.20"]), LINES) is None


@pytest.mark.parametrize(
    "html",
    [
        rows(["Item", "Price"], ["3.20", "Black tea"], ["Coffee", "4.10"]),
        rows(["Item", "Price", ""], ["Black tea", "", ""], ["Coffee", "3.20", "4.10"]),
        rows(["Black tea", "3.20"], ["Item", "Price"], ["Coffee", "4.10"]),
        '<table><tr><td colspan="2">Item Price</td></tr><tr><td>3.20</td><td>Black tea Coffee 4.10</td></tr></table>',
    ],
)
def test_a_table_whose_cells_are_in_other_rows_or_columns_than_their_lines_is_not_trusted(html: str) -> None:
    assert agreement((cell.text for cell in cells_of(html)), (one.text for one in LINES)) == 1
    assert trusted(html, LINES) is None


def test_text_that_occurs_twice_says_nothing_of_the_order() -> None:
    lines = [line("a", 0, 100, 110), line("7", 0, 300, 310), line("7", 1, 100, 110), line("b", 1, 300, 310)]
    html = rows(["a", "7"], ["7", "b"])
    assert trusted(html, lines) == html


def test_lines_with_the_same_text_that_stand_in_one_cell_say_nothing_of_the_order() -> None:
    lines = [line("a", 0, 100, 110), line("12.50", 0, 300, 340), line("12.50", 1, 100, 140), line("b", 1, 300, 310)]
    html = rows(["a", ""], ["12.50 12.50", "b"])
    assert trusted(html, lines) == html


def test_a_row_of_merged_cells_alone_keeps_its_place() -> None:
    html = '<table><tr><td rowspan="2">a</td><td rowspan="2">b</td></tr><tr></tr><tr><td>c</td><td>d</td></tr></table>'
    cells = cells_of(html)
    assert [(cell.row, cell.column, cell.text) for cell in cells] == [(0, 0, "a"), (0, 1, "b"), (2, 0, "c"), (2, 1, "d")]
    assert to_html(cells) == html
    assert [cell.row for cell in cells_of("<table><tr></tr><tr><td>a</td></tr><tr></tr><tr><td>b</td></tr></table>")] == [
        0,
        1,
    ]


def test_short_text_inside_of_other_text_says_nothing_of_the_order() -> None:
    lines = [line("a", 0, 100, 110), line("33%", 0, 300, 330), line("b", 1, 100, 110), line("33", 1, 40, 60)]
    html = rows(["a", "33%"], ["b", ""])
    assert trusted(html, lines) is None  # because the text of the last line is missing
    lines += [line(f"row {number}", number, 100, 150) for number in range(2, 10)]
    html = rows(["a", "33%"], ["b", ""], *([f"row {number}", ""] for number in range(2, 10)))
    assert trusted(html, lines) == html


def test_a_table_that_repeats_a_cell_is_not_trusted_unless_the_lines_do() -> None:
    names = [f"name {number}" for number in range(20)]
    lines = [
        one for number, name in enumerate(names) for one in (line(name, number, 100, 150), line("3.20", number, 300, 340))
    ]
    html = rows(*([name, "3.20"] for name in names))
    assert trusted(html, lines) == html
    assert trusted(html, [*lines[:-1], line("3.2O", 19, 300, 340)]) is None
    assert trusted(html.replace("name 19", "name 18"), lines) is None


@pytest.mark.parametrize("content", ["", "Item Price", rows(["Item", "Price", "3.20"]), rows(["Item"], ["Price"], ["3.20"])])
def test_less_than_two_rows_and_columns_are_no_table(content: str) -> None:
    assert trusted(content, [line("Item", 0, 0, 9), line("Price", 1, 0, 9), line("3.20", 2, 0, 9)]) is None


# Requests


def completed(
    answer: Answer | Any, blocks: Sequence[Block], folder: Path, **options: Any
) -> tuple[Found, tuple[Block, ...]]:
    """Ask for the cells of blocks with a model that gives this answer."""
    found = Found()
    model: Any = ScriptedModel(answer if callable(answer) else by_prompt({TABLE: answer}), folder)
    return found, TwoSteps(model, ModelLayoutSettings(), **options).add_cells(PAGE, found, blocks)


def test_each_table_is_asked_for_with_a_margin_and_other_blocks_stay_as_they_are(tmp_path: Path) -> None:
    lower = table([one.model_copy(update={"box": Box(*(value + 500 for value in one.box))}) for one in LINES])
    blocks = (Block(box=LINES[0].box, lines=LINES[:1]), table(), lower)
    asked: list[Any] = []

    def script(prompt: str, image: Image.Image) -> Answer:
        asked.append((prompt, image.size))
        return OTSL

    found, [text, *tables] = completed(script, blocks, tmp_path)
    assert text is blocks[0]
    assert [one.html for one in tables] == [HTML, HTML]
    assert [one.lines for one in tables] == [LINES, lower.lines]
    assert asked == [(TABLE, (270, 100)), (TABLE, (210, 100))]  # the second ends at the edge of the page
    assert (found.warnings, found.timings_ms) == ([], {"prefill": 2.0})


def test_merged_cells_are_kept(tmp_path: Path) -> None:
    lines = [line("Both", 0, 100, 340), line("1", 1, 100, 110), line("2", 1, 300, 310)]
    _, [block] = completed("<fcel>Both<lcel><nl><fcel>1<fcel>2<nl>", [table(lines)], tmp_path)
    assert block.html == '<table><tr><td colspan="2">Both</td></tr><tr><td>1</td><td>2</td></tr></table>'
    page = Document(source="a.png", pages=(Page(number=1, layout="model", blocks=(block,)),))
    assert written("markdown", page).decode() == f"{block.html}\n"


@pytest.mark.parametrize("answer", [OTSL.replace("tea", "fruit juice"), (OTSL, "length"), (OTSL, "repetition"), "tea", ""])
def test_an_answer_that_disagrees_or_is_truncated_leaves_the_lines_without_a_warning(answer: Answer, tmp_path: Path) -> None:
    found, blocks = completed(answer, [table()], tmp_path)
    assert blocks == (table(),)
    assert found.warnings == []


def test_a_request_that_fails_leaves_the_lines_with_a_warning(tmp_path: Path) -> None:
    answers = iter([PageError("no room"), OTSL])
    found, [first, second] = completed(lambda *_: next(answers), [table(), table()], tmp_path)
    assert (first, second.html) == (table(), HTML)
    assert found.warnings == ["The cells of 1 of 2 tables could not be read: no room"]


def test_a_reading_that_is_cancelled_keeps_the_lines(tmp_path: Path) -> None:
    found, blocks = completed(OTSL, [table(), table()], tmp_path, wanted=lambda: False)
    assert blocks == (table(), table())
    assert found.warnings == ["The cells of 2 of 2 tables could not be read: the reading was cancelled"]


def test_requests_that_cannot_be_started_leave_the_lines(tmp_path: Path) -> None:
    def script(prompt: str, image: Image.Image) -> Answer:
        raise PageError("no memory")

    found, blocks = completed(script, [table()], tmp_path)
    assert blocks == (table(),)
    assert found.warnings == ["The cells of 1 of 1 tables could not be read: no memory"]


# Whole pages


@pytest.fixture
def read(tmp_path: Path, letter: Image.Image) -> Any:
    """Read the letter, whose lines are numbered, as one table; return the page and the prompts."""

    def read(answer: Answer, **settings: Any) -> tuple[Page, list[str]]:
        count = iter(range(1000))

        def script(prompt: str, _: Image.Image) -> Answer:
            return {LAYOUT: box(0, 0, 1000, 1000, "table"), TABLE: answer}.get(prompt) or f"line {next(count)}"

        layout = {"read_by": "lines", **settings}
        lines = {"prompt": "line", "height": 28}
        model: Any = ScriptedModel(script, tmp_path, layout="model", model_layout=layout, lines=lines)
        page = DocumentReader(model, threads=1).read_image(letter)
        return page, [prompt for prompt, _ in model.asked]

    return read


def test_a_page_is_asked_for_its_tables_only_if_the_settings_say_so(read: Any) -> None:
    page, prompts = read("unused")
    assert TABLE not in prompts
    assert [(block.kind, block.html) for block in page.blocks] == [("table", None)]
    assert read("unused", table_structure=True)[1].count(TABLE) == 1


def test_the_table_of_a_page_has_html_and_its_lines(read: Any) -> None:
    plain, _ = read("")
    rows_of_lines = [" ".join(one.text for one in row) for row in plain.blocks[0].rows]
    page, _ = read("".join(f"<fcel>{text}<ecel><nl>" for text in rows_of_lines), table_structure=True)
    [block] = page.blocks
    assert len(rows_of_lines) > 8
    assert block.html == rows(*([text, ""] for text in rows_of_lines))
    assert block.lines == plain.lines
    assert page.warnings == ()
    markdown = written("markdown", Document(source="a.png", pages=(page,))).decode().splitlines()
    assert markdown == [f"| {rows_of_lines[0]} |  |", "| --- | --- |", *(f"| {text} |  |" for text in rows_of_lines[1:])]


def test_a_page_whose_table_cannot_be_asked_for_has_its_lines_and_a_warning(read: Any) -> None:
    plain, _ = read("")
    page, _ = read(PageError("no room"), table_structure=True)
    assert (page.error, page.blocks) == (None, plain.blocks)
    assert page.warnings == ("The cells of 1 of 1 tables could not be read: no room",)
