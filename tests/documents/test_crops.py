"""Tests of line crops: deskewing, and splitting at gaps but not within words."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mindnlp_ocr.documents.crops import crops_of, ink_gaps, scaled, split_cells, straightened
from mindnlp_ocr.documents.detector import Quad
from mindnlp_ocr.documents.settings import LineSettings

LINES = LineSettings(prompt="read", height=28, stretch=1.0, max_width=280)


def strip(words: list[tuple[int, int]], width: int, height: int = 20, dark: bool = False) -> Image.Image:
    """A line of words, each a block of ink from one column to another."""
    paper, ink = ("black", "white") if dark else ("white", "black")
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    for first, end in words:
        draw.rectangle((first, 4, end - 1, height - 5), fill=ink)
    return image


def whole(image: Image.Image) -> Quad:
    width, height = image.size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


@pytest.mark.parametrize("dark", [False, True])
def test_gaps_are_found_on_light_and_on_dark_paper(dark: bool) -> None:
    assert ink_gaps(strip([(10, 40), (50, 90), (91, 120)], 130, dark=dark)) == [(40, 50), (90, 91)]


def test_crops_have_the_height_and_the_stretch_that_the_checkpoint_wants() -> None:
    assert scaled(strip([], 200, 20), LINES).size == (280, 28)
    assert scaled(strip([], 200, 20), LINES.model_copy(update={"stretch": 1.5})).size == (420, 28)
    assert scaled(strip([], 3, 20), LINES).size == (28, 28)


def test_a_line_that_is_too_long_is_cut_at_the_widest_gaps_never_in_a_word() -> None:
    words = [(first, first + 34) for first in range(10, 560, 40)]  # gaps of 6 pixels: blanks
    page = strip(words, 580)
    parts = crops_of(page, whole(page), LINES)
    assert len(parts) > 812 // 280  # 580 pixels of height 20 are 812 of height 28
    assert [part.blank_before for part in parts] == [False] + [True] * (len(parts) - 1)
    for part in parts:
        edges = np.asarray(part.image.convert("L"))[:, [0, -1]]
        assert edges.min() > 200  # no ink at a cut
        assert part.image.width <= LINES.max_width


def test_where_letters_follow_without_blanks_the_parts_are_joined_without_one() -> None:
    page = strip([(first, first + 19) for first in range(0, 600, 20)], 600)  # gaps of 1 pixel
    parts = crops_of(page, whole(page), LINES)
    assert len(parts) > 2
    assert not any(part.blank_before for part in parts)


def test_cells_are_split_at_wide_gaps_and_words_are_not() -> None:
    page = strip([(10, 60), (68, 120), (300, 360), (370, 400)], 410)
    left, right = split_cells(page, whole(page))
    assert left[0].tolist() == [0, 0]
    assert 120 < left[1][0] < 140
    assert 280 < right[0][0] < 300
    assert right[1][0] == 410


def test_a_skewed_line_is_cut_straight() -> None:
    page = Image.new("L", (300, 200), 255)
    ImageDraw.Draw(page).rectangle((50, 90, 249, 109), fill=0)
    page = page.rotate(-10, Image.Resampling.BICUBIC, fillcolor=255).convert("RGB")
    angle = np.radians(10)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[50, 90], [250, 90], [250, 110], [50, 110]]) - (150, 100)
    line = straightened(page, corners @ turn.T + (150, 100), 0.0)
    assert line.size == (200, 20)
    assert np.asarray(line.convert("L"))[3:-3, 3:-3].max() < 60  # ink from edge to edge
