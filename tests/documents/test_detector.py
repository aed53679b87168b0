"""Tests of the line detector: small numbers beside a text, and lines that the first pass does not separate."""

import numpy as np
from PIL import Image

from mindnlp_ocr.documents.detector import LineDetector, bounds, select_lines
from tests.conftest import ROOT

LINES = [(100, 100, 900, 130), (100, 140, 900, 170), (100, 220, 900, 250)]


def selected(*regions: tuple[tuple[int, int, int, int], float]) -> tuple[list[tuple[int, int, int, int]], bool]:
    """The regions that are lines, beside three sure ones, and whether all lines were separated."""
    found = [*((box, 0.9) for box in LINES), *regions]
    corners = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for (x0, y0, x1, y1), _ in found]
    kept, separated = select_lines(np.array(corners, np.float32), np.array([score for _, score in found]))
    return [bounds(quad) for quad in kept][len(LINES) :], separated


def test_the_numbers_of_lines_in_the_margin_are_found() -> None:
    page = Image.open(ROOT / "tests/data/dev/typeset_32_clean_150.jpg").convert("RGB")
    numbers = [(310, 325), (309, 371), (309, 393), (309, 1213)]  # centres of 46, 48, 49 and 54
    boxes = [bounds(quad) for quad in LineDetector().detect(page)]
    for x, y in numbers:
        assert any(left < x < right and top < y < bottom and right - left < 40 for left, top, right, bottom in boxes)


def test_an_unsure_region_is_a_line_if_it_covers_no_other() -> None:
    number = (60, 224, 85, 248)
    assert selected((number, 0.3)) == ([number], True)
    assert selected(((60, 224, 66, 230), 0.3)) == ([], True), "a speck is not text"
    assert selected(((300, 224, 340, 248), 0.3)) == ([], True), "this part of a line is read with the line"


def test_a_long_region_that_covers_other_lines_calls_for_a_second_pass() -> None:
    assert selected(((95, 172, 905, 232), 0.3)) == ([(95, 172, 905, 232)], True)
    assert selected(((95, 130, 905, 250), 0.3)) == ([], False)


def test_a_page_without_sure_regions_has_no_lines() -> None:
    quad = np.array([[[0, 0], [90, 0], [90, 20], [0, 20]]], np.float32)
    kept, separated = select_lines(quad, np.array([0.4]))
    assert len(kept) == 0 and separated
