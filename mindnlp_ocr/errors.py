"""What can go wrong, by whose fault it is: the set-up's (stop) or one page's (go on with the others)."""

from collections.abc import Sequence
from typing import Any


class OCRError(Exception):
    """Base of every error raised on purpose. The message is one line: what is wrong, and the remedy."""


class SetupError(OCRError):
    """The model, the device or the configuration cannot be used; no page can be read."""


class PageError(OCRError):
    """This page or prompt cannot be read; others can."""


class BatchError(OCRError):
    """Some pages of a batch could not be read; the others have been.

    Attributes:
        results: of all pages in their order, a Reading or a PageError.
    """

    def __init__(self, results: Sequence[Any]) -> None:
        self.results = list(results)
        faults = [(number, result) for number, result in enumerate(results) if isinstance(result, PageError)]
        number, first = faults[0]
        super().__init__(
            f"{len(faults)} of {len(results)} pages could not be read, first number {number} ({first}): "
            "the others are in .results"
        )
