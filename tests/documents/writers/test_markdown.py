"""Tests of the exact Markdown output."""

import pytest

from mindnlp_ocr.documents.result import Block, Box, Document, Page
from mindnlp_ocr.documents.writers.markdown import at_the_beginning, escape, join
from tests.documents.writers.pages import HOSTILE, block, in_one_request, line, of_text, page, table, written


def markdown(*blocks: Block) -> str:
    return written("markdown", Document(source="a.png", pages=(page(*blocks),))).decode()


def test_headings_paragraphs_and_captions() -> None:
    blocks = (
        block(line("A Title"), line("in two lines"), kind="title"),
        block(line("First line of it,"), line("and a second.")),
        block(line("Figure 1: a caption"), kind="caption"),
    )
    assert markdown(*blocks) == "# A Title in two lines\n\nFirst line of it, and a second.\n\nFigure 1: a caption\n"


@pytest.mark.parametrize(
    ("text", "following", "joined"),
    [
        ("an exam-", "ple of it", "an example of it"),
        ("(exam-", "ple)", "(example)"),
        ("an exam\u00ad", "ple", "an example"),
        ("state-of-the-", "art", "state-of-the-art"),
        ("COVID-", "19", "COVID-19"),
        ("Anglo-", "Saxon", "Anglo-Saxon"),
        ("1999-", "2004", "1999-2004"),
        ("a dash -", "and more", "a dash - and more"),
        ("ends -", "Here", "ends - Here"),
        ("你好，", "世界", "你好，世界"),
        ("使用", "MindSpore", "使用MindSpore"),
        ("한국어", "문장", "한국어 문장"),
        ("smile \U0001f600", "now", "smile \U0001f600 now"),
        ("", "x", "x"),
        ("x", "", "x"),
    ],
)
def test_lines_are_joined_as_their_script_wants_it(text: str, following: str, joined: str) -> None:
    assert join(text, following) == joined


def test_a_list_has_signs_of_markdown_and_its_items_are_whole() -> None:
    lines = ["• first item, which is", "long", "•second", "- third", "2) numbered", "3、中文", "* starred"]
    assert markdown(block(*map(line, lines), kind="list")) == (
        "- first item, which is long\n- second\n- third\n2. numbered\n3. 中文\n- starred\n"
    )
    assert markdown(block(line("no sign"), line("• one"), kind="list")) == "- no sign\n- one\n"
    assert markdown(block(line("-5 degrees"), line("• - -"), kind="list")) == "- -5 degrees\n- \\- -\n"


def test_a_sign_may_be_a_line_of_its_own() -> None:
    sign, text = line("•", 100, 100, 110, 120), line("an item", 130, 100, 300, 120)
    assert markdown(Block(kind="list", box=text.box, lines=(sign, text))) == "- an item\n"


def test_a_table_is_a_pipe_table_and_ragged_rows_are_padded() -> None:
    assert markdown(table()) == ("| Item | Price |\n| --- | --- |\n| Tea \\| green | 3.20 |\n| Total |  |\n")
    right = block(line("a", 100, 0, 150, 20), line("b", 300, 0, 350, 20), line("c", 290, 40, 340, 60, row=1), kind="table")
    assert markdown(right) == "| a | b |\n| --- | --- |\n|  | c |\n"
    assert markdown(block(line(" "), kind="table")) == ""


def test_a_table_of_detected_lines_has_the_cells_of_its_html() -> None:
    lines = (line("Item Price"), line("Tea | green 3.20", row=1), line("Total", doubtful=True, confidence=0.41, row=2))
    html = (
        "<table><tr><td>Item</td><td>Price</td></tr><tr><td>Tea | &lt;b&gt;</td><td>3.20</td></tr>"
        "<tr><td></td><td></td></tr><tr><td>Total</td></tr></table>"
    )
    made = block(*lines, kind="table").model_copy(update={"html": html})
    assert markdown(made) == (
        "| Item | Price |\n| --- | --- |\n| Tea \\| \\<b> | 3.20 |\n| Total <!-- doubtful 0.41 --> |  |\n"
    )
    assert made.text == "Item Price\nTea | green 3.20\nTotal"
    assert markdown(made.model_copy(update={"html": "<table></table>"})).startswith("| Item Price |\n| --- |\n")


