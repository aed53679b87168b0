"""Tests that a small page that was read whole with a low confidence is read again by its lines."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.settings import LayoutChoice
from mindnlp_ocr.errors import PageError
from tests.conftest import ROOT
from tests.documents.scripted import Answer, ScriptedModel, by_prompt

SURE, UNSURE = "a word", " ".join(["a word that goes on"] * 25)  # the confidence falls with the number of tokens


@pytest.fixture(scope="module")
def small_page() -> Image.Image:
    with Image.open(ROOT / "examples" / "letter.png") as image:
        return image.convert("RGB")


def reader(folder: Path, whole: Answer, line: Answer, layout: LayoutChoice = "auto", **settings: Any) -> DocumentReader:
    declared: dict[str, Any] = {
        "layout": "lines",
        "page_prompt": "page",
        "page_max_pixels": 1_000_000,
        "page_min_confidence": 0.7,
        "lines": {"prompt": "line", "height": 28},
        "confidence": {"bias": 0.0},
    }
    model: Any = ScriptedModel(by_prompt({"page": whole, "line": line}), folder, **{**declared, **settings})
    return DocumentReader(model, layout=layout, threads=1)


def test_a_page_that_was_read_with_a_low_confidence_is_read_again_by_lines(tmp_path: Path, small_page: Image.Image) -> None:
    page = reader(tmp_path, UNSURE, SURE).read_image(small_page)
    assert page.layout == "lines"
    assert {line.text for line in page.lines} == {SURE}
    assert len(page.lines) > 5
    assert page.warnings == ()


@pytest.mark.parametrize(
    ("whole", "line", "layout", "settings"),
    [
        (SURE, "lines", "auto", {}),
        (UNSURE, SURE, "page", {}),
        (UNSURE, SURE, "auto", {"page_min_confidence": 0}),
        (UNSURE, UNSURE + UNSURE, "auto", {}),
        (UNSURE, PageError("no room"), "auto", {}),
    ],
    ids=[
        "it is confident",
        "the caller chose the layout",
        "the settings say never",
        "its lines are read worse",
        "no line is read",
    ],
)
def test_a_page_stays_as_it_was_read_if(
    tmp_path: Path, small_page: Image.Image, whole: str, line: Answer, layout: LayoutChoice, settings: dict[str, Any]
) -> None:
    page = reader(tmp_path, whole, line, layout, **settings).read_image(small_page)
    assert page.layout == "page"
    assert page.text == whole


def test_the_text_is_passed_on_once_if_it_may_change(tmp_path: Path, small_page: Image.Image) -> None:
    pieces: list[str] = []
    page = reader(tmp_path, UNSURE, SURE).read_image(small_page, on_text=pieces.append)
    assert pieces == [page.text]
    assert SURE in page.text
