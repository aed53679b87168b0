"""Tests of page selections."""

import pytest

from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.errors import SetupError


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("1", [0]),
        ("1-3,5", [0, 1, 2, 4]),
        ("4-", [3, 4]),
        ("5,1, 2 - 3", [0, 1, 2, 4]),
        ("2-2,2", [1]),
        ("4-900", [3, 4]),
        ("7", []),
    ],
)
def test_selections_name_pages_in_ascending_order(text: str | None, indices: list[int]) -> None:
    assert list(PageSelection(text).of(5)) == indices


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "-3", "1,,2", "1-2-3", "1.5"])
def test_an_invalid_selection_is_rejected(text: str) -> None:
    with pytest.raises(SetupError, match="is not a selection of pages: use numbers from 1, such as 1-3,7"):
        PageSelection(text)
