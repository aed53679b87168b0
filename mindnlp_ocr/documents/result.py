"""The results of reading a document: ``Document`` -> ``Page`` -> ``Block`` -> ``Line``, all frozen and typed.

All positions are in pixels of the page as it was opened (for a PDF: as it was rendered), measured from its top left corner.
The models also define the JSON output; ``mindnlp-ocr --print-schema`` writes their JSON Schema.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1

BlockKind = Literal[
    "text", "title", "list", "table", "figure", "formula", "code", "caption", "footnote", "header", "footer", "aside"
]
FURNITURE: frozenset[BlockKind] = frozenset(
    {"header", "footer", "aside"}
)  # parts of the page that do not belong to its text
Layout = Literal["lines", "page", "model", "text-layer"]
Rotation = Literal[0, 90, 180, 270]
CutReason = Literal["repetition", "length"]


class Point(NamedTuple):
    """A position on a page, in pixels."""

    x: float
    y: float


class Box(NamedTuple):
    """An upright rectangle on a page, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @classmethod
    def around(cls, boxes: Iterable["Box"]) -> "Box":
        """The smallest box that contains all of one or more boxes."""
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return cls(min(lefts), min(tops), max(rights), max(bottoms))

    def scaled(self, factor: float) -> "Box":
        """The box in other units, for example points instead of pixels."""
        return Box(*(value * factor for value in self))


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Result):
    """One line of text; in a table, a cell or a detected line.

    Attributes:
        text: the text, without line breaks.
        box: the upright rectangle around the line.
        polygon: the four corners of a line that is not horizontal, clockwise from the corner where its text begins; None for
            a horizontal line.
        confidence: the estimated probability, 0 to 1, that the whole line is correct; None if it was not estimated.
        doubtful: whether the confidence lies below the threshold of the reading.
        row: number of the visual row inside the block, from 0. The lines of one row are side by side, from left to right.
        cut: why the text ends early: "repetition" (the text was truncated where the model began to repeat itself) or
            "length" (the maximum length was reached); None for a complete line.
    """

    text: str
    box: Box
    polygon: tuple[Point, Point, Point, Point] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    doubtful: bool = False
    row: Annotated[int, Field(ge=0)] = 0
    cut: CutReason | None = None

    @property
    def corners(self) -> tuple[Point, Point, Point, Point]:
        """The four corners, clockwise from the corner where the text begins."""
        if self.polygon is not None:
            return self.polygon
        left, top, right, bottom = self.box
        return Point(left, top), Point(right, top), Point(right, bottom), Point(left, bottom)

    @property
    def angle(self) -> float:
        """The direction of the text in degrees, clockwise from horizontal, in (-180, 180]."""
        if self.polygon is None:
            return 0.0
        start, end = self.polygon[0], self.polygon[1]
        return math.degrees(math.atan2(end.y - start.y, end.x - start.x))


class Block(_Result):
    """Lines that belong together: a paragraph, a heading, a table.

    Attributes:
        kind: what the block is; "aside" is text in the margin of a page.
        box: the upright rectangle around all lines.
        lines: the lines in reading order; empty for a figure without text. Those of a table are its cells, or the lines that
            were detected, which may be parts of cells or several cells.
        label: the model's name for this kind of block, such as "page_footnote"; None if no model classified it.
        level: level of a heading, from 1, if the model distinguishes levels.
        angle: degrees (0, 90, 180 or 270) by which its text is rotated clockwise on the page.
        continues: whether it continues the paragraph of the previous text block.
        html: the rows, columns and merged cells of a table, as HTML; None if only its lines are known.
        latex: a formula, without delimiters.
        markdown: the block as the model wrote it, if it wrote Markdown.
    """

    kind: BlockKind = "text"
    box: Box
    lines: tuple[Line, ...]
    label: str | None = None
    level: Annotated[int, Field(ge=1, le=6)] | None = None
    angle: Rotation = 0
    continues: bool = False
    html: str | None = None
    latex: str | None = None
    markdown: str | None = None

    @property
    def rows(self) -> tuple[tuple[Line, ...], ...]:
        """The lines, grouped by visual row."""
        grouped: dict[int, list[Line]] = {}
        for line in self.lines:
            grouped.setdefault(line.row, []).append(line)
        return tuple(tuple(grouped[row]) for row in sorted(grouped))

    @property
    def text(self) -> str:
        """One line of text for each visual row. Cells of a table row are separated by tabs, other lines by spaces."""
        between = "\t" if self.kind == "table" else " "
        return "\n".join(between.join(line.text for line in row) for row in self.rows)


class Page(_Result):
    """One page.

    Attributes:
        number: the page's number in its document, from 1.
        width: pixels of the page as it was opened.
        height: pixels of the page as it was opened.
        dpi: resolution, if it is known: of the rendering for a PDF, of the file's metadata for an image.
        rotation: degrees (0, 90, 180 or 270) by which the page was rotated clockwise to be read.
        layout: how the page was read.
        blocks: the blocks in reading order.
        confidence: the mean confidence of the lines, weighted by their characters; None without text or estimates.
        doubtful: whether the confidence lies below the threshold of the reading.
        warnings: what a user should know about this page, one sentence each.
        error: why the page could not be read; None if it was read.
        error_code: identifier of the error; None if the page was read.
        timings_ms: milliseconds that each stage took.
    """

    number: Annotated[int, Field(ge=1)]
    width: int = 0
    height: int = 0
    dpi: float | None = None
    rotation: Rotation = 0
    layout: Layout = "lines"
    blocks: tuple[Block, ...] = ()
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    doubtful: bool = False
    warnings: tuple[str, ...] = ()
    error: str | None = None
    error_code: str | None = None
    timings_ms: dict[str, float] = {}

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in reading order."""
        return tuple(line for block in self.blocks for line in block.lines)

    @property
    def text(self) -> str:
        """The text in reading order, blocks separated by an empty line."""
        parts: list[str] = []
        for block in self.blocks:
            if text := block.text:
                parts.append(text if not parts else f"\n{text}" if block.continues else f"\n\n{text}")
        return "".join(parts)


class Document(_Result):
    """One document: a PDF, a TIFF of several pages, or one image.

    Attributes:
        source: the name under which the document was given.
        pages: the pages that were read, in order.
        error: why the document could not be opened; None if it was opened.
        error_code: identifier of the error; None if the document was opened.
    """

    source: str
    pages: tuple[Page, ...] = ()
    error: str | None = None
    error_code: str | None = None

    @property
    def text(self) -> str:
        """The text of all pages, separated by a form feed as ``pdftotext`` does."""
        return "\n\f".join(page.text for page in self.pages)

    @property
    def doubtful(self) -> bool:
        """Whether any page is doubtful."""
        return any(page.doubtful for page in self.pages)
