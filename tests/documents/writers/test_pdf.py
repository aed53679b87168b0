"""Tests of searchable PDF: PDFium and poppler find the text at the positions of the words, and it is invisible."""

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image, ImageDraw

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Box, Document, Line, Page, Point
from mindnlp_ocr.documents.writers.base import PagePicture
from mindnlp_ocr.documents.writers.pdf import PdfWriter
from mindnlp_ocr.errors import PageError
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
    written,
)

Read = Callable[[bytes], list[str]]


def by_pdfium(pdf: bytes) -> list[str]:
    """The text of every page, blanks at line ends aside."""
    document = pypdfium2.PdfDocument(pdf)
    return ["\n".join(one.get_textpage().get_text_range().split("\r\n")) for one in document]


def by_poppler(pdf: bytes) -> list[str]:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: apt-get install poppler-utils")
    done = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True)
    return done.stdout.decode().split("\f")[:-1]


@pytest.fixture(params=[by_pdfium, by_poppler])
def read(request: pytest.FixtureRequest) -> Read:
    """What extracts text: PDFium always, poppler where it is installed."""
    return request.param  # type: ignore[no-any-return]


def pdf(*pages: Page, pictures: list[PagePicture | None] | None = None, source: str = "scan.png", **more: Any) -> bytes:
    return written("pdf", Document(source=source, pages=pages, **more), pictures=pictures)


def rendered(data: bytes, scale: float, index: int = 0) -> Image.Image:
    return pypdfium2.PdfDocument(data)[index].render(scale=scale).to_pil().convert("RGB")


def images(data: bytes) -> list[pikepdf.Object]:
    with pikepdf.open(io.BytesIO(data)) as opened:
        return [
            dict(image.stream_dict, data=image.read_raw_bytes())
            for one in opened.pages
            for image in one.resources.get("/XObject", pikepdf.Dictionary()).as_dict().values()
        ]


