"""Tests of texts that cannot be guessed: lines of shuffled words, and misspelt words."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from training.fonts import Mask
from training.real import shuffled, words_of
from training.texts import Texts


def crop_of(*widths: int, gap: int = 12, between: int = 3) -> Mask:
    """A crop 20 pixels high with words of bars: each bar is 4 wide, and each number is the count of bars of a word."""
    parts = [np.full((20, 5), 250, np.uint8)]
    for number, count in enumerate(widths):
        parts += [np.full((20, gap), 250, np.uint8)] * (number > 0)
        for bar in range(count):
            parts += [np.full((20, between), 250, np.uint8)] * (bar > 0)
            parts.append(np.full((20, 4), 10 + number, np.uint8))
    return np.concatenate([*parts, np.full((20, 5), 250, np.uint8)], 1)


def test_a_line_is_cut_between_its_words() -> None:
    crop = crop_of(3, 1, 2)
    words = words_of(crop, "abc d ef")
    assert words is not None and [text for _, text in words] == ["abc", "d", "ef"]
    assert np.array_equal(np.concatenate([picture for picture, _ in words], 1), crop)
    assert [int(picture.min()) for picture, _ in words] == [10, 11, 12]


@pytest.mark.parametrize(
    ("crop", "text"),
    [
        (crop_of(3, 2, gap=4), "abc de"),  # a gap between words is hardly wider than one between letters
        (crop_of(3, 2), "abc d e"),  # more words than wide gaps
        (crop_of(3, 2), "发票 电话"),  # Chinese words are not separated by spaces
        (crop_of(3), ""),
        (np.full((20, 60), 200, np.uint8), "abc"),  # no ink
    ],
)
def test_a_line_without_clear_gaps_is_not_cut(crop: Mask, text: str) -> None:
    assert words_of(crop, text) is None


def test_words_keep_their_pictures_in_a_new_order() -> None:
    """The darkest pixel tells which word a picture shows."""
    lines = [(crop_of(3, 1, 2), "abc d ef"), (crop_of(1, gap=9), "abc")]
    shown = {10: "abc", 11: "d", 12: "ef"}
    orders = set()
    for seed in range(20):
        for picture, text in shuffled(Random(seed), lines):
            ink = [int(column.min()) for column in picture.T if column.min() < 100]
            starts = [value for value, before in zip(ink, [None, *ink], strict=False) if value != before]
            merged = [word for word, before in zip(text.split(), [None, *text.split()], strict=False) if word != before]
            assert [shown[value] for value in starts] == merged
            orders.add(text)
    assert len(orders) > 10


def test_words_of_other_heights_are_scaled_to_the_first_and_much_larger_ones_are_left_out() -> None:
    lines = [(crop_of(2, 2), "ab cd"), (crop_of(2, 2)[:18], "gh ij"), (np.repeat(crop_of(2, 2), 2, 0), "LARGE WORDS")]
    found = [one for seed in range(20) for one in shuffled(Random(seed), lines)]
    heights = {"ab": 20, "cd": 20, "gh": 18, "ij": 18, "LARGE": 40, "WORDS": 40}
    assert all(len(picture) == heights[text.split()[0]] for picture, text in found)
    together = [{heights[word] for word in text.split()} for _, text in found]
    assert {18, 20} in together and {40} in together and not any(len(one) > 1 and 40 in one for one in together)


def test_some_characters_of_misspelt_words_are_replaced(data: Path) -> None:
    texts, r = Texts(data), Random(5)
    text = "Total 12.50 of the Harbour Office invoice"
    found = [texts.misspelt(r, text) for _ in range(200)]
    assert sum(one != text for one in found) > 150
    assert all(1 <= len(one.split()) <= 7 and not one.startswith(" ") and "  " not in one for one in found)
    changed = [sum(a != b for a, b in zip(one, text, strict=False)) for one in found if len(one) == len(text)]
    assert 0.5 < sum(changed) / len(changed) < 8
