"""Tests of opening documents, and of the error for each kind of invalid document."""

import io
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from PIL import Image, ImageDraw

from mindnlp_ocr.documents.source import Source, expand
from mindnlp_ocr.errors import PageError

PAGE = Image.new("RGB", (170, 110), "white")
ImageDraw.Draw(PAGE).rectangle((20, 20, 60, 40), fill="black")


def pdf(path: Path, pages: int = 1, **options: Any) -> str:
    """Create a PDF with one image per page, at 100 dpi."""
    PAGE.save(path, "PDF", resolution=100, save_all=True, append_images=[PAGE] * (pages - 1))
    if options:
        with pikepdf.open(path, allow_overwriting_input=True) as file:
            file.save(path, **options)
    return str(path)


def refused(name: str, **options: Any) -> str:
    with pytest.raises(PageError) as error:
        Source(name, **options).page(0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pages_of_a_pdf_are_rendered_at_the_resolution_that_is_asked_for(tmp_path: Path) -> None:
    source = Source(pdf(tmp_path / "a.pdf", 3), dpi=200)
    assert source.pages == 3
    page = source.page(2)
    assert (page.number, page.dpi, page.image.size, page.image.mode) == (3, 200, (341, 220), "RGB")
    assert page.image.getpixel((80, 60)) == (0, 0, 0)
    assert Source(str(tmp_path / "a.pdf"), dpi=100).page(0).image.size == (171, 110)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    assert Source(pdf(tmp_path / "wrong.png")).pdf is not None
    PAGE.save(tmp_path / "wrong.pdf", "PNG")
    assert Source(str(tmp_path / "wrong.pdf")).page(0).image.size == PAGE.size


def test_an_encrypted_pdf_needs_its_password(tmp_path: Path) -> None:
    name = pdf(tmp_path / "a.pdf", encryption=pikepdf.Encryption(owner="owner", user="open sesame"))
    assert refused(name) == f"{name} cannot be opened (it is encrypted): add --password"
    assert refused(name, password="wrong") == f"{name} cannot be opened (the password is wrong): add --password"
    assert Source(name, password="open sesame").page(0).image.size == (341, 220)


def test_a_damaged_pdf_is_refused_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    content = Path(pdf(tmp_path / "a.pdf")).read_bytes()
    (tmp_path / "a.pdf").write_bytes(content[:200])
    assert "is damaged or not a PDF" in refused(str(tmp_path / "a.pdf"))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7\n")
    assert "is damaged or not a PDF" in refused(str(tmp_path / "b.pdf"))


def test_a_pdf_without_pages_is_refused(tmp_path: Path) -> None:
    pikepdf.new().save(tmp_path / "empty.pdf")
    assert refused(str(tmp_path / "empty.pdf")).startswith(f"{tmp_path / 'empty.pdf'} ")


def test_a_large_page_is_rendered_smaller_and_a_gigantic_one_is_refused(tmp_path: Path) -> None:
    for name, points in (("large", 72 * 60), ("gigantic", 14_400)):
        file = pikepdf.new()
        file.add_blank_page(page_size=(points, points))
        file.save(tmp_path / f"{name}.pdf")
    page = Source(str(tmp_path / "large.pdf")).page(0)
    assert 39e6 < page.image.width * page.image.height < 40.1e6
    assert page.warnings == ("The page is so large that it was rendered at 105 dpi.",)
    five_metres = Source(str(tmp_path / "gigantic.pdf")).page(0)
    assert five_metres.dpi is not None
    assert five_metres.dpi < 40


def test_ten_thousand_pages_are_counted_and_one_is_opened(tmp_path: Path) -> None:
    file = pikepdf.new()
    for _ in range(10_000):
        file.add_blank_page(page_size=(100, 100))
    file.save(tmp_path / "long.pdf")
    source = Source(str(tmp_path / "long.pdf"), dpi=72)
    assert source.pages == 10_000
    assert source.page(9_999).image.size == (100, 100)


def test_a_pdf_of_jpeg_2000_and_one_of_a_fax_are_rendered(tmp_path: Path) -> None:
    for name, kind, options in (("jpx", "JPEG2000", {}), ("fax", "TIFF", {"compression": "group4"})):
        content = io.BytesIO()
        (PAGE.convert("1") if name == "fax" else PAGE).save(content, kind, **options)
        if name == "fax":
            (tmp_path / "fax.tif").write_bytes(content.getvalue())
            assert Source(str(tmp_path / "fax.tif")).page(0).image.getpixel((40, 30)) == (0, 0, 0)
            continue
        file = pikepdf.new()
        page = file.add_blank_page(page_size=(170, 110))
        image = file.make_stream(content.getvalue(), Type=pikepdf.Name.XObject, Subtype=pikepdf.Name.Image, Width=170,
                                 Height=110, Filter=pikepdf.Name.JPXDecode)  # fmt: skip
        page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Im=image))
        page.Contents = file.make_stream(b"q 170 0 0 110 0 0 cm /Im Do Q")
        file.save(tmp_path / "jpx.pdf")
        red, green, blue = Source(str(tmp_path / "jpx.pdf"), dpi=72).page(0).image.getpixel((40, 30))  # type: ignore[misc]
        assert max(red, green, blue) < 60


