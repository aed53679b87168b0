"""Tests of the estimated positions of words in a line."""

import math

import pytest

from mindnlp_ocr.documents.result import Box, Line, Page, Point
from mindnlp_ocr.documents.writers.words import advance, baseline, pixels, placed, words
from tests.documents.writers.pages import block, in_one_request, line, page, turned


def test_words_of_equal_letters_share_the_line_equally() -> None:
    first, second = words(line("aaaa aaaa", 0, 0, 473, 20))  # eight letters of 55 and a blank of 33
    assert (first.text, second.text) == ("aaaa", "aaaa")
    assert first.box == pytest.approx((0, 0, 220, 20))
    assert second.box == pytest.approx((253, 0, 473, 20))


def test_wide_and_narrow_characters_take_what_they_need() -> None:
    assert [advance(character) for character in "汉，Wai\u0301\u200b"] == [1000, 1000, 860, 550, 250, 0, 0]
    narrow, wide = words(line("iii WWW", 0, 0, 366, 10))
    assert narrow.box.right == pytest.approx(75)
    assert wide.box == pytest.approx((108, 0, 366, 10))


def test_a_run_without_blanks_is_one_word() -> None:
    assert [word.text for word in words(line("你好，世界。 MindSpore是框架"))] == ["你好，世界。", "MindSpore是框架"]


@pytest.mark.parametrize("text", ["", "   ", "\t\n", "\x00\x07"])
def test_a_blank_line_has_no_words(text: str) -> None:
    assert words(line(text)) == []


def test_blanks_at_the_ends_and_control_characters_take_no_place() -> None:
    [only] = words(line("\x00 word\n", 100, 0, 200, 10))
    assert (only.text, only.box) == ("word", Box(100, 0, 200, 10))
    assert [word.text for word in words(line("a\u3000b\xa0c\u2028d"))] == ["a", "b", "c", "d"]


def test_marks_without_a_width_are_still_words_of_the_line() -> None:
    [only] = words(line("\u0301\u0302", 100, 0, 200, 10))
    assert only.box == Box(100, 0, 200, 10)


def test_the_words_of_a_turned_line_follow_it() -> None:
    up, the, margin = words(turned())
    assert [word.text for word in (up, the, margin)] == ["up", "the", "margin"]
    assert up.corners[0] == Point(700, 100)
    assert margin.corners[1] == pytest.approx((700, 500))
    assert (up.box.left, up.box.right) == (660, 700)
    assert 100 < up.box.bottom < the.box.top < the.box.bottom < margin.box.top < 500


def test_the_words_of_a_skewed_line_lie_on_it() -> None:
    along, across = (math.cos(0.1), math.sin(0.1)), (-math.sin(0.1), math.cos(0.1))

    def point(right: float, down: float) -> Point:
        return Point(100 + right * along[0] + down * across[0], 100 + right * along[1] + down * across[1])

    skewed = Line(
        text="aaaa aaaa", box=Box(98, 100, 576, 168), polygon=(point(0, 0), point(473, 0), point(473, 20), point(0, 20))
    )
    first, second = words(skewed)
    assert first.corners[1] == pytest.approx(point(220, 0))
    assert second.corners[3] == pytest.approx(point(253, 20))
    start, end = baseline(skewed)
    assert (start, end) == (pytest.approx(point(0, 16)), pytest.approx(point(473, 16)))


def test_pixels_are_whole_and_within_the_page() -> None:
    small = Page(number=1, width=100, height=50)
    assert pixels(Box(1.2, 1.9, 3.1, 4.0), small) == (1, 1, 4, 4)
    assert pixels(Box(-5, -5, 500, 500), small) == (0, 0, 100, 50)
    assert pixels(Box(200, 60, 300, 70), small) == (100, 50, 100, 50)
    assert pixels(Box(-9, -9, -3, -3), small) == (0, 0, 0, 0)
    assert pixels(Box(1.5, 1.5, 300, 300), Page(number=1)) == (1, 1, 300, 300)


def test_lines_without_a_place_share_the_page() -> None:
    found = placed(in_one_request("aaaa\n\naaaaaaaa"))
    assert [one.box for one in found.lines] == [(0, 0, 400, 200), (0, 200, 0, 400), (0, 400, 800, 600)]
    assert found.blocks[0].box == (0, 0, 800, 600)
    for as_it_is in (page(block(line("a"), line("b"))), in_one_request("one"), page(layout="page")):
        assert placed(as_it_is) is as_it_is
