"""Tests of the images of pages with their results."""

import numpy as np
import pytest
from PIL import Image

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.visualize import colour, visualize
from tests.documents.writers.pages import block, line, page, table, turned

GREEN, RED, GREY = (0, 140, 50), (205, 20, 20), (110, 110, 110)


def blank(width: int = 800, height: int = 600) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def count(image: Image.Image, wanted: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == wanted).all(-1).sum())


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [(None, GREY), (1.0, GREEN), (0.0, RED), (0.5, (215, 120, 0)), (0.9, (70, 140, 25))],
)
def test_the_colour_of_a_line_is_its_confidence(confidence: float | None, expected: tuple[int, int, int]) -> None:
    assert colour(line("x", confidence=confidence)) == expected
    assert colour(line("x", confidence=confidence, doubtful=True)) == RED


def test_a_line_is_outlined_where_it_lies() -> None:
    drawn = visualize(page(block(line("x", 100, 200, 500, 240, confidence=1.0))), blank())
    rows, columns = np.where((np.asarray(drawn) == GREEN).all(-1))
    margin = (drawn.width - 800) // 2
    assert drawn.size == (800 + 2 * margin, 600 + 2 * margin)
    right, bottom = columns.max() - margin, rows.max() - margin
    assert (right, bottom) == (pytest.approx(500, abs=3), pytest.approx(240, abs=3))
    assert columns.min() < 100 + margin  # the label stands on its left


def test_a_doubtful_line_is_dashed() -> None:
    sure, unsure = (
        visualize(page(block(line("x", 100, 200, 500, 240, confidence=0.0, doubtful=doubtful))), blank())
        for doubtful in (False, True)
    )
    margin = (sure.width - 800) // 2
    edge = [np.asarray(image)[margin + 240, margin + 100 : margin + 500] for image in (sure, unsure)]
    red = [(part == RED).all(-1).mean() for part in edge]
    assert red[0] > 0.95
    assert 0.4 < red[1] < 0.7


def test_small_print_is_enlarged_and_large_print_is_not() -> None:
    small = visualize(page(block(line("x", 10, 10, 50, 18)), width=80, height=60), blank(80, 60))
    large = visualize(page(block(line("x", 100, 100, 700, 200))), blank())
    assert small.width > 4 * 80
    assert large.width < 2 * 800


def test_positions_are_those_of_the_page_whatever_the_picture_measures() -> None:
    read = page(block(line("x", 100, 200, 500, 240, confidence=1.0)), width=800, height=600)
    drawn = visualize(read, blank(1600, 1200))
    rows, columns = np.where((np.asarray(drawn) == GREEN).all(-1))
    margin = (drawn.width - 1600) // 2
    assert columns.max() - margin == pytest.approx(1000, abs=5)
    assert rows.max() - margin == pytest.approx(480, abs=5)


def test_the_picture_itself_is_left_as_it_is() -> None:
    image = blank()
    before = image.tobytes()
    drawn = visualize(page(block(turned()), table(), block(line("x", confidence=0.3, doubtful=True))), image)
    assert image.tobytes() == before
    assert drawn.mode == "RGB"
    assert count(drawn, RED) > 100


def test_a_blank_page_and_one_with_an_error_are_drawn_too() -> None:
    assert count(visualize(page(), blank()), RED) == 0
    assert count(visualize(Page(number=3, error="3 is damaged"), blank(40, 30)), RED) > 20
    assert visualize(page(), Image.new("1", (800, 600), 1)).mode == "RGB"
