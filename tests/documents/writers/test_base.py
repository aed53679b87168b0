"""Tests that apply to every output format."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mindnlp_ocr.documents.result import Document
from mindnlp_ocr.documents.writers import FORMATS, PagePicture
from mindnlp_ocr.documents.writers.base import encodable, printable
from mindnlp_ocr.errors import SetupError
from tests.documents.writers.pages import HOSTILE, of_text, written

ONE = {"hocr", "alto", "pdf"}
SUFFIXES = {
    "text": ".txt",
    "markdown": ".md",
    "json": ".json",
    "jsonl": ".jsonl",
    "tsv": ".tsv",
    "hocr": ".hocr",
    "alto": ".xml",
    "pdf": ".pdf",
}


def test_every_format_has_its_suffix() -> None:
    assert {name: writer.suffix for name, writer in FORMATS.items()} == SUFFIXES
    assert {name for name, writer in FORMATS.items() if writer.one_document} == ONE


@pytest.mark.parametrize("name", sorted(ONE))
def test_a_file_of_one_document_refuses_a_second(name: str) -> None:
    with pytest.raises(SetupError) as error:
        written(name, Document(source="a.png", pages=(of_text("a"),)), Document(source="b.png"))
    suffix = SUFFIXES[name]
    assert str(error.value) == (f"b.png is a second document, but a {suffix} file contains only one: use --output-dir DIR")


@pytest.mark.parametrize("name", FORMATS)
def test_closing_twice_writes_the_end_once_and_leaves_the_stream_open(name: str) -> None:
    stream = io.BytesIO()
    writer = FORMATS[name](stream)
    writer.begin("a.png")
    writer.page(of_text("hello"))
    writer.close()
    length = len(stream.getvalue())
    writer.close()
    assert len(stream.getvalue()) == length > 0
    assert not stream.closed


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"pdf"}))
def test_a_page_is_on_its_way_as_soon_as_it_is_read(name: str) -> None:
    """Nothing waits for the next page, so the length of a document needs no memory."""
    stream = io.BytesIO()
    writer = FORMATS[name](stream)
    writer.begin("a.png")
    for number in (1, 2):
        writer.page(of_text(f"{'first' if number == 1 else 'second'} page", number))
        assert (b"first" if number == 1 else b"second") in stream.getvalue()
    writer.close()


def test_characters_that_no_file_can_hold_are_replaced() -> None:
    assert encodable("a\ud800b\x00") == "a\ufffdb\x00"
    assert printable(HOSTILE).startswith("a\ufffdb c d e\ufffdf\ufffdg h i <&>")
    assert printable("two\nlines\r\nand\u2028more") == "two lines and more"
    assert printable("汉字 \U0001f600 é") == "汉字 \U0001f600 é"


def test_a_picture_is_opened_when_it_is_asked_for(tmp_path: Path) -> None:
    opened = []

    def render() -> Image.Image:
        opened.append(1)
        return Image.new("L", (3, 2))

    picture = PagePicture(render, dpi=300.0, file=tmp_path / "a.png")
    assert not opened
    assert (picture.image().mode, picture.image().size) == ("RGB", (3, 2))
    assert len(opened) == 2
