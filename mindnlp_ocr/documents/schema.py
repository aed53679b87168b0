"""The contents of the JSON formats: the types of ``result.py`` as they are written, and their JSON Schema.

The meaning of existing fields does not change within a ``schema_version``. Later releases may add fields, so programs that
read the files must ignore unknown fields.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from mindnlp_ocr.documents.result import SCHEMA_VERSION, Block, Box, Line, Page

_WRITTEN = ConfigDict(frozen=True, extra="ignore", json_schema_serialization_defaults_required=True)


class LineResult(Line):
    """A line of text, or a cell of a table row.

    Attributes:
        box_points: ``box`` in points, 1/72 inch, from the top left corner of the page as it is displayed; null if the page
            has no dpi.
    """

    model_config = _WRITTEN

    box_points: Box | None = None


class BlockResult(Block):
    """Lines that belong together.

    Attributes:
        text: one line for each visual row; the cells (or lines) of a table row are separated by tabs.
    """

    model_config = _WRITTEN

    lines: tuple[LineResult, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def text(self) -> str:
        return super().text


class PageResult(Page):
    """A page.

    Attributes:
        text: the text in reading order, blocks separated by an empty line.
    """

    model_config = _WRITTEN

    blocks: tuple[BlockResult, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def text(self) -> str:
        return super().text

    @classmethod
    def of(cls, page: Page) -> "PageResult":
        """Convert a page to its written form."""
        scale = 72 / page.dpi if page.dpi else None

        def written(line: Line) -> LineResult:
            return LineResult(**dict(line), box_points=line.box.scaled(scale) if scale else None)

        blocks = [BlockResult(**dict(block) | {"lines": tuple(map(written, block.lines))}) for block in page.blocks]
        return cls(**dict(page) | {"blocks": tuple(blocks)})


class DocumentSummary(BaseModel):
    """The fields of a document that are known after all of its pages were read.

    Attributes:
        text: the text of all pages, separated by a line break and a form feed; null if no page could be read.
        error: why the document, or some of its pages, could not be read; null if all pages were read.
        error_code: identifier of the error; null if all pages were read.
        timings_ms: milliseconds that each stage took, summed over the pages.
        doubtful: whether any page is doubtful.
    """

    model_config = _WRITTEN

    text: str | None
    error: str | None
    error_code: str | None
    timings_ms: dict[str, float]
    doubtful: bool


class DocumentResult(DocumentSummary):
    """A document. The pages are written as they are read, before the fields that are known only at the end.

    Attributes:
        image: the name under which the document was given.
        pages: all pages, including those that could not be read, in order.
    """

    image: str
    pages: tuple[PageResult, ...]


class Report(BaseModel):
    """A run: the documents in order, and the state of the model.

    Attributes:
        schema_version: the version of this format.
        results: the documents.
        model: the result of ``get_model_info()`` at the end; null if the run was interrupted.
        cache: the result of ``get_cache_stats()`` at the end; null if the run was interrupted.
    """

    model_config = _WRITTEN

    schema_version: Literal[1] = SCHEMA_VERSION
    results: tuple[DocumentResult, ...]
    model: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report. ``#/$defs/DocumentResult`` is the schema of a line of JSON Lines."""
    schema = Report.model_json_schema(mode="serialization")
    definitions = schema["$defs"]
    for model in (Report, DocumentResult, PageResult, BlockResult, LineResult):
        _describe(schema if model is Report else definitions[model.__name__], model)
    for name, shape in (("Box", "[left, top, right, bottom]"), ("Point", "[x, y]")):
        definitions[name]["description"] = f"{shape}, from the top left corner of the page"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mindnlp-ocr:reading:{SCHEMA_VERSION}",
        **schema,
    }


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Add the descriptions of a model and its fields from docstrings to its JSON Schema."""
    schema["description"] = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0]
    said = dict(_attributes(kind.__doc__ or "" for kind in reversed(model.__mro__) if issubclass(kind, BaseModel)))
    for name, field in schema["properties"].items():
        field.pop("title", None)
        field["description"] = said[name]


def _attributes(docstrings: Iterable[str]) -> Iterable[tuple[str, str]]:
    for docstring in docstrings:
        for name, text in re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", docstring, re.MULTILINE):
            yield name, " ".join(text.replace("``", "").replace("None", "null").split())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
