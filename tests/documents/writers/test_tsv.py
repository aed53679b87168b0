"""Tests of TSV output with Tesseract's columns."""

import csv
import io

from mindnlp_ocr.documents.result import Document, Page
from tests.documents.writers.pages import HOSTILE, block, line, of_text, page, table, turned, written

HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"


def rows(*documents: Document) -> list[dict[str, str]]:
    text = written("tsv", *documents).decode()
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_level_has_its_row() -> None:
    document = Document(source="a.png", pages=(page(block(line("aaaa aaaa", 0, 0, 473, 20, confidence=0.9314))),))
    assert written("tsv", document).decode().splitlines() == [
        HEAD,
        "1\t1\t0\t0\t0\t0\t0\t0\t800\t600\t-1\t",
        "2\t1\t1\t0\t0\t0\t0\t0\t473\t20\t-1\t",
        "3\t1\t1\t1\t0\t0\t0\t0\t473\t20\t-1\t",
        "4\t1\t1\t1\t1\t0\t0\t0\t473\t20\t-1\t",
        "5\t1\t1\t1\t1\t1\t0\t0\t220\t20\t93.14\taaaa",
        "5\t1\t1\t1\t1\t2\t253\t0\t220\t20\t93.14\taaaa",
    ]


def test_pages_are_counted_over_documents_and_the_head_stands_once() -> None:
    documents = [
        Document(source="a.pdf", pages=(of_text("one"), of_text("two", 2))),
        Document(source="b.pdf", error="b.pdf is damaged"),
        Document(source="c.png", pages=(of_text("three"),)),
    ]
    assert [(row["page_num"], row["text"]) for row in rows(*documents) if row["level"] == "5"] == [
        ("1", "one"),
        ("2", "two"),
        ("3", "three"),
    ]
    assert written("tsv", *documents).decode().count("level") == 1


def test_blocks_and_lines_are_counted_and_cells_are_lines() -> None:
    found = [
        (row["block_num"], row["line_num"], row["text"])
        for row in rows(Document(source="a.png", pages=(page(block(line("first")), table()),)))
        if row["level"] == "5"
    ]
    assert found[:3] == [("1", "1", "first"), ("2", "1", "Item"), ("2", "2", "Price")]
    assert found[-1] == ("2", "5", "Total")


def test_a_word_without_a_confidence_has_none() -> None:
    assert {row["conf"] for row in rows(Document(source="a.png", pages=(of_text("a b"),)))} == {"-1"}


def test_a_blank_page_and_one_with_an_error_are_a_row() -> None:
    found = rows(Document(source="a.pdf", pages=(page(), Page(number=2, error="damaged"))))
    assert [(row["level"], row["page_num"], row["width"]) for row in found] == [("1", "1", "800"), ("1", "2", "0")]


def test_a_turned_line_has_upright_boxes() -> None:
    found = rows(Document(source="a.png", pages=(page(block(turned())),)))
    assert [(row["left"], row["width"], row["text"]) for row in found[-3:]] == [
        ("660", "40", "up"),
        ("660", "40", "the"),
        ("660", "40", "margin"),
    ]


def test_hostile_text_breaks_no_row() -> None:
    text = written("tsv", Document(source="a.png", pages=(page(block(line(HOSTILE), line("汉\t字 \U0001f600"))),)))
    lines = text.decode().split("\n")
    assert {one.count("\t") for one in lines[:-1]} == {11}
    assert [one.split("\t")[11] for one in lines if one.startswith("5")][-3:] == ["汉", "字", "\U0001f600"]
