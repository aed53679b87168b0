"""Tests of evaluation pages made from PDFs. They need no torch."""

import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops

from tests.conftest import ROOT
from training.pdf_pages import as_scan, make, trusted

PROSE = "The line detector finds the lines of a page, and the model reads each of them on its own. " * 5


def write_pdf(path: Path, lines: int) -> None:
    """A page with a text layer in Helvetica."""
    rows = "".join(f"({PROSE[:70]}) Tj 0 -20 Td " for _ in range(lines))
    content = f"BT /F 12 Tf 50 780 Td {rows}ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    body = "".join(f"{number} 0 obj\n{text}\nendobj\n" for number, text in enumerate(objects, 1))
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


def test_pages_are_written_with_their_text_and_come_again_with_the_same_seed(tmp_path: Path) -> None:
    pdfs = [tmp_path / "first.pdf", tmp_path / "second.pdf"]
    for path in pdfs:
        write_pdf(path, 12)
    write_pdf(tmp_path / "short.pdf", 1)
    for folder in ("once", "again"):
        assert make([*pdfs, tmp_path / "short.pdf"], tmp_path / folder, each=1, seed=3) == 2
    assert (tmp_path / "once/pages.json").read_bytes() == (tmp_path / "again/pages.json").read_bytes()
    truths = json.loads((tmp_path / "once/pages.json").read_text("utf8"))
    (clean, first), (scan, second) = truths.items()
    assert "clean" in clean and "scan" in scan, "every other page is made to look scanned"
    assert first["source"] == "first.pdf" and first["page"] == 1 and first["text"] == second["text"]
    for name in truths:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_scan_is_the_same_page_but_not_the_same_pixels() -> None:
    page = Image.open(ROOT / "examples/letter.png").convert("L")
    scanned = as_scan(page, Random(1))
    assert scanned.size == page.size
    assert ImageChops.difference(page, scanned).getbbox() is not None
