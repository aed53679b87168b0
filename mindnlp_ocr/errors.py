"""Exception classes: a SetupError stops the run; a PageError affects one page only."""

from collections.abc import Sequence
from typing import Any


class OCRError(Exception):
    """Base class of all errors that this package raises. The message is one line: what is wrong, and the remedy."""


class SetupError(OCRError):
    """The model, the device or the configuration cannot be used; no page can be read."""


class PageError(OCRError):
    """This page or prompt cannot be read; others can."""


class BatchError(OCRError):
    """Some pages of a batch could not be read; all others were read.

    Attributes:
        results: a Reading or a PageError for every page, in the order of the pages.
    """

    def __init__(self, results: Sequence[Any]) -> None:
        self.results = list(results)
        faults = [(number, result) for number, result in enumerate(results) if isinstance(result, PageError)]
        number, first = faults[0]
        super().__init__(
            f"{len(faults)} of {len(results)} pages could not be read, the first at index {number} ({first}): "
            "the results of all pages are in .results"
        )