def test_the_text_layer_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    file = pikepdf.new()
    page = file.add_blank_page(page_size=(200, 100))
    font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
    page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
    page.Contents = file.make_stream(b"BT /F 12 Tf 20 70 Td (Hello there) Tj 0 -30 Td (Second line) Tj ET")
    file.save(tmp_path / "a.pdf")
    source = Source(str(tmp_path / "a.pdf"), dpi=144)
    assert source.page(0).text_layer == ()
    first, second = source.page(0, text_layer=True).text_layer
    assert (first.text, second.text) == ("Hello there", "Second line")
    assert 38 <= first.box.left <= 44
    assert 36 <= first.box.top < first.box.bottom <= 68  # the baseline stands 30 points below the top


def test_a_tiff_has_pages_and_an_animation_one(tmp_path: Path) -> None:
    other = PAGE.resize((100, 50))
    PAGE.save(tmp_path / "a.tif", save_all=True, append_images=[other], dpi=(150, 150))
    source = Source(str(tmp_path / "a.tif"))
    assert source.pages == 2
    assert [source.page(i).image.size for i in (0, 1)] == [PAGE.size, other.size]
    assert source.page(0).dpi == 150
    PAGE.save(tmp_path / "a.gif", save_all=True, append_images=[PAGE.rotate(90), PAGE.rotate(180)])
    page = Source(str(tmp_path / "a.gif")).page(0)
    assert page.warnings == ("The file is an animation of 3 frames; only the first was read.",)
    assert page.image.getpixel((40, 30)) == (0, 0, 0)


def test_cmyk_and_grey_pages_come_as_rgb(tmp_path: Path) -> None:
    PAGE.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    PAGE.convert("L").save(tmp_path / "b.png")
    for name in ("a.jpg", "b.png"):
        image = Source(str(tmp_path / name)).page(0).image
        assert image.mode == "RGB"
        assert max(image.getpixel((40, 30))) < 40  # type: ignore[arg-type]
        assert min(image.getpixel((150, 100))) > 215  # type: ignore[arg-type]


def test_files_other_than_documents_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "empty.pdf").touch()
    assert "is not an image that Pillow can open" in refused(str(tmp_path / "a.png"))
    assert "is not an image that Pillow can open" in refused(str(tmp_path / "empty.pdf"))
    assert refused(str(tmp_path / "none.pdf")) == f"{tmp_path / 'none.pdf'} is missing: pass a PDF or an image file"
    assert refused(str(tmp_path)).endswith("is a folder without documents: pass a PDF or an image file")
    assert "is a web address" in refused("https://example.org/a.pdf")


def test_standard_input_holds_a_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stdin:
        buffer = io.BytesIO(Path(pdf(tmp_path / "a.pdf", 2)).read_bytes())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert Source("-").pages == 2
    assert refused("-") == "standard input is empty: send a PDF or an image to it"


def test_a_folder_of_ten_thousand_files_names_its_documents_in_order(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number:05}.{('png', 'txt')[number % 2]}").touch()
    (tmp_path / "a.pdf").touch()
    found = list(expand(str(tmp_path)))
    assert len(found) == 5_001
    assert found == sorted(found)
    assert found[-1].endswith("a.pdf")
