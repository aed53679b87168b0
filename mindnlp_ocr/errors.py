"""Exception classes: a SetupError stops the run; a PageError affects one page only."""

import copyreg
from collections.abc import Sequence
from typing import Any, TypedDict


class OCRError(Exception):
    """Base class of all errors that this package raises. The message is one line: what is wrong, and the remedy.

    Attributes:
        code: identifier of the message, for instance attention_unknown; docs/troubleshooting.md explains each.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle every subclass without its constructor, whose arguments differ."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


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
            "the results of all pages are in .results",
            code="pages_failed",
        )


class Described(TypedDict):
    """An error as fields of a result: its message and its code, both None without an error."""

    error: str | None
    error_code: str | None


def described(error: OCRError | None) -> Described:
    """Return the fields for an error."""
    if error is None:
        return {"error": None, "error_code": None}
    return {"error": str(error), "error_code": error.code or None}


def coded(message: object, code: str | None) -> str:
    """Return a message as it is printed: followed by its code in brackets, if it has one."""
    return f"{message} [{code}]" if code else str(message)
