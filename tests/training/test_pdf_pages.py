"""Tests of evaluation pages made from PDFs. They need no torch."""

import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops

from tests.conftest import ROOT
from training.pdf_pages import as_scan, make, trusted

PROSE = "The line detector finds the lines of a page, and the model reads each of them on its own. " * 5


def write_pdf(path: Path, pages: int, lines: int = 12) -> None:
    """Pages with a text layer in Helvetica; each begins with its number."""
    objects = {1: "<< /Type /Catalog /Pages 2 0 R >>", 3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"}
    numbers = range(4, 4 + 2 * pages, 2)
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(f'{n} 0 R' for n in numbers)}] /Count {pages} >>"
    for page, n in enumerate(numbers, 1):
        rows = "".join(f"({PROSE[:70]}) Tj 0 -20 Td " for _ in range(lines))
        content = f"BT /F 12 Tf 50 780 Td (Page number {page}) Tj 0 -20 Td {rows}ET"
        objects[n] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {n + 1} 0 R "
            "/Resources << /Font << /F 3 0 R >> >> >>"
        )
        objects[n + 1] = f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"
    body = "".join(f"{n} 0 obj\n{text}\nendobj\n" for n, text in sorted(objects.items()))
    path.write_text(f"%PDF-1.4\n{body}trailer << /Root 1 0 R >>\n%%EOF\n", encoding="ascii")


@pytest.mark.parametrize(
    "text, expected",
    [
        (PROSE, True),
        ("Too short to be worth a page.", False),
        (PROSE + "S e t t i n g s " * 4, False),
        (PROSE + "\ue000", False),
        (PROSE + "Chapter 1 ............................ 7", False),
        (PROSE + "ʒ ȣ", False),
    ],
)
def test_a_text_layer_is_the_truth_only_if_a_reader_sees_the_same(text: str, expected: bool) -> None:
    assert trusted(text) is expected


def test_pages_are_drawn_by_the_seed_and_written_with_their_text(tmp_path: Path) -> None:
    pdfs = [tmp_path / "first.pdf", tmp_path / "second.pdf"]
    for path in pdfs:
        write_pdf(path, pages=9)
    for folder, seed in (("once", 3), ("again", 3), ("other", 4)):
        assert make(pdfs, tmp_path / folder, each=2, seed=seed) == 4
    once, again, other = (json.loads((tmp_path / f"{f}/typeset.json").read_text("utf8")) for f in ("once", "again", "other"))
    assert once == again and once.keys() != other.keys()
    assert [page["source"] for page in once.values()] == ["first.pdf"] * 2 + ["second.pdf"] * 2
    for (name, page), kind in zip(once.items(), ("clean", "scan", "clean", "scan"), strict=True):
        assert page["text"].startswith(f"Page number {page['page']}") and kind in name
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_page_of_few_words_and_a_damaged_pdf_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pdfs = [tmp_path / name for name in ("damaged.pdf", "short.pdf", "whole.pdf")]
    pdfs[0].write_bytes(b"%PDF-1.4 and nothing more")
    write_pdf(pdfs[1], pages=1, lines=1)
    write_pdf(pdfs[2], pages=1)
    assert make(pdfs, tmp_path / "pages", each=1, seed=1) == 1
    assert "damaged.pdf is left out" in caplog.text
    assert [page["source"] for page in json.loads((tmp_path / "pages/typeset.json").read_text("utf8")).values()] == [
        "whole.pdf"
    ]


def test_a_scan_is_the_same_page_but_not_the_same_pixels() -> None:
    page = Image.open(ROOT / "examples/letter.png").convert("L")
    scanned = as_scan(page, Random(1))
    assert scanned.size == page.size
    assert ImageChops.difference(page, scanned).getbbox() is not None