def test_cells_keep_their_order_where_they_crowd() -> None:
    head = [line(text, 100 * place, 0, 100 * place + 20, 20) for place, text in enumerate("abc")]
    crowd = [line(text, 205 + 2 * place, 40, 206 + 2 * place, 60, row=1) for place, text in enumerate("xy")]
    assert markdown(block(*head, *crowd, kind="table")).splitlines()[2] == "|  | x | y |"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("2 * 3 * 4", r"2 \* 3 \* 4"),
        ("snake_case and _this_", r"snake_case and \_this\_"),
        ("a `b` c", r"a \`b\` c"),
        ("[text](url) [1]: x [2]", r"[text]\(url) [1]\: x [2]"),
        ("1 < 2, <b>, </b>", r"1 < 2, \<b>, \</b>"),
        ("AT&T &amp; &#12;", r"AT&T \&amp; \&#12;"),
        (r"C:\dir \* x", r"C:\dir \\\* x"),
        ("~~no~~ ~5", r"\~~no\~~ ~5"),
        ("$5 + 3 = 8 (50 %)!", "$5 + 3 = 8 (50 %)!"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_would_be_markup_is_escaped_and_nothing_else(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("# no heading", r"\# no heading"),
        ("#1 of all", "#1 of all"),
        ("- no list", r"\- no list"),
        ("-5", "-5"),
        ("+ no list", r"\+ no list"),
        ("> no quotation", r"\> no quotation"),
        ("1. no list", r"1\. no list"),
        ("1.5 litres", "1.5 litres"),
        ("2024) x", r"2024\) x"),
        ("---", r"\---"),
        ("===", r"\==="),
    ],
)
def test_what_would_be_markup_at_the_beginning_is_escaped_there(text: str, escaped: str) -> None:
    assert at_the_beginning(text) == escaped
    assert markdown(block(line(text))) == escaped + "\n"
    assert markdown(block(line(f"x {text}"))) == f"x {text}\n"


def test_code_of_detected_lines_keeps_its_indentation_and_its_rows() -> None:
    numbered = [
        ("1", 0, 0),
        ("if ready:", 0, 4),
        ("2", 1, 0),
        ("print(text)", 1, 8),
        ("3", 2, 0),
        ("else:", 2, 4),
        ("rest()", 3, 8),
    ]
    lines = [
        line(text, 100 + 10 * column, 100 + 30 * row, 100 + 10 * (column + len(text)), 120 + 30 * row, row=row)
        for text, row, column in numbered
    ]
    one = Block(kind="code", box=Box.around(line.box for line in lines), lines=tuple(lines))
    assert markdown(one) == "```\n1   if ready:\n2       print(text)\n3   else:\n        rest()\n```\n"


def test_code_of_one_answer_keeps_its_own_indentation() -> None:
    texts = ["if x:", "    print(x)"]
    lines = tuple(line(text, top=100 + 20 * row, bottom=120 + 20 * row, row=row) for row, text in enumerate(texts))
    for angle in (0, 90):
        one = Block(kind="code", box=Box.around(line.box for line in lines), lines=lines, angle=angle)
        assert markdown(one) == "```\nif x:\n    print(x)\n```\n"


def test_doubtful_lines_are_marked_with_their_confidence() -> None:
    unsure = line("unsure", confidence=0.414, doubtful=True)
    assert markdown(block(line("sure", confidence=0.9), unsure, line("open", doubtful=True), line("end"))) == (
        "sure unsure <!-- doubtful 0.41 --> open <!-- doubtful --> end\n"
    )
    assert markdown(block(unsure, kind="title")) == "# unsure <!-- doubtful 0.41 -->\n"
    assert markdown(block(unsure, kind="table")) == "| unsure <!-- doubtful 0.41 --> |\n| --- |\n"


def test_pages_and_errors_are_comments() -> None:
    pages = (of_text("one"), Page(number=2, error="page 2 -- damaged"), page(number=3), of_text("four", 4))
    assert written("markdown", Document(source="a.pdf", pages=pages)).decode() == (
        "one\n\n<!-- page 2 -->\n\n<!-- page 2 - - damaged -->\n\n<!-- page 3 -->\n\n<!-- page 4 -->\n\nfour\n"
    )
    assert written("markdown", Document(source="a.pdf", error="a.pdf is encrypted")) == b"<!-- a.pdf is encrypted -->\n"


def test_several_documents_stand_under_their_names() -> None:
    first = Document(source="a_b_.png", pages=(page(block(line("A"), kind="title"), block(line("text"))),))
    second = Document(source="c.png", pages=(of_text("more"),))
    assert written("markdown", first, second, heads=True).decode() == ("# a_b\\_.png\n\n## A\n\ntext\n\n# c.png\n\nmore\n")


def test_hostile_text_is_one_line_of_utf_8() -> None:
    text = markdown(block(line(HOSTILE)))
    assert text.count("\n") == 1
    assert "a\ufffdb c d e" in text


def test_a_page_read_in_one_request_keeps_its_lines() -> None:
    document = Document(source="a.png", pages=(in_one_request("Invoice\n# 17\n\n\nTotal 5.00\n"),))
    assert written("markdown", document) == b"Invoice\\\n\\# 17\n\nTotal 5.00\n"
