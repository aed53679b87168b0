"""Tests of searchable PDF over images and over the pages of other PDFs: what becomes of a picture, and what stays."""

import io
from pathlib import Path

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.writers.base import PagePicture
from mindnlp_ocr.documents.writers.pdf import PdfWriter
from mindnlp_ocr.errors import PageError
from tests.documents.writers.pages import (
    of_text,
    page,
    picture,
)
from tests.documents.writers.pdfs import (
    BAR,
    WORDS,
    Read,
    drawing,
    drawn,
    images,
    of_pdf,
    pdf,
    photograph,
    read_as,
    rendered,
)

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


def test_many_pictures_wait_in_a_file_and_come_out_in_their_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Read
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("mindnlp_ocr.documents.writers.pdf.IN_MEMORY", 1000)
    shades = [(30 * number, 200 - 20 * number, 90) for number in range(7)]
    stream = io.BytesIO()
    with PdfWriter(stream) as writer:
        writer.begin("a.tiff")
        for number, shade in enumerate(shades, 1):
            one = of_text(f"page {number}", number).model_copy(update={"width": 400, "height": 300, "dpi": 72.0})
            writer.page(one, picture(drawing(shade, (255, 255, 255))))
        assert list(tmp_path.iterdir())
        writer.end()
    assert not list(tmp_path.iterdir())
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
