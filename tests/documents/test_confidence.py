"""Tests of confidence and of repetitions in truncated texts."""

import pytest

from mindnlp_ocr.documents.confidence import line_confidence, page_confidence, repetition_start
from mindnlp_ocr.documents.result import Box, Line
from mindnlp_ocr.documents.settings import ConfidenceSettings

BOX = Box(0, 0, 10, 10)


def test_without_settings_or_tokens_nothing_is_estimated() -> None:
    assert line_confidence([-0.1], None) is None
    assert line_confidence([], ConfidenceSettings()) is None


def test_one_unlikely_token_lowers_the_confidence_of_a_line() -> None:
    settings = ConfidenceSettings(bias=0.3, lowest=0.6, total=-1.5)
    sure, unsure = (line_confidence([-0.01, last, -0.01], settings) for last in (-0.01, -2.5))
    assert sure is not None
    assert unsure is not None
    assert sure > 0.9 > 0.4 > unsure
    assert line_confidence([-1e9], settings) == 0.0
    assert line_confidence([0.0, 0.0], settings) is not None


def test_the_confidence_of_a_page_is_weighted_by_characters() -> None:
    lines = [Line(text="x" * 30, box=BOX, confidence=1.0), Line(text="x" * 10, box=BOX, confidence=0.0)]
    assert page_confidence([*lines, Line(text="unknown", box=BOX)]) == 0.75
    assert page_confidence([]) is None


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([1, 2, 3] + [7] * 40, 4),
        ([9, 8] + [1, 2, 3, 4] * 10, 6),
        ([9, 8] + [1, 2, 3, 4] * 10 + [1, 2], 6),  # cut inside the unit
        ([5] * 20, 1),
    ],
)
def test_a_repetition_is_kept_once(tokens: list[int], kept: int) -> None:
    assert repetition_start(tokens) == kept
    assert tokens[:kept] == list(dict.fromkeys(tokens[:kept]))


@pytest.mark.parametrize("tokens", [[], [1], [1, 1, 1], list(range(60)), [1, 2, 3, 4] * 2, [7] * 11, [7] * 30 + [1, 2]])
def test_what_does_not_end_in_a_repetition_is_left_alone(tokens: list[int]) -> None:
    assert repetition_start(tokens) is None
