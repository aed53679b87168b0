"""Tests of searchable PDF: PDFium and poppler find the text at the positions of the words, and the file is sound."""

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pikepdf
import pypdfium2
import pytest

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Box, Line, Page, Point
from mindnlp_ocr.documents.writers.base import PagePicture
from mindnlp_ocr.documents.writers.pdf import PdfWriter
from tests.documents.writers.pages import (
    HOSTILE,
    block,
    in_one_request,
    line,
    of_text,
    page,
    picture,
    table,
    turned,
)
from tests.documents.writers.pdfs import (
    BAR,
    Read,
    drawing,
    drawn,
    of_pdf,
    pdf,
    photograph,
    read_as,
    rendered,
)

# ---- text


def test_lines_and_words_come_out_as_they_went_in(read: Read) -> None:
    [text] = read(pdf(of_text("The quick brown fox\njumps over 13 lazy dogs.\n\nA second paragraph.")))
    lines = [one.strip() for one in text.splitlines() if one.strip()]
    assert lines == ["The quick brown fox", "jumps over 13 lazy dogs.", "A second paragraph."]


def test_chinese_and_what_lies_beyond_16_bits(read: Read) -> None:
    [text] = read(
        pdf(
            page(
                block(line("你好，世界。MindSpore 框架")), block(line("smile \U0001f600 \U00020bb7野家", 100, 300, 500, 340))
            )
        )
    )
    assert [one.strip() for one in text.splitlines() if one.strip()] == [
        "你好，世界。MindSpore 框架",
        "smile \U0001f600 \U00020bb7野家",
    ]


def test_a_turned_line_is_one_line(read: Read) -> None:
    [text] = read(pdf(page(block(turned()))))
    assert text.split() == ["up", "the", "margin"]


def test_cells_of_a_table_are_in_their_order(read: Read) -> None:
    [text] = read(pdf(page(table())))
    assert sorted(text.split()) == ["3.20", "Item", "Price", "Tea", "Total", "green", "|"]


def test_every_page_has_its_own_text(read: Read) -> None:
    pages = [of_text("one"), page(number=2), Page(number=3, error="damaged"), of_text("four", 4)]
    assert [text.strip() for text in read(pdf(*pages))] == ["one", "", "", "four"]


def test_hostile_text_and_names(read: Read) -> None:
    data = pdf(page(block(line(HOSTILE))), source="a\udcff\x00(.png")
    assert "".join(read(data)[0].split()) == "a\ufffdbcde\ufffdf\ufffdghi<&>\"'-->]]>\\(%"
    with pikepdf.open(io.BytesIO(data)) as opened:
        assert str(opened.docinfo.Title) == "a\ufffd (.png"


# ---- places


