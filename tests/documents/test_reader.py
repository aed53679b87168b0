"""Tests of the reader with the detector and the built-in model: lines, order, confidence, rotated and blank pages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mindnlp_ocr.documents.detector import Detection, LineDetector
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Box, Page
from mindnlp_ocr.documents.source import Source, SourcePage
from mindnlp_ocr.documents.stream import Begun, DocumentStream, Ended, PageRead
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from tests.conftest import ROOT, case

TRUTH = (ROOT / "examples" / "letter.txt").read_text(encoding="utf-8")
HEAD = "\n".join(TRUTH.splitlines()[:4])


@pytest.fixture(scope="module")
def reader(model: Qwen2VLModel) -> DocumentReader:
    return DocumentReader(model, layout="lines", threads=1)


@pytest.fixture(scope="module")
def head(letter: Image.Image) -> Image.Image:
    """Its first four lines, where a test reads them several times."""
    return letter.crop((0, 0, letter.width, 400))


@pytest.fixture(scope="module")
def page(reader: DocumentReader, letter: Image.Image) -> Page:
    """The letter, read once."""
    return reader.read_image(letter, 7, 150)


def words(text: str) -> list[str]:
    return text.split()


def test_a_page_is_read_line_by_line_in_order_with_boxes_and_confidence(page: Page, letter: Image.Image) -> None:
    assert words(page.text) == words(TRUTH)
    assert (page.number, page.dpi, page.width, page.height, page.layout) == (7, 150, *letter.size, "lines")
    assert page.confidence is not None
    assert page.confidence > 0.5
    assert not page.doubtful
    tops = [line.box.top for line in page.lines]
    assert tops == sorted(tops)
    ink = np.asarray(letter.convert("L")) < 128
    for line in page.lines:
        left, top, right, bottom = (int(value) for value in line.box)
        assert ink[top:bottom, left:right].any()
        assert 0 <= left < right <= letter.width
    covered = sum(ink[int(b.top) : int(b.bottom), int(b.left) : int(b.right)].sum() for b in (x.box for x in page.lines))
    assert covered > 0.95 * ink.sum()


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_page_on_its_side_or_upside_down_is_turned(reader: DocumentReader, head: Image.Image, turn: int) -> None:
    turned = head.rotate(turn, expand=True)  # counter-clockwise, so that it must be turned clockwise by as much
    page = reader.read_image(turned)
    assert page.rotation == turn
    assert words(page.text) == words(HEAD)
    assert (page.width, page.height) == turned.size
    ink = np.asarray(turned.convert("L")) < 128
    first = page.lines[0]
    assert first.polygon is not None
    left, top, right, bottom = (int(value) for value in first.box)
    assert ink[top:bottom, left:right].any()
    assert abs((first.angle + turn) % 360) < 2 or abs((first.angle + turn) % 360 - 360) < 2


def test_lines_at_known_places_are_read_without_a_search(reader: DocumentReader, page: Page, letter: Image.Image) -> None:
    found = [line for line in page.lines if line.polygon is None][:3]
    nothing, outside = Box(0, 0, 8, 8), Box(letter.width + 5, 0, letter.width + 50, 20)
    boxes = [found[2].box, nothing, found[0].box, outside]
    lines = reader.read_lines(letter, boxes, 0.11)
    assert len(lines) == 4
    assert (lines[0].text, lines[2].text, lines[3].text) == (found[2].text, found[0].text, "")
    assert lines[2].confidence is not None
    assert lines[3].confidence is None
    assert reader.read_lines(letter, []) == []


def test_a_blank_page_has_no_text(reader: DocumentReader) -> None:
    noise = np.random.default_rng(1).normal(245, 3, (900, 700, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    for image in (Image.new("RGB", (900, 1200), "white"), Image.fromarray(noise)):
        page = reader.read_image(image)
        assert (page.text, page.blocks, page.confidence, page.doubtful, page.error) == ("", (), None, False, None)


def test_lines_below_the_threshold_are_doubtful_and_so_is_a_page_of_them(model: Qwen2VLModel, letter: Image.Image) -> None:
    blurred = letter.filter(ImageFilter.GaussianBlur(5))
    page = DocumentReader(model, layout="lines", min_confidence=0.9999, threads=1).read_image(blurred)
    assert page.lines
    assert all(line.doubtful == (line.confidence is not None and line.confidence < 0.9999) for line in page.lines)
    assert page.doubtful
    assert any("The text of this page is doubtful" in warning for warning in page.warnings)


def test_many_pages_come_in_their_order_with_the_same_results_as_alone(reader: DocumentReader, head: Image.Image) -> None:
    blank = Image.new("RGB", (900, 1200), "white")
    pages = [head, blank, head.crop((0, 0, head.width, 250)), head]
    ready = Page(number=9, layout="text-layer")
    given = [SourcePage(number, image) for number, image in enumerate(pages, 1)]
    together = list(reader.read_pages([given[0], lambda: given[1], ready, given[2], lambda: given[3]]))
    assert [page.number for page in together] == [1, 2, 9, 3, 4]
    for page, image in zip([together[i] for i in (0, 1, 3, 4)], pages, strict=True):
        alone = reader.read_image(image, page.number)
        assert page.blocks == alone.blocks  # boxes, text and the bits of every confidence


def test_auto_reads_small_pictures_whole_and_pages_by_line(model: Qwen2VLModel, letter: Image.Image) -> None:
    reader = DocumentReader(model)
    assert reader.layout_of(560, 672) == "page"
    assert reader.layout_of(*letter.size) == "lines"
    with Image.open(ROOT / "examples" / "letter.png") as image:
        small = image.convert("RGB")
    assert reader.read_image(small).layout == "page"
    pieces: list[str] = []
    page = DocumentReader(model, layout="page").read_image(small, on_text=pieces.append)
    assert page.text == "".join(pieces) == case("letter")["text"]
    assert len(pieces) > 10


def test_a_checkpoint_that_does_not_read_lines_refuses_to(model: Qwen2VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindnlp_ocr.documents.presets.FILE", "no_such_file.json")
    assert DocumentReader(model).layout_of(3000, 4000) == "page"
    with pytest.raises(SetupError, match="--layout lines was requested, but the checkpoint does not declare"):
        DocumentReader(model, layout="lines")


def test_one_bad_document_stops_no_other(reader: DocumentReader, head: Image.Image, tmp_path: Path) -> None:
    good, bad, tiff = (str(tmp_path / name) for name in ("a.png", "b.pdf", "c.tif"))
    head.save(good)
    Path(bad).write_bytes(b"%PDF-1.7 broken")
    head.save(tiff, save_all=True, append_images=[head])
    events = list(DocumentStream(reader).read([bad, good, str(tmp_path / "none.png"), tiff]))
    assert [type(event) for event in events] == [
        Begun,
        Ended,
        Begun,
        PageRead,
        Ended,
        Begun,
        Ended,
        Begun,
        PageRead,
        PageRead,
        Ended,
    ]
    assert [event.error is None for event in events if isinstance(event, Ended)] == [False, True, False, True]
    pages = [event.page for event in events if isinstance(event, PageRead)]
    assert [words(page.text) == words(HEAD) for page in pages] == [True] * 3


def test_a_page_that_is_damaged_inside_a_document_is_reported_alone(
    reader: DocumentReader, head: Image.Image, tmp_path: Path
) -> None:
    head.save(tmp_path / "a.tif", save_all=True, append_images=[head, head], compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    middle = len(content) // 2
    content[middle - 2000 : middle + 2000] = b"\xff" * 4000
    (tmp_path / "a.tif").write_bytes(bytes(content))
    document = DocumentStream(reader).document(str(tmp_path / "a.tif"))
    assert document.error is None
    assert [page.error is None for page in document.pages].count(True) >= 1
    assert all(page.error is None or "damaged" in page.error for page in document.pages)


def test_the_source_of_a_page_stays_open_until_its_document_ends(reader: DocumentReader, tmp_path: Path) -> None:
    Image.new("RGB", (900, 900), "white").save(tmp_path / "a.pdf", "PDF")
    for event in DocumentStream(reader).read([str(tmp_path / "a.pdf")]):
        if isinstance(event, PageRead):
            assert isinstance(event.source, Source)
            assert event.source.page(0).image.width > 900


@pytest.mark.parametrize("name", ["two_columns.pdf", "scan.jpg"])
def test_the_example_documents_are_read_without_an_error_and_in_order(reader: DocumentReader, name: str) -> None:
    document = DocumentStream(reader).document(str(ROOT / "examples" / name))
    truth = (ROOT / "examples" / name).with_suffix(".txt").read_text(encoding="utf-8")
    assert words(document.text) == words(truth)
    assert not document.doubtful


def test_what_the_detector_is_not_sure_of_counts_only_if_it_is_read_surely(
    reader: DocumentReader, head: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = LineDetector(threads=1).detect(head)
    first, second = found.quads[:2]
    half = second.copy()
    half[:2, 1] = (half[:2, 1] + half[2:, 1]) / 2 + 2  # the lower half of the letters cannot be read

    def read(*sure: bool) -> list[str]:
        detection = Detection([first, second, half], list(sure))
        monkeypatch.setattr(LineDetector, "detect", lambda self, page: detection)
        return [line.text for line in reader.read_image(head).lines]

    everything = read(True, True, True)
    assert len(everything) == 3
    right = [text for text in everything if text in TRUTH]
    assert len(right) == 2
    assert read(True, False, False) == right
