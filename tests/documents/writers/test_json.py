"""Tests of JSON reports: fields, layout, and validity after interrupted runs."""

import io
import json
import math
from typing import Any

import jsonschema
import pytest

from mindnlp_ocr.documents.result import Document, Page
from mindnlp_ocr.documents.schema import json_schema
from mindnlp_ocr.documents.writers.json import JsonWriter, pretty
from tests.conftest import ROOT
from tests.documents.writers.pages import HOSTILE, block, line, of_text, page, table, turned, written

GOOD = Document(source="a.pdf", pages=(of_text("one").model_copy(update={"timings_ms": {"read": 1.5, "detect": 2.0}}),))
MIXED = Document(
    source="b.pdf",
    pages=(
        page(block(line("sure", confidence=0.98765432, doubtful=False)), timings_ms={"read": 1.0}),
        Page(number=2, error="page 2 is damaged", error_code="pdf_page_damaged"),
        page(block(turned()), table(), number=3, doubtful=True, timings_ms={"read": 2.25}),
    ),
)
NONE = Document(source="c.pdf", error="c.pdf is missing: pass an image file", error_code="file_missing")


def report(*documents: Document) -> Any:
    return json.loads(written("json", *documents))


def test_the_schema_is_the_one_of_the_types() -> None:
    committed = ROOT / "docs" / "schema" / "reading-1.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == json_schema(), (
        "write it again: uv run python -m mindnlp_ocr.documents.schema > docs/schema/reading-1.json"
    )


@pytest.mark.parametrize("documents", [(), (GOOD,), (MIXED, NONE), (GOOD, MIXED, NONE)])
def test_a_report_is_valid_and_names_every_field(documents: tuple[Document, ...]) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    found = report(*documents)
    validator.validate(found)
    assert [result["image"] for result in found["results"]] == [document.source for document in documents]
    lines = written("jsonl", *documents).decode().splitlines()
    assert [json.loads(one) for one in lines] == found["results"]


def test_the_schema_refuses_what_is_no_report() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    wrong = report(GOOD)
    wrong["results"][0]["pages"][0]["blocks"][0]["lines"][0]["box"] = [1, 2, 3]
    assert [error.json_path for error in validator.iter_errors(wrong)] == ["$.results[0].pages[0].blocks[0].lines[0].box"]
    assert not validator.is_valid(report(GOOD) | {"schema_version": 2})


def test_every_field_of_the_schema_is_described() -> None:
    schema = json_schema()
    fields = [field for part in (schema, *schema["$defs"].values()) for field in part.get("properties", {}).values()]
    assert len(fields) > 30
    assert all(len(field["description"]) > 10 for field in fields)


def test_the_old_keys_are_kept_beside_the_new() -> None:
    good, mixed, none = report(GOOD, MIXED, NONE)["results"]
    assert (good["text"], good["error"], good["doubtful"]) == ("one", None, False)
    assert good["timings_ms"] == {"read": 1.5, "detect": 2}
    assert mixed["text"] == MIXED.text
    assert mixed["error"] == "1 of 3 pages could not be read, the first is page 2 (page 2 is damaged)"
    assert (mixed["error_code"], mixed["pages"][1]["error_code"]) == ("pages_failed", "pdf_page_damaged")
    assert mixed["timings_ms"] == {"read": 3.25}
    assert mixed["doubtful"] is True
    assert (none["text"], none["error"], none["pages"]) == (None, "c.pdf is missing: pass an image file", [])
    assert none["error_code"] == "file_missing"


def test_the_error_of_a_single_page_is_that_of_its_document() -> None:
    [result] = report(Document(source="a.png", pages=(Page(number=1, error="a.png is truncated"),)))["results"]
    assert (result["text"], result["error"]) == (None, "a.png is truncated")


def test_a_line_has_its_place_in_pixels_and_in_points() -> None:
    [result] = report(MIXED)["results"]
    [sure] = result["pages"][0]["blocks"][0]["lines"]
    assert (sure["box"], sure["box_points"], sure["confidence"]) == ([100, 100, 500, 140], [72, 72, 360, 100.8], 0.9877)
    [margin] = result["pages"][2]["blocks"][0]["lines"]
    assert margin["polygon"] == [[700, 100], [700, 500], [660, 500], [660, 100]]
    assert result["pages"][2]["blocks"][1]["text"] == "Item\tPrice\nTea | green\t3.20\nTotal"
    [unknown] = report(Document(source="a", pages=(page(block(line("x")), dpi=None),)))["results"]
    assert unknown["pages"][0]["blocks"][0]["lines"][0]["box_points"] is None


def test_what_read_the_documents_stands_at_the_end() -> None:
    stream = io.BytesIO()
    with JsonWriter(stream) as writer:
        writer.begin("a.png")
        writer.page(of_text("hello"))
        writer.end()
        writer.finish(model={"dtype": "fp32"}, cache={"hits": 3, "ttl": math.inf})
    found = json.loads(stream.getvalue())
    assert (found["model"], found["cache"]) == ({"dtype": "fp32"}, {"hits": 3, "ttl": None})
    assert list(found) == ["schema_version", "results", "model", "cache"]


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_a_run_that_is_stopped_leaves_a_valid_report(pages: int) -> None:
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt), JsonWriter(stream) as writer:
        writer.begin("a.pdf")
        for number in range(pages):
            writer.page(of_text(f"page {number + 1}", number + 1))
        raise KeyboardInterrupt
    found = json.loads(stream.getvalue())
    jsonschema.validate(found, json_schema())
    assert found["results"][0]["error"] == f"the run was stopped after {pages} pages of this document: run it again"
    assert found["results"][0]["error_code"] == "run_stopped"
    assert found["results"][0]["text"] == (None if pages == 0 else "\n\f".join(["page 1", "page 2"][:pages]))


def test_hostile_text_is_valid_utf_8() -> None:
    document = Document(source="\udcff.png", pages=(page(block(line(HOSTILE))),))
    for found in (report(document)["results"][0], json.loads(written("jsonl", document))):
        assert found["image"] == "\ufffd.png"
        assert found["text"] == HOSTILE.replace("\ud800", "\ufffd")


def test_a_report_can_be_read_by_people() -> None:
    assert written("json", GOOD).decode().splitlines()[:22] == [
        "{",
        '  "schema_version": 1,',
        '  "results": [',
        "    {",
        '      "image": "a.pdf",',
        '      "pages": [',
        "        {",
        '          "number": 1,',
        '          "width": 800,',
        '          "height": 600,',
        '          "dpi": 100,',
        '          "rotation": 0,',
        '          "layout": "lines",',
        '          "blocks": [',
        "            {",
        '              "kind": "text",',
        '              "box": [50, 50, 80, 70],',
        '              "lines": [',
        "                {",
        '                  "text": "one",',
        '                  "box": [50, 50, 80, 70],',
        '                  "polygon": null,',
    ]
    assert pretty({"a": [1, 2.00001], "b": ()}) == '{"a": [1, 2], "b": []}'
