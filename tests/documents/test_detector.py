"""Tests of the line detector: small numbers beside a text, and lines that the first pass does not separate."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.documents.detector import FINE_SIDE, SIDE, Detection, LineDetector, bounds, select_lines
from tests.conftest import ROOT

Region = tuple[int, int, int, int]
LINES: list[Region] = [(100, 100, 900, 130), (100, 140, 900, 170), (100, 220, 900, 250)]


def corners(region: Region) -> list[list[int]]:
    left, top, right, bottom = region
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def selected(*unsure: Region, on_its_side: bool = False) -> tuple[list[Region], bool]:
    """The unsure regions that are lines, beside three sure ones, and whether all lines were separated."""
    boxes = np.array([corners(region) for region in (*LINES, *unsure)], np.float32)
    if on_its_side:
        boxes = np.roll(np.stack([300 - boxes[..., 1], boxes[..., 0]], -1), 1, 1)
    scores = np.array([0.9] * len(LINES) + [0.4 - 0.01 * n for n in range(len(unsure))])
    sure, kept, separated = select_lines(boxes, scores)
    assert (sure == boxes[: len(LINES)]).all()
    return [
        region for region, box in zip(unsure, boxes[len(LINES) :], strict=True) if any((box == one).all() for one in kept)
    ], separated


def test_the_numbers_of_lines_in_the_margin_are_found() -> None:
    page = Image.open(ROOT / "tests/data/dev/typeset_32_clean_150.jpg").convert("RGB")
    numbers = [(310, 325), (309, 371), (309, 393), (309, 1213)]  # centres of 46, 48, 49 and 54
    boxes = [bounds(quad) for quad in LineDetector().detect(page).quads]
    for x, y in numbers:
        assert any(left < x < right and top < y < bottom and right - left < 40 for left, top, right, bottom in boxes)


@pytest.mark.parametrize("on_its_side", [False, True])
def test_an_unsure_region_is_a_line_if_it_is_as_thick_as_a_line_and_overlaps_no_other(on_its_side: bool) -> None:
    number, speck, part = (60, 224, 85, 248), (60, 224, 66, 230), (300, 224, 340, 248)
    picture, around = (100, 260, 900, 295 + 200), (95, 98, 905, 135)
    assert selected(number, on_its_side=on_its_side) == ([number], True)
    for region in (speck, part, picture):
        assert selected(region, on_its_side=on_its_side) == ([], True)
    assert selected(around, on_its_side=on_its_side)[0] == [], "what surrounds a line would be read twice"


def test_of_unsure_regions_that_overlap_the_surer_one_is_a_line() -> None:
    assert selected((60, 224, 85, 248), (58, 222, 88, 250)) == ([(60, 224, 85, 248)], True)


@pytest.mark.parametrize("on_its_side", [False, True])
def test_a_long_region_over_other_lines_shows_that_lines_are_not_separated(on_its_side: bool) -> None:
    assert selected((95, 172, 905, 218), on_its_side=on_its_side) == ([(95, 172, 905, 218)], True)
    assert selected((95, 150, 905, 250), on_its_side=on_its_side) == ([], False)


def test_a_page_without_sure_regions_has_no_lines() -> None:
    sure, unsure, _ = select_lines(np.array([corners((0, 0, 90, 20))], np.float32), np.array([0.4]))
    assert len(sure) == len(unsure) == 0


@pytest.mark.parametrize(
    "edge, separated, found, sides",
    [
        (2000, True, 1, [SIDE]),
        (2000, False, 1, [SIDE, FINE_SIDE]),
        (1000, False, 1, [SIDE]),
        (2000, False, 0, [SIDE, FINE_SIDE]),
    ],
)
def test_a_large_page_gets_a_second_pass_if_its_lines_are_not_separated(
    edge: int, separated: bool, found: int, sides: list[int]
) -> None:
    line = np.array(corners((100, 100, 900, 140)), np.float64)
    asked: list[int] = []

    class Passes(LineDetector):
        def _detect(self, pixels: NDArray[Any], side: int) -> tuple[Detection, bool]:
            asked.append(side)
            return (Detection([line], [True]) if side == SIDE or found else Detection([], [])), separated

    quads = Passes().detect(Image.new("RGB", (edge, edge), "white")).quads
    assert asked == sides
    assert len(quads) == 1, "a second pass that finds nothing does not count"
