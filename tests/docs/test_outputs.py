"""Tests that the examples in docs/outputs.md equal the writers' output, and that its tables list all formats and fields."""

import re

import pytest

from mindnlp_ocr.documents.result import Document, Page
from mindnlp_ocr.documents.schema import json_schema
from mindnlp_ocr.documents.writers import FORMATS
from tests.conftest import ROOT
from tests.documents.writers.pages import block, line, page, written

TEXT = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
SECTIONS = {"Text": "text", "Markdown": "markdown", "JSON": "json", "TSV": "tsv", "hOCR": "hocr", "ALTO": "alto"}


def hours() -> Page:
    """The page in the examples."""
    cells = [
        ("Monday", 80, 180, 0, 0.97),
        ("9-21", 300, 360, 0, 0.93),
        ("Saturday", 80, 200, 1, 0.95),
        ("9-18", 300, 360, 1, 0.9),
    ]
    return page(
        block(line("Opening hours", 80, 40, 330, 72, confidence=0.98), kind="title"),
        block(
            line("The reading room opens on Mon-", 80, 100, 560, 124, confidence=0.96),
            line("day at 9, after the reqair.", 80, 130, 480, 154, confidence=0.41, doubtful=True),
        ),
        block(
            *[
                line(text, left, 190 + 30 * row, right, 214 + 30 * row, row=row, confidence=confidence)
                for text, left, right, row, confidence in cells
            ],
            kind="table",
        ),
        width=640,
        height=300,
        confidence=0.87,
        timings_ms={"open": 4.1, "detect": 96.0, "decode": 61.5},
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_an_example_equals_the_output(section: str) -> None:
    [example] = re.findall(rf"^## {section}\n.*?^```\w+\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    real = written(SECTIONS[section], Document(source="hours.png", pages=(hours(),))).decode()
    if "\n..." in example or section in ("hOCR", "ALTO", "TSV", "JSON"):  # parts of it, in their order
        lines = iter(one.strip() for one in real.splitlines())
        missing = [one for one in example.splitlines() if one.strip() != "..." and one.strip() not in lines]
        assert not missing
    else:
        assert example == real


def test_every_format_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\.\w+)` \|", TEXT, re.MULTILINE)
    assert rows == [(name, writer.suffix) for name, writer in FORMATS.items()]


def test_every_field_of_the_schema_is_in_the_table() -> None:
    schema = json_schema()
    fields = {name for part in (schema, *schema["$defs"].values()) for name in part.get("properties", {})}
    named = {
        name
        for row in re.findall(r"^\| (?:[a-z ]+)?\| (`.*?) \|", TEXT, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named == fields
