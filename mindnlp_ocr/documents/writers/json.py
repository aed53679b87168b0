"""JSON, one report for a run, and JSON Lines, one line for a document; ``documents/schema.py`` defines the fields."""

import json
import math
from collections import Counter
from typing import Any

from mindnlp_ocr.documents.result import SCHEMA_VERSION, Page
from mindnlp_ocr.documents.schema import DocumentSummary, PageResult
from mindnlp_ocr.documents.writers.base import PagePicture, Writer
from mindnlp_ocr.errors import Described, PageError, described

_INLINE = 160  # maximum length of values that are written on one line, in characters
_DECIMALS = 4


class JsonLinesWriter(Writer):
    """Writes one line of JSON for each document."""

    suffix = ".jsonl"

    def _begin(self) -> None:
        self._texts: list[str] = []
        self._faults: list[Page] = []
        self._timings: Counter[str] = Counter()
        self._doubtful = False
        self.write(self._head())

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        self._texts.append(page.text)
        self._timings.update(page.timings_ms)
        self._doubtful |= page.doubtful
        if page.error is not None:
            self._faults.append(page)
        self.write(self._item(PageResult.of(page).model_dump()))

    def _end(self, error: str | None) -> None:
        self.write(self._tail(self._summary(error).model_dump()))

    def _summary(self, error: str | None) -> DocumentSummary:
        fields = Described(error=error, error_code=self.error_code)
        if self._faults and error is None:
            first = self._faults[0]
            fields = Described(error=first.error, error_code=first.error_code)
            if self.pages > 1:
                which = f"the first is page {first.number} ({first.error})"
                fault = PageError(
                    f"{len(self._faults)} of {self.pages} pages could not be read, {which}", code="pages_failed"
                )
                fields = described(fault)
        return DocumentSummary(
            text="\n\f".join(self._texts) if self.pages > len(self._faults) else None,
            **fields,
            timings_ms=dict(self._timings),
            doubtful=self._doubtful,
        )

    def _head(self) -> str:
        return f'{{"image": {json.dumps(self.source, ensure_ascii=False)}, "pages": ['

    def _item(self, page: dict[str, Any]) -> str:
        return ("" if self.pages == 1 else ", ") + compact(page)

    def _tail(self, summary: dict[str, Any]) -> str:
        return f"], {compact(summary)[1:]}\n"


class JsonWriter(JsonLinesWriter):
    """Writes one report. Results are written immediately; only the text of one document is kept in memory."""

    suffix = ".json"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._about: dict[str, Any] = {}
        self.write(f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "results": [')

    def finish(self, **about: Any) -> None:
        """Add the fields ``model`` and ``cache``."""
        self._about = about

    def _head(self) -> str:
        image = json.dumps(self.source, ensure_ascii=False)
        return f'{"" if self.documents == 1 else ","}\n    {{\n      "image": {image},\n      "pages": ['

    def _item(self, page: dict[str, Any]) -> str:
        return ("" if self.pages == 1 else ",") + "\n        " + pretty(page, 4)

    def _tail(self, summary: dict[str, Any]) -> str:
        return ("\n      ]" if self.pages else "]") + ",\n" + _fields(summary, 3) + "\n    }"

    def _close(self) -> None:
        about = {"model": None, "cache": None, **self._about}
        self.write(("\n  ]" if self.documents else "]") + ",\n" + _fields(about, 1) + "\n}\n")


def compact(value: Any) -> str:
    """Format JSON on one line, with numbers rounded to four decimals."""
    return json.dumps(_rounded(value), ensure_ascii=False)


def pretty(value: Any, depth: int = 0) -> str:
    """Format JSON on several indented lines; short values stay on one line."""
    line = compact(value)
    if len(line) + 2 * depth <= _INLINE or not isinstance(value, dict | list | tuple):
        return line
    if isinstance(value, dict):
        return "{\n" + _fields(value, depth + 1) + "\n" + "  " * depth + "}"
    items = ",\n".join("  " * (depth + 1) + pretty(item, depth + 1) for item in value)
    return "[\n" + items + "\n" + "  " * depth + "]"


def _fields(value: dict[str, Any], depth: int) -> str:
    fields = (f"{json.dumps(name, ensure_ascii=False)}: {pretty(field, depth)}" for name, field in value.items())
    return ",\n".join("  " * depth + field for field in fields)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        rounded = round(value, _DECIMALS) if math.isfinite(value) else None
        return int(rounded) if rounded is not None and rounded.is_integer() else rounded
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
