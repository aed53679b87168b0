"""Tests that a line that was read with a low confidence is read again from a wider crop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Box
from mindnlp_ocr.errors import PageError
from tests.documents.scripted import Answer, ScriptedModel

SURE, UNSURE = "a word", " ".join(["a word that goes on"] * 25)  # the confidence falls with the number of tokens
BOXES = [Box(10, 10, 210, 30), Box(10, 50, 410, 70)]  # crops of 280 and 560 pixels, and of 560 and 1,120 if read again
LINES = {"prompt": "line", "height": 28, "min_confidence": 0.7, "stretch_again": 2.0}


def read(folder: Path, answer: Callable[[int], Answer], **lines: Any) -> tuple[list[str], list[int]]:
    """Read two lines; return their texts, and the widths of all crops in the order of their requests."""
    widths: list[int] = []

    def script(prompt: str, crop: Image.Image) -> Answer:
        widths.append(crop.width)
        return answer(crop.width)

    declared: dict[str, Any] = {"layout": "lines", "lines": {**LINES, **lines}, "confidence": {"bias": 0.0}}
    model: Any = ScriptedModel(script, folder, **declared)
    reader = DocumentReader(model, threads=1)
    return [line.text for line in reader.read_lines(Image.new("RGB", (500, 100), "white"), BOXES)], widths


def test_only_a_line_with_a_low_confidence_is_read_again_and_the_surer_reading_remains(tmp_path: Path) -> None:
    answers = {280: UNSURE, 560: "wide and sure"}
    assert read(tmp_path, lambda width: answers[width]) == (["wide and sure"] * 2, [280, 560, 560])


@pytest.mark.parametrize("second", [UNSURE + UNSURE, "", PageError("no room")], ids=["less sure", "empty", "failed"])
def test_the_first_reading_remains_if_the_second_is(second: Answer, tmp_path: Path) -> None:
    answers: dict[int, Answer] = {280: UNSURE, 560: SURE}
    texts, widths = read(tmp_path, lambda width: second if width == 840 else answers[width], stretch_again=3.0)
    assert texts == [UNSURE, SURE]
    assert widths == [280, 560, 840]


@pytest.mark.parametrize(
    ("lines", "widths"),
    [
        ({"min_confidence": 0.0}, [280, 560]),
        ({"stretch_again": 1.0}, [280, 560]),
        ({"max_width": 700}, [280, 560, 560, 700]),
    ],
    ids=["never", "no wider crop", "as wide as permitted"],
)
def test_how_wide_a_crop_becomes(lines: dict[str, Any], widths: list[int], tmp_path: Path) -> None:
    assert read(tmp_path, lambda width: UNSURE, **lines) == ([UNSURE] * 2, widths)


def test_nothing_is_read_again_where_nothing_was_read(tmp_path: Path) -> None:
    assert read(tmp_path, lambda width: "") == ([""] * 2, [280, 560])
