"""Tests of the exact plain text output."""

import io

from mindnlp_ocr.documents.result import Document, Page
from mindnlp_ocr.documents.writers.text import TextWriter
from tests.documents.writers.pages import in_one_request, of_text, page, table, written


def test_one_page_is_its_text_and_a_line_break() -> None:
    document = Document(source="a.png", pages=(of_text("Hello, world.\nSecond line.\n\nNext paragraph."),))
    assert written("text", document) == b"Hello, world.\nSecond line.\n\nNext paragraph.\n"


def test_a_form_feed_stands_between_pages() -> None:
    document = Document(source="a.pdf", pages=(of_text("one"), of_text("two", 2), of_text("three", 3)))
    assert written("text", document) == b"one\n\ftwo\n\fthree\n"
    assert written("text", document).decode() == document.text + "\n"


def test_a_page_with_an_error_keeps_its_place() -> None:
    document = Document(source="a.pdf", pages=(of_text("one"), Page(number=2, error="damaged"), of_text("three", 3)))
    assert written("text", document) == b"one\n\f\n\fthree\n"


def test_a_document_without_pages_and_a_blank_page_are_an_empty_line() -> None:
    assert written("text", Document(source="a.pdf", error="a.pdf is missing")) == b"\n"
    assert written("text", Document(source="a.png", pages=(page(),))) == b"\n"


def test_several_documents_stand_under_their_names() -> None:
    documents = [Document(source=name, pages=(of_text(name.upper()),)) for name in ("a.png", "b.png")]
    documents.append(Document(source="c.png", error="c.png is missing"))
    expected = b"==> a.png <==\nA.PNG\n\n==> b.png <==\nB.PNG\n\n==> c.png <==\n\n"
    assert written("text", *documents, heads=True) == expected


def test_cells_of_a_row_are_separated_by_tabs() -> None:
    assert written("text", Document(source="a.png", pages=(page(table()),))) == (b"Item\tPrice\nTea | green\t3.20\nTotal\n")


def test_half_a_surrogate_pair_is_replaced_and_all_else_kept() -> None:
    document = Document(source="a\udcff.png", pages=(of_text("a\ud800b\x07 汉字 \U0001f600"),))
    assert written("text", document, heads=True).decode() == "==> a\ufffd.png <==\na\ufffdb\x07 汉字 \U0001f600\n"


def test_a_page_read_in_one_request_is_what_the_model_said() -> None:
    text = "Invoice\n  # 17\n\n\nTotal\t5.00 "
    assert written("text", Document(source="a.png", pages=(in_one_request(text),))).decode() == text + "\n"


def test_a_page_that_comes_in_pieces_is_written_as_it_comes() -> None:
    stream = io.BytesIO()
    with TextWriter(stream, heads=True) as writer:
        writer.begin("a.pdf")
        writer.piece("one ")
        assert stream.getvalue() == b"==> a.pdf <==\none "
        writer.piece("line")
        writer.page(of_text("one line"))
        writer.piece("two")
        writer.page(of_text("two", 2))
        writer.page(of_text("three", 3))
        writer.end()
        writer.begin("b.pdf")
        writer.piece("broken o")
    assert stream.getvalue() == b"==> a.pdf <==\none line\n\ftwo\n\fthree\n\n==> b.pdf <==\nbroken o\n"
