"""Tests of hOCR output: valid XML with the properties of hOCR 1.2."""

import re
from pathlib import Path

import pytest
from lxml import etree

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Box, Document, Line, Page, Point
from tests.documents.writers.pages import HOSTILE, block, line, page, table, turned, written

UINT, FLOAT = r"\d+", r"[-+]?\d+(\.\d+)?"
# What stands behind each property, by the grammar of hOCR 1.2; x_kind and x_doubtful are ours.
GRAMMAR = {
    "image": r'"[^"]+"',
    "bbox": " ".join([UINT] * 4),
    "ppageno": UINT,
    "scan_res": f"{UINT} {UINT}",
    "baseline": rf"{FLOAT} [-+]?\d+",
    "textangle": FLOAT,
    "x_wconf": r"\d{1,3}",
    "x_kind": "[a-z]+",
    "x_doubtful": "1",
}
ALLOWED = {
    "ocr_page": {"image", "bbox", "ppageno", "scan_res"},
    "ocr_carea": {"bbox", "x_kind"},
    "ocr_par": {"bbox"},
    "ocr_line": {"bbox", "baseline", "textangle", "x_wconf", "x_doubtful"},
    "ocrx_word": {"bbox", "x_wconf"},
}
PARENTS = {"ocr_carea": "ocr_page", "ocr_par": "ocr_carea", "ocr_line": "ocr_par", "ocrx_word": "ocr_line"}
TAGS = {"ocr_page": "div", "ocr_carea": "div", "ocr_par": "p", "ocr_line": "span", "ocrx_word": "span"}


def parsed(*pages: Page, source: str = "a.png", error: str | None = None) -> etree._Element:
    return etree.fromstring(written("hocr", Document(source=source, pages=pages, error=error)))


def of_class(root: etree._Element, name: str) -> list[etree._Element]:
    return [element for element in root.iter("{*}div", "{*}p", "{*}span") if element.get("class") == name]


def properties(element: etree._Element) -> dict[str, str]:
    """The properties of an element, each checked against its grammar."""
    found = {}
    for written_property in element.get("title", "").split("; "):
        name, value = written_property.split(" ", 1)
        assert name not in found
        assert re.fullmatch(GRAMMAR[name], value), written_property
        found[name] = value
    return found


def check(root: etree._Element) -> None:
    """The rules of hOCR 1.2 that hold for the elements used here."""
    metas = {meta.get("name"): meta.get("content") for meta in root.iter("{*}meta")}
    assert metas["ocr-system"] == f"mindnlp-ocr {__version__}"
    capabilities = set(metas["ocr-capabilities"].split())
    names = [element.get("id") for element in root.iter("{*}div", "{*}p", "{*}span")]
    assert len(names) == len(set(names))
    for element in root.iter("{*}div", "{*}p", "{*}span"):
        kind = element.get("class")
        assert kind in capabilities
        assert etree.QName(element).localname == TAGS[kind]
        if kind in PARENTS:
            assert element.getparent().get("class") == PARENTS[kind]
        found = properties(element)
        assert {"bbox"} <= set(found) <= ALLOWED[kind]
        left, top, right, bottom = map(int, found["bbox"].split())
        assert left <= right
        assert top <= bottom


def test_a_page_its_areas_paragraphs_lines_and_words() -> None:
    root = parsed(page(block(line("aaaa aaaa", 0, 0, 473, 20, confidence=0.9314)), table()))
    check(root)
    [one] = of_class(root, "ocr_page")
    assert one.get("title") == 'image "a.png"; bbox 0 0 800 600; ppageno 0; scan_res 100 100'
    assert [area.get("title").split("; ")[1] for area in of_class(root, "ocr_carea")] == ["x_kind text", "x_kind table"]
    first = of_class(root, "ocr_line")[0]
    assert first.get("title") == "bbox 0 0 473 20; baseline 0.000 -4; x_wconf 93"
    assert "".join(first.itertext()) == "aaaa aaaa"
    assert [word.get("title") for word in first] == ["bbox 0 0 220 20; x_wconf 93", "bbox 253 0 473 20; x_wconf 93"]


def test_a_doubtful_line_is_marked_and_no_other() -> None:
    root = parsed(page(block(line("sure", confidence=0.9), line("unsure", confidence=0.2, doubtful=True), line("open"))))
    check(root)
    titles = [one.get("title") for one in of_class(root, "ocr_line")]
    assert ["x_doubtful 1" in title for title in titles] == [False, True, False]
    assert "x_wconf" not in titles[2]


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (((100, 100), (500, 120), (498, 160), (98, 140)), "bbox 98 100 500 160; baseline 0.050 -28"),
        (((100, 120), (500, 100), (502, 140), (102, 160)), "bbox 100 100 502 160; baseline -0.050 -8"),
        (((700, 100), (700, 500), (660, 500), (660, 100)), "bbox 660 100 700 500; textangle 270"),
        (((10, 500), (10, 100), (50, 100), (50, 500)), "bbox 10 100 50 500; textangle 90"),
        (((500, 140), (100, 140), (100, 100), (500, 100)), "bbox 100 100 500 140; textangle 180"),
    ],
)
def test_a_turned_line_says_how(corners: tuple[tuple[float, float], ...], expected: str) -> None:
    points = [Point(*corner) for corner in corners]
    box = Box(min(x for x, _ in points), min(y for _, y in points), max(x for x, _ in points), max(y for _, y in points))
    one = Line(text="turned text", box=box, polygon=(points[0], points[1], points[2], points[3]))
    root = parsed(page(block(one)))
    check(root)
    assert of_class(root, "ocr_line")[0].get("title") == expected


def test_blank_pages_and_errors() -> None:
    root = parsed(page(), Page(number=2, error="page 2 -- is damaged -"), error="b.pdf ends there")
    check(root)
    assert [properties(one)["bbox"] for one in of_class(root, "ocr_page")] == ["0 0 800 600", "0 0 0 0"]
    assert [str(node.text) for node in root.iter(etree.Comment)] == [" page 2 - - is damaged - ", " b.pdf ends there "]


def test_hostile_text_and_names_are_valid_xml() -> None:
    root = parsed(page(block(line(HOSTILE), line("汉字 \U0001f600"), turned())), source='a"; bbox 1\udcff<.png')
    check(root)
    assert properties(of_class(root, "ocr_page")[0])["image"] == '"a%22%3B bbox 1\ufffd<.png"'
    [first, second, _] = ["".join(one.itertext()) for one in of_class(root, "ocr_line")]
    assert first == "a\ufffdb c d e\ufffdf\ufffdg h i <&>\"' --> ]]> \\( %"
    assert second == "汉字 \U0001f600"


def test_ocrmypdf_reads_it(tmp_path: Path) -> None:
    parser = getattr(pytest.importorskip("ocrmypdf.hocrtransform"), "HocrParser", None)
    if parser is None:
        pytest.skip("OCRmyPDF 16 has no parser of its own")
    path = tmp_path / "a.hocr"
    path.write_bytes(written("hocr", Document(source="a.png", pages=(page(block(line("汉字 text", confidence=0.5))),))))
    read = parser(path).parse()
    assert (read.dpi, read.bbox.width) == (100, 800)
    assert [(word.text, word.confidence) for word in read.iter_by_class("ocrx_word")] == [("汉字", 0.5), ("text", 0.5)]
