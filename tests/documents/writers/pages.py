"""Pages for the tests of the output formats."""

import io
from typing import Any

from PIL import Image

from mindnlp_ocr.documents.result import Block, BlockKind, Box, Document, Line, Page, Point
from mindnlp_ocr.documents.writers import FORMATS, PagePicture, Writer

# Half a surrogate pair, control characters, what Unicode calls no character, and what markup means something by.
HOSTILE = "a\ud800b\x00c\x07d\x1be\ufffef\uffffg\x0bh\x85i <&>\"' --> ]]> \\( %"


def line(text: str, left: float = 100, top: float = 100, right: float = 500, bottom: float = 140, **more: Any) -> Line:
    """A line at a place of its page."""
    return Line(text=text, box=Box(left, top, right, bottom), **more)


def block(*lines: Line, kind: BlockKind = "text") -> Block:
    """A block around lines, each a row of its own unless they say otherwise."""
    box = Box.around(line.box for line in lines)
    rows = [one if one.row else one.model_copy(update={"row": number}) for number, one in enumerate(lines)]
    return Block(kind=kind, box=box, lines=tuple(lines if kind == "table" else rows))


def page(*blocks: Block, **more: Any) -> Page:
    """A page of 800 x 600 pixels at 100 dpi."""
    return Page(**{"number": 1, "width": 800, "height": 600, "dpi": 100.0, "blocks": blocks} | more)


def of_text(text: str, number: int = 1) -> Page:
    """A page of paragraphs, a line break for a line."""
    top, blocks = 50, []
    for paragraph in text.split("\n\n"):
        lines = []
        for words in paragraph.split("\n"):
            lines.append(line(words, 50, top, 50 + 10 * len(words), top + 20))
            top += 30
        blocks.append(block(*lines))
        top += 20
    return page(*blocks, number=number)


def in_one_request(text: str) -> Page:
    """A page that was read in one request: nobody knows where its lines stand, so each has the whole page."""
    rows = [line(one, 0, 0, 800, 600) for one in text.split("\n")]
    return page(block(*rows), layout="page")


def table() -> Block:
    """Three rows of two cells, of which one is missing."""
    cells = [("Item", 0, 0), ("Price", 0, 1), ("Tea | green", 1, 0), ("3.20", 1, 1), ("Total", 2, 0)]
    lines = [
        line(text, 100 + 200 * column, 100 + 40 * row, 250 + 200 * column, 130 + 40 * row, row=row)
        for text, row, column in cells
    ]
    return block(*lines, kind="table")


def turned() -> Line:
    """A line that runs downwards from its beginning: its text is turned clockwise by 90 degrees."""
    corners = (Point(700, 100), Point(700, 500), Point(660, 500), Point(660, 100))
    return Line(text="up the margin", box=Box(660, 100, 700, 500), polygon=corners)


def written(name: str, *documents: Document, pictures: list[PagePicture | None] | None = None, **options: Any) -> bytes:
    """Documents in a format, as its writer is used."""
    stream = io.BytesIO()
    writer: Writer = FORMATS[name](stream, **options)
    with writer:
        for document in documents:
            writer.begin(document.source)
            for number, one in enumerate(document.pages):
                writer.page(one, pictures[number] if pictures else None)
            writer.end(document.error, document.error_code)
    return stream.getvalue()


def picture(image: Image.Image, **more: Any) -> PagePicture:
    """The picture of a page that is in memory."""
    return PagePicture(render=lambda: image, **more)