def boxes(data: bytes) -> dict[str, list[float]]:
    """Where poppler finds every word, in points from the top left corner."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: apt-get install poppler-utils")
    html = subprocess.run(["pdftotext", "-bbox", "-", "-"], input=data, capture_output=True, check=True).stdout.decode()
    found = re.findall(r'xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)">(.*?)</word>', html)
    return {word: [float(value) for value in place] for *place, word in found}


def test_poppler_selects_each_word_where_it_is() -> None:
    found = boxes(pdf(page(block(line("aaaa bbbb", 100, 200, 573, 240)), dpi=100)))
    assert found == {
        "aaaa": pytest.approx([72, 144, 72 + 220 * 0.72, 172.8], abs=0.01),
        "bbbb": pytest.approx([72 + 253 * 0.72, 144, 573 * 0.72, 172.8], abs=0.01),
    }


def test_a_wide_character_has_the_room_of_two() -> None:
    data = pdf(page(block(line("ab汉字", 0, 100, 310, 140)), dpi=72))
    textpage = pypdfium2.PdfDocument(data)[0].get_textpage()
    lefts = [round(textpage.get_charbox(index, loose=True)[0]) for index in range(4)]
    assert lefts == [0, 52, 103, 207]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("unit", [None, 2])
def test_text_lies_on_a_page_of_a_pdf_however_that_is_turned_and_cut(rotation: int, unit: int | None, read: Read) -> None:
    """A bar of a drawing, found in the rendered page, is read as a word: its text has to lie on the bar."""
    bar = (150, 220, 240, 232)
    source = drawn(b"0 g 150 220 90 12 re f", rotation, (50, 100, 450, 700), (100, 150, 400, 650), unit)
    shown = rendered(source, 2)
    rows, columns = np.where(np.asarray(shown.convert("L")) < 128)
    left, top, right, bottom = (float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    one = line("Hello 你好", left, top, right, bottom)
    if bottom - top > right - left:
        corners = (Point(right, top), Point(right, bottom), Point(left, bottom), Point(left, top))
        one = Line(text="Hello 你好", box=Box(left, top, right, bottom), polygon=corners)
    data = pdf(
        page(block(one), width=shown.width, height=shown.height, dpi=144),
        pictures=[picture(shown, file=source, pdf_index=0)],
    )
    assert [text.strip() for text in read(data)] == ["Hello 你好"]
    textpage = pypdfium2.PdfDocument(data)[0].get_textpage()
    places = np.array([textpage.get_charbox(index) for index in range(textpage.count_chars())])
    assert (*places.min(0)[:2], *places.max(0)[2:]) == pytest.approx(bar, abs=0.2)
    assert np.array_equal(np.asarray(rendered(data, 2)), np.asarray(shown))  # nothing is seen of it
    assert len(data) < len(source) + 4000  # the drawing is one still


# ---- the file


def test_the_file_says_what_it_is_and_what_made_it() -> None:
    with pikepdf.open(io.BytesIO(pdf(of_text("a"), source="scans/page 1.png"))) as opened:
        assert str(opened.docinfo.Title) == "page 1.png"
        assert str(opened.docinfo.Producer) == f"mindnlp-ocr {__version__}"
        assert "/Lang" not in opened.Root
        with opened.open_metadata() as metadata:
            assert metadata["dc:title"] == "page 1.png"
    source = drawn(BAR)
    with pikepdf.open(io.BytesIO(source)) as made:
        made.docinfo["/Title"] = "Annual report"
        stream = io.BytesIO()
        made.save(stream)
    with pikepdf.open(io.BytesIO(pdf(read_as("x"), pictures=[of_pdf(stream.getvalue())]))) as opened:
        assert str(opened.docinfo.Title) == "Annual report"


def test_the_file_is_sound_and_the_same_every_time() -> None:
    pages = [of_text("one"), of_text("two", 2)]
    pictures: list[PagePicture | None] = [picture(photograph()), picture(drawing((0, 0, 0), (255, 255, 255)))]
    first, second = pdf(*pages, pictures=pictures), pdf(*pages, pictures=pictures)
    assert first == second
    with pikepdf.open(io.BytesIO(first)) as opened:
        assert getattr(opened, "check_pdf_syntax", getattr(opened, "check", None))() == []


def test_the_font_is_what_the_dictionary_says() -> None:
    """As PDF/A wants it: embedded, of the same widths, every code drawn by a glyph that is there, and given a meaning."""
    with pikepdf.open(io.BytesIO(pdf(page(block(line("ab 汉 \U0001f600")))))) as opened:
        [font] = opened.pages[0].resources.Font.as_dict().values()
        [descendant] = font.DescendantFonts
        glyphs = descendant.CIDToGIDMap.read_bytes()
        widths, cmap = descendant.W.as_list(), font.ToUnicode.read_bytes().decode()
        program = descendant.FontDescriptor.FontFile2.read_bytes()
    ttfont = pytest.importorskip("fontTools.ttLib").TTFont(io.BytesIO(program))
    advances = [ttfont["hmtx"][name][0] for name in ttfont.getGlyphOrder()]
    pairs = re.findall(r"<(\w+)> <(\w+)>\n", cmap.split("endcodespacerange")[1])
    codes = {int(code, 16): bytes.fromhex(text).decode("utf-16-be") for code, text in pairs}
    assert set(codes.values()) == {"a", "b", " ", "汉", "\U0001f600"}
    for code in codes:
        glyph = int.from_bytes(glyphs[2 * code : 2 * code + 2], "big")
        assert glyph in (1, 2)
        assert advances[glyph] == (widths[2] if widths[0] <= code <= widths[1] else descendant.DW)
    assert all(ttfont["glyf"][name].endPtsOfContours == [0, 1] for name in ttfont.getGlyphOrder())  # points alone


def test_the_font_is_the_one_that_its_script_makes() -> None:
    pytest.importorskip("fontTools", reason="fontTools, of the extra bench, makes the font")
    from fontTools.ttLib import TTFont

    from tests.reference.make_blank_font import PATH, blank_font

    made, shipped = (TTFont(io.BytesIO(data)) for data in (blank_font(), PATH.read_bytes()))
    assert made.getGlyphOrder() == shipped.getGlyphOrder()
    assert made["hmtx"].metrics == shipped["hmtx"].metrics
    assert [list(made["glyf"][name].coordinates) for name in made.getGlyphOrder()] == [
        list(shipped["glyf"][name].coordinates) for name in shipped.getGlyphOrder()
    ]


def test_a_run_that_is_stopped_leaves_the_pages_before(read: Read) -> None:
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt), PdfWriter(stream) as writer:
        writer.begin("a.pdf")
        writer.page(of_text("one"))
        raise KeyboardInterrupt
    assert [text.strip() for text in read(stream.getvalue())] == ["one"]


def test_it_is_written_to_a_pipe(tmp_path: Path, read: Read) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with PdfWriter(pipe) as writer:  # type: ignore[arg-type]
        writer.begin("a.png")
        writer.page(of_text("one"))
        writer.end()
    assert [text.strip() for text in read(pipe.data)] == ["one"]


def test_a_page_read_in_one_request_can_be_searched(read: Read) -> None:
    [text] = read(pdf(in_one_request("Invoice 17\n\nTotal 5.00")))
    assert text.split() == ["Invoice", "17", "Total", "5.00"]
