"""Tests of ALTO output against its schema."""

from typing import Any

import pytest
from lxml import etree

from mindnlp_ocr.documents.result import Document, Page
from tests.conftest import ROOT
from tests.documents.writers.pages import HOSTILE, block, line, page, table, turned, written

A = "{http://www.loc.gov/standards/alto/ns-v4#}"


@pytest.fixture(scope="module")
def schema() -> Any:
    return etree.XMLSchema(etree.parse(ROOT / "tests" / "data" / "alto" / "alto-4-2.xsd"))


def parsed(schema: Any, *pages: Page, source: str = "a.png", error: str | None = None) -> etree._Element:
    root = etree.fromstring(written("alto", Document(source=source, pages=pages, error=error)))
    schema.assertValid(root)
    return root


def place(element: etree._Element) -> tuple[int, ...]:
    return tuple(int(element.get(name)) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))


def test_the_schema_refuses_what_is_no_alto(schema: Any) -> None:
    root = parsed(schema, page(block(line("a b"))))
    root.find(f".//{A}String").attrib.pop("CONTENT")
    assert not schema.validate(root)


def test_a_page_its_blocks_lines_words_and_blanks(schema: Any) -> None:
    root = parsed(schema, page(block(line("aaaa aaaa", 0, 0, 473, 20, confidence=0.9314), kind="title"), confidence=0.8))
    assert root.findtext(f".//{A}fileName") == "a.png"
    assert root.findtext(f".//{A}MeasurementUnit") == "pixel"
    assert root.findtext(f".//{A}softwareName") == "mindnlp-ocr"
    one = root.find(f".//{A}Page")
    assert (one.get("WIDTH"), one.get("HEIGHT"), one.get("PC")) == ("800", "600", "0.8000")
    text_block = root.find(f".//{A}TextBlock")
    assert (text_block.get("TAGREFS"), text_block.get("ROTATION"), place(text_block)) == (
        "kind-title",
        None,
        (0, 0, 473, 20),
    )
    [text_line] = text_block
    assert (text_line.get("BASELINE"), text_line.get("TAGREFS")) == ("0,16 473,16", None)
    first, blank, second = text_line
    assert [(part.get("CONTENT"), place(part), part.get("WC")) for part in (first, second)] == [
        ("aaaa", (0, 0, 220, 20), "0.9314"),
        ("aaaa", (253, 0, 220, 20), "0.9314"),
    ]
    assert (blank.tag, place(blank)) == (f"{A}SP", (220, 0, 33, 20))


def test_a_doubtful_line_is_tagged_and_no_other(schema: Any) -> None:
    root = parsed(schema, page(block(line("sure", confidence=0.9), line("unsure", confidence=0.1, doubtful=True))))
    assert [one.get("TAGREFS") for one in root.iter(f"{A}TextLine")] == [None, "doubtful"]


def test_a_table_is_composed_of_rows_and_these_of_cells(schema: Any) -> None:
    root = parsed(schema, page(table()))
    [whole, *rows] = root.iter(f"{A}ComposedBlock")
    assert (whole.get("TYPE"), [row.get("TYPE") for row in rows]) == ("table", ["row"] * 3)
    cells = [["".join(s.get("CONTENT") for s in cell.iter(f"{A}String")) for cell in row] for row in rows]
    assert cells == [["Item", "Price"], ["Tea|green", "3.20"], ["Total"]]
    assert place(rows[0]) == (100, 100, 350, 30)


def test_a_turned_line_has_a_polygon_and_its_block_a_rotation(schema: Any) -> None:
    root = parsed(schema, page(block(turned()), block(line("upright"), turned())))
    first, second = root.iter(f"{A}TextBlock")
    assert (first.get("ROTATION"), second.get("ROTATION")) == ("-90", None)
    assert first.find(f".//{A}Polygon").get("POINTS") == "700,100 700,500 660,500 660,100"
    assert first.find(f"{A}TextLine").get("BASELINE") == "668,100 668,500"


def test_blank_pages_lines_and_errors(schema: Any) -> None:
    root = parsed(schema, page(), Page(number=2, error="page 2 is damaged"), page(block(line("  ")), number=3))
    first, second, third = root.iter(f"{A}Page")
    assert (first.get("QUALITY"), second.get("QUALITY")) == (None, "Missing")
    assert second.get("QUALITY_DETAIL") == "page 2 is damaged"
    assert third.find(f".//{A}TextLine") is None


def test_a_document_that_could_not_be_opened_is_a_page_that_is_missing(schema: Any) -> None:
    [only] = parsed(schema, error="a.pdf is encrypted").iter(f"{A}Page")
    assert (only.get("QUALITY"), only.get("QUALITY_DETAIL")) == ("Missing", "a.pdf is encrypted")


def test_hostile_text_and_names_are_valid_xml(schema: Any) -> None:
    root = parsed(schema, page(block(line(HOSTILE), line("汉字 \U0001f600"))), source="a\udcff&<.png")
    assert root.findtext(f".//{A}fileName") == "a\ufffd&<.png"
    content = [one.get("CONTENT") for one in root.iter(f"{A}String")]
    assert content[:2] == ["a\ufffdb", "c"]
    assert content[-2:] == ["汉字", "\U0001f600"]