def photograph(width: int = 400, height: int = 300) -> Image.Image:
    """More colours than any drawing has."""
    ramp = np.add.outer(np.arange(height), np.arange(width))
    pixels = np.stack([ramp % 256, (2 * ramp) % 256, (3 * ramp) % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels)


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


# ---- pages of images


def test_a_page_is_as_large_as_its_dpi_says() -> None:
    def size(dpi: float | None, width: int = 800, height: int = 600) -> tuple[float, float]:
        data = pdf(page(width=width, height=height, dpi=dpi))
        return pypdfium2.PdfDocument(data)[0].get_size()

    assert size(100) == (576, 432)
    assert size(300) == pytest.approx((192, 144))
    for unknown in (None, 1, 0.1, 1_000_000):  # 200
        assert size(unknown) == pytest.approx((288, 216))
    assert size(72, 28_800, 7_200) == pytest.approx((14_400, 3_600))  # no side may be longer


def test_a_jpeg_is_kept_to_the_byte(tmp_path: Path) -> None:
    for mode, space in (("RGB", "/DeviceRGB"), ("L", "/DeviceGray")):
        photograph().convert(mode).save(tmp_path / "a.jpg", quality=70)
        own = (tmp_path / "a.jpg").read_bytes()
        for file in (tmp_path / "a.jpg", own):
            [image] = images(pdf(of_text("a"), pictures=[picture(photograph(), file=file)]))
            assert image["data"] == own
            assert (image["/Filter"], image["/ColorSpace"]) == ("/DCTDecode", space)


def test_a_jpeg_that_shows_another_picture_is_made_anew(tmp_path: Path) -> None:
    turned_file, cmyk = tmp_path / "turned.jpg", tmp_path / "cmyk.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().save(turned_file, exif=exif)
    photograph().convert("CMYK").save(cmyk)
    for file in (turned_file, cmyk):
        [image] = images(pdf(of_text("a"), pictures=[picture(photograph(300, 400), file=file)]))
        assert image["data"] != file.read_bytes()
        assert (image["/Width"], image["/Height"], image["/ColorSpace"]) == (300, 400, "/DeviceRGB")


def drawing(ink: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (400, 300), ground)
    ImageDraw.Draw(image).rectangle((40, 30, 199, 89), fill=ink)
    return image


@pytest.mark.parametrize(
    ("image", "coding", "space"),
    [
        (drawing((0, 0, 0), (255, 255, 255)), "/CCITTFaxDecode", "/DeviceGray"),
        (drawing((255, 255, 255), (0, 0, 0)), "/CCITTFaxDecode", "/DeviceGray"),
        (Image.new("RGB", (400, 300), "white"), "/CCITTFaxDecode", "/DeviceGray"),
        (drawing((70, 70, 70), (200, 200, 200)), "/FlateDecode", "/DeviceGray"),
        (drawing((200, 0, 0), (255, 255, 240)), "/FlateDecode", "/DeviceRGB"),
        (photograph(100, 100), "/FlateDecode", "/DeviceRGB"),
        (photograph().convert("L").convert("RGB"), "/DCTDecode", "/DeviceGray"),
        (photograph(), "/DCTDecode", "/DeviceRGB"),
    ],
)
def test_a_picture_is_held_as_its_kind_allows(image: Image.Image, coding: str, space: str) -> None:
    data = pdf(page(width=image.width, height=image.height, dpi=72), pictures=[picture(image)])
    [held] = images(data)
    assert (held["/Filter"], held["/ColorSpace"]) == (coding, space)
    difference = np.abs(np.asarray(rendered(data, 1), int) - np.asarray(image, int))
    assert difference.mean() < 6 if coding == "/DCTDecode" else not difference.any()


def test_many_pictures_wait_in_a_file_and_come_out_in_their_order(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    monkeypatch.setattr("mindnlp_ocr.documents.writers.pdf.IN_MEMORY", 1000)
    shades = [(30 * number, 200 - 20 * number, 90) for number in range(7)]
    stream = io.BytesIO()
    with PdfWriter(stream) as writer:
        writer.begin("a.tiff")
        for number, shade in enumerate(shades, 1):
            one = of_text(f"page {number}", number).model_copy(update={"width": 400, "height": 300, "dpi": 72.0})
            writer.page(one, picture(drawing(shade, (255, 255, 255))))
        folder = writer._folder
        writer.end()
    assert folder is not None
    assert not Path(folder.name).exists()
    data = stream.getvalue()
    assert [text.strip() for text in read(data)] == [f"page {number}" for number in range(1, 8)]
    assert [rendered(data, 1, number).getpixel((100, 60)) for number in range(7)] == shades
    with pikepdf.open(io.BytesIO(data)) as opened:
        assert "/BlankOCR" not in opened.Root
        assert len({one.resources.Font.BlankOCR.objgen for one in opened.pages}) == 1


def test_a_page_whose_picture_cannot_be_had_is_blank_where_that_is_known() -> None:
    def broken() -> Image.Image:
        raise PageError("a.png is truncated")

    data = pdf(Page(number=1, error="a.png is truncated"), pictures=[PagePicture(broken)])
    assert pypdfium2.PdfDocument(data)[0].get_size() == (595, 842)
    assert images(pdf(page(error="too long"), pictures=[PagePicture(broken)])) == []
    assert len(images(pdf(page(error="too long"), pictures=[picture(photograph())]))) == 1
    with pytest.raises(PageError, match=r"a\.png is truncated"):
        pdf(of_text("a"), pictures=[PagePicture(broken)])


def test_a_document_without_pages_is_a_blank_one() -> None:
    assert [one.get_size() for one in pypdfium2.PdfDocument(pdf(error="a.pdf is damaged"))] == [(595, 842)]


# ---- pages of PDF


def drawn(
    content: bytes,
    rotation: int = 0,
    media: tuple[float, ...] = (0, 0, 300, 200),
    crop: tuple[float, ...] | None = None,
    unit: int | None = None,
    pages: int = 1,
    **save: Any,
) -> bytes:
    """A PDF with the same drawing on every page."""
    made = pikepdf.new()
    for _ in range(pages):
        made.add_blank_page(page_size=(100, 100))
        one = made.pages[-1].obj
        one.MediaBox, one.Rotate, one.Contents = pikepdf.Array(media), rotation, made.make_stream(content)
        if crop is not None:
            one.CropBox = pikepdf.Array(crop)
        if unit is not None:
            one.UserUnit = unit
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        one.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
    stream = io.BytesIO()
    made.save(stream, **save)
    return stream.getvalue()


BAR = b"0 g 20 20 100 30 re f"
WORDS = b"BT /F 20 Tf 20 100 Td (printed words) Tj ET"


def of_pdf(source: bytes, index: int = 0, password: str | None = None) -> PagePicture:
    opened = pypdfium2.PdfDocument(source, password=password)
    return PagePicture(
        lambda: opened[index].render(scale=2).to_pil().convert("RGB"),
        dpi=144,
        file=source,
        pdf_index=index,
        password=password,
    )


def read_as(text: str, number: int = 1, **more: Any) -> Page:
    return page(block(line(text, 40, 300, 240, 360)), number=number, width=600, height=400, dpi=144.0, **more)


def test_a_page_that_has_text_becomes_its_picture(read: Read) -> None:
    source = drawn(BAR + b" " + WORDS)
    assert read(source)[0].strip() == "printed words"
    data = pdf(read_as("what was read"), pictures=[of_pdf(source)])
    assert [text.strip() for text in read(data)] == ["what was read"]
    assert len(images(data)) == 1
    difference = np.abs(np.asarray(rendered(data, 2), int) - np.asarray(rendered(source, 2), int))
    assert difference.mean() < 2


def test_text_in_a_form_of_a_page_counts(read: Read) -> None:
    with pikepdf.open(io.BytesIO(drawn(b"/X Do"))) as made:
        form = made.make_stream(WORDS, Type=pikepdf.Name.XObject, Subtype=pikepdf.Name.Form, BBox=[0, 0, 300, 200])
        form.Resources = made.pages[0].resources
        made.pages[0].resources.XObject = pikepdf.Dictionary(X=form)
        stream = io.BytesIO()
        made.save(stream)
    assert read(stream.getvalue())[0].strip() == "printed words"
    data = pdf(read_as("what was read"), pictures=[of_pdf(stream.getvalue())])
    assert [text.strip() for text in read(data)] == ["what was read"]


def test_a_page_from_its_text_layer_and_one_with_an_error_stay(read: Read) -> None:
    source = drawn(BAR + b" " + WORDS, pages=3)
    pages = [read_as("x", layout="text-layer"), page(number=2, error="out of memory"), page(number=3)]
    data = pdf(*pages, pictures=[of_pdf(source, index) for index in range(3)])
    assert [text.strip() for text in read(data)] == ["printed words"] * 3
    assert images(data) == []


def test_pages_that_were_not_asked_for_are_left_out(read: Read) -> None:
    source = drawn(BAR, pages=9)
    chosen = [1, 4, 8]
    pages = [read_as(f"page {index + 1}", index + 1) for index in chosen]
    data = pdf(*pages, pages[0], pictures=[*[of_pdf(source, index) for index in chosen], of_pdf(source, 1)])
    assert [text.strip() for text in read(data)] == ["page 2", "page 5", "page 9"]


def test_an_encrypted_pdf_is_opened_with_its_password(read: Read) -> None:
    source = drawn(BAR, encryption=pikepdf.Encryption(user="secret", owner="other"))
    data = pdf(read_as("what was read"), pictures=[of_pdf(source, password="secret")])
    assert [text.strip() for text in read(data)] == ["what was read"]
    assert images(data) == []  # its own page, and no picture of it


def test_what_pikepdf_cannot_open_becomes_pictures(read: Read) -> None:
    shown = drawing((0, 0, 0), (255, 255, 255))
    data = pdf(read_as("what was read"), pictures=[picture(shown, file=b"%PDF-1.7 damaged", pdf_index=0)])
    assert [text.strip() for text in read(data)] == ["what was read"]
    assert len(images(data)) == 1


def test_fonts_of_a_page_that_others_share_are_kept() -> None:
    source = drawn(BAR, pages=2)
    data = pdf(*[read_as("x", number) for number in (1, 2)], pictures=[of_pdf(source, index) for index in (0, 1)])
    with pikepdf.open(io.BytesIO(data)) as opened:
        fonts = [one.resources.Font for one in opened.pages]
        assert [sorted(font.keys()) for font in fonts] == [["/BlankOCR", "/F"]] * 2
        assert fonts[0].BlankOCR.objgen == fonts[1].BlankOCR.objgen


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
