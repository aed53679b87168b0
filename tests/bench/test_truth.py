"""Tests of all formats of ground truth: hOCR, and boxes of one or many pages, beside images or in separate files."""

import json
import shutil
from pathlib import Path

import pytest

from mindnlp_ocr.bench.accuracy import dataset
from mindnlp_ocr.bench.truth import TrueLine, Truth, of_hocr, truth_of
from mindnlp_ocr.documents.result import Box
from mindnlp_ocr.errors import SetupError
from tests.conftest import ROOT

HOCR = """<?xml version="1.0"?><html><head><title>A page</title><meta name="ocr-system" content="x"></head><body>
<div class="ocr_page" title="image a.png; bbox 0 0 100 200"><p class="ocr_par" title="bbox 1 1 90 90">
<span class="ocr_header ocr_x" title="bbox 5 6 70 20; baseline 0 -3">
  <span class="ocrx_word" title="bbox 5 6 30 20">A &amp;</span>
  <span class="ocrx_word" title="bbox 40 6 70 20"><strong>B</strong></span></span>
<span class="ocr_line" title="textangle 0; bbox 5 26.5 70 40">one<br>two</span>
<span class="ocr_line" title="bbox 5 50 70 60"> </span><span class="ocr_line">no place</span>
</p><p>beside</p></div></body></html>"""
BOXES = [[1, 2, 30.5, 12, "first line"], [1, 14, 30, 24, "会议"]]
TRUTH = Truth("first line\n会议", (TrueLine(Box(1, 2, 30.5, 12), "first line"), TrueLine(Box(1, 14, 30, 24), "会议")))


def test_hocr_gives_lines_in_the_order_of_the_document() -> None:
    assert of_hocr(HOCR).lines == (TrueLine(Box(5, 6, 70, 20), "A & B"), TrueLine(Box(5, 26.5, 70, 40), "one two"))
    assert of_hocr(HOCR).text == "A & B\none two"


def test_the_first_form_beside_an_image_is_taken(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    assert truth_of(image) is None
    (tmp_path / "a.json").write_text(json.dumps(BOXES), encoding="utf-8")
    assert truth_of(image) == TRUTH
    (tmp_path / "a.json").write_text('{"text": "ab", "source": "more"}', encoding="utf-8")
    assert truth_of(image) == Truth("ab")
    (tmp_path / "a.html").write_text(HOCR, encoding="utf-8")
    assert truth_of(image) == of_hocr(HOCR)
    (tmp_path / "a.txt").write_text("plain", encoding="utf-8")
    assert truth_of(image) == Truth("plain")


def test_a_json_holds_the_truth_of_many_images(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"b.png": BOXES, "a.png": {"text": "x", "page": 3}}), encoding="utf-8")
    pages, without = dataset(str(path))
    assert [(page.image, page.truth, page.lines) for page in pages] == [
        (str(tmp_path / "b.png"), TRUTH.text, TRUTH.lines),
        (str(tmp_path / "a.png"), "x", ()),
    ]
    assert without == []
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "other.json").write_text('{"results": []}', encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "b.txt").write_text("beside", encoding="utf-8")
    pages, without = dataset(str(tmp_path))
    assert [(Path(page.image).name, page.truth) for page in pages] == [("a.png", "x"), ("b.png", "beside")]
    assert without == [str(tmp_path / "c.png")]
    assert dataset(str(tmp_path / "a.png")) == ([pages[0]], [])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.json",
            '[[1, 2, 3, "x"]]',
            r"a\.json is not a ground truth \(.*: use \[\[LEFT, TOP, RIGHT, BOTTOM, TEXT\]",
        ),
        ("a.json", "{", r"a\.json is not a ground truth \(Invalid JSON"),
        ("a.hocr", "<p>text</p>", r"a\.hocr is not hOCR: it has no element of the class ocr_line"),
        ("a.hocr", "\udcff", r"a\.hocr cannot be read \(.*: save the text of a\.png in UTF-8"),
    ],
)
def test_what_is_no_truth_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SetupError, match=message):
        truth_of(tmp_path / "a.png")


def test_a_json_of_another_kind_is_no_data_set(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "goldens" / "shapes.json", tmp_path / "a.json")
    with pytest.raises(SetupError, match=r"a\.json is not a list of pages \("):
        dataset(str(tmp_path / "a.json"))
