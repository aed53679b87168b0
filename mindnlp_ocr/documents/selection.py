"""Selection of pages, such as ``1-3,7``."""

import re
from collections.abc import Iterator

from mindnlp_ocr.errors import PageError, SetupError


class PageSelection:
    """The selected pages of every document.

    Args:
        text: numbers and ranges from 1, separated by commas; a range may omit its end: "1-3,7,12-". None: all pages.

    Raises:
        SetupError: the text is not a valid selection.
    """

    def __init__(self, text: str | None = None) -> None:
        self._text = text
        self._ranges = [(1, None)] if text is None else [self._range(part) for part in text.split(",")]

    def _range(self, part: str) -> tuple[int, int | None]:
        match = re.fullmatch(r"\s*(\d+)\s*(?:(-)\s*(\d*)\s*)?", part)
        first = int(match[1]) if match else 0
        last = None if match and match[2] and not match[3] else int(match[3]) if match and match[3] else first
        if first < 1 or (last is not None and last < first):
            raise SetupError(
                f"--pages {self._text} is not a selection of pages: use numbers from 1, such as 1-3,7", code="pages_invalid"
            )
        return first, last

    def of(self, count: int) -> Iterator[int]:
        """Yield the indices, from 0, of the selected pages of a document with ``count`` pages, in ascending order."""
        for index in range(count):
            if any(first <= index + 1 <= (last or count) for first, last in self._ranges):
                yield index


def none_selected(pages: int) -> PageError:
    """Create the error for a document of which no page is selected."""
    return PageError(f"none of its {pages} pages is selected: change --pages", code="pages_out_of_range")
