"""Estimated positions of the words of a line.

A model reads a line as a whole and gives no positions of words, so all positions here are estimates: the length of the line
is divided among its characters according to their widths in common fonts. For a line in one ordinary font, the error is
about one character; letter spacing, a wide gap in the line, or a formula increases it.
"""

import math
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from mindnlp_ocr.documents.result import Block, Box, Line, Page, Point
from mindnlp_ocr.documents.writers.base import printable

# Advance widths in thousandths of the font size, close to those of common sans serif fonts.
WIDE, USUAL = 1000, 550
_WIDTHS = {
    **dict.fromkeys("ijlI.,:;!|'`·", 250),
    **dict.fromkeys(' ftr()[]{}-/\\"*^°', 330),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ&", 680),
    **dict.fromkeys("mwMW@%—…", 860),
}
LINE_PITCH = 1.3  # distance between lines of a paragraph, in font sizes
DESCENT = 0.2  # part of the height of a line below its baseline

Corners = tuple[Point, Point, Point, Point]


class Word(NamedTuple):
    """A word on its page.

    Attributes:
        text: the word; in languages without spaces, the text between two spaces.
        corners: its four corners, clockwise from the corner where it begins.
    """

    text: str
    corners: Corners

    @property
    def box(self) -> Box:
        """The bounding box of the word."""
        return around(self.corners)


@lru_cache(maxsize=1 << 14)
def advance(character: str) -> int:
    """Return the advance width of a character in thousandths of the font size."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    if unicodedata.east_asian_width(character) in "WF":
        return WIDE
    return _WIDTHS.get(character, USUAL)


def placed(page: Page) -> Page:
    """Return the page with estimated positions for lines whose positions are unknown.

    The text of a block that a model read as a whole is split at spaces into as many lines as fit the shape of its box.

    In a page that was read in one request, every line has the box of the whole page. Here, the lines share the height of the
    page, and the longest takes its whole width, so that a search finds the right part of the page.
    """
    lines = page.lines
    if page.layout == "model":
        whole = ("table", "formula", "code")
        wrapped = (b if b.kind in whole or b.label is None else _wrapped(b) for b in page.blocks)
        return page.model_copy(update={"blocks": tuple(wrapped)})
    if page.layout != "page" or len(lines) < 2 or len({line.box for line in lines}) > 1:
        return page
    box, number = lines[0].box, 0
    lengths = [sum(map(advance, printable(line.text))) for line in lines]
    blocks = []
    for block in page.blocks:
        moved = []
        for line in block.lines:
            top = box.top + box.height * number / len(lines)
            right = box.left + box.width * lengths[number] / max(*lengths, 1)
            number += 1
            bottom = box.top + box.height * number / len(lines)
            moved.append(line.model_copy(update={"box": Box(box.left, top, right, bottom)}))
        around_all = around(corner for line in moved for corner in line.corners)
        blocks.append(block.model_copy(update={"lines": tuple(moved), "box": around_all}))
    return page.model_copy(update={"blocks": tuple(blocks)})


def _wrapped(block: Block) -> Block:
    """Split the texts of a block into lines, with a line height that makes the text fill its box."""
    lines: list[Line] = []
    for line in block.lines:
        start_top, end_top, _, start_bottom = line.corners
        width, height = math.dist(start_top, end_top), math.dist(start_top, start_bottom)
        ems = sum(map(advance, line.text)) / 1000
        count = max(1, round(math.sqrt(ems * height / (LINE_PITCH * width)))) if width and height else 1
        for row, text in enumerate(texts := _parted(line.text, count)):
            corners = _rows_of(line.corners, row / len(texts), (row + 1) / len(texts))
            longest = max(sum(map(advance, other)) for other in texts)
            corners = part(corners, 0, sum(map(advance, text)) / longest if longest else 1)
            polygon = corners if line.polygon is not None else None
            cut = line.cut if row == len(texts) - 1 else None
            moved = {"text": text, "box": around(corners), "polygon": polygon, "row": len(lines), "cut": cut}
            lines.append(line.model_copy(update=moved))
    return block.model_copy(update={"lines": tuple(lines)})


def _parted(text: str, count: int) -> list[str]:
    """Split a text into ``count`` parts of similar length at spaces, or between characters if there are no spaces."""
    parts, rest = [], text.strip()
    for left in range(count, 1, -1):
        wanted, length, end = sum(map(advance, rest)) / left, 0, 0
        while end < len(rest) and length < wanted:
            length += advance(rest[end])
            end += 1
        blanks = [place for place in (rest.rfind(" ", 0, end), rest.find(" ", end)) if place > 0]
        wide = any(advance(character) == WIDE for character in rest[max(0, end - 4) : end + 4])
        place = end if wide or not blanks else min(blanks, key=lambda place: abs(place - end))
        if not rest[:place].strip():
            continue
        parts.append(rest[:place].strip())
        rest = rest[place:].strip()
        if not rest:
            break
    return [*parts, rest] if rest else parts


def _rows_of(corners: Corners, begin: float, end: float) -> Corners:
    """Return the part of a region between two shares of its height, from 0 to 1."""
    start_top, end_top, end_bottom, start_bottom = corners
    return (
        between(start_top, start_bottom, begin),
        between(end_top, end_bottom, begin),
        between(end_top, end_bottom, end),
        between(start_top, start_bottom, end),
    )


def words(line: Line) -> list[Word]:
    """Return the words of a line from its beginning to its end; none if it is blank."""
    text = printable(line.text).strip()
    widths = [advance(character) for character in text]
    whole = sum(widths)
    if not whole:  # empty, or only marks without a width
        widths, whole = [1] * len(text), len(text)
    found: list[Word] = []
    begin, position = None, 0
    starts = [0]
    for width in widths:
        starts.append(starts[-1] + width)
    for position, character in enumerate(text + " "):
        if not character.isspace():
            begin = position if begin is None else begin
        elif begin is not None:
            corners = part(line.corners, starts[begin] / whole, starts[position] / whole)
            found.append(Word(text[begin:position], corners))
            begin = None
    return found


def around(points: Iterable[Point]) -> Box:
    """Return the bounding box of points."""
    xs, ys = zip(*points, strict=True)
    return Box(min(xs), min(ys), max(xs), max(ys))


def part(corners: Corners, begin: float, end: float) -> Corners:
    """Return the part of a line between two shares of its length, from 0 to 1."""
    start_top, end_top, end_bottom, start_bottom = corners
    return (
        between(start_top, end_top, begin),
        between(start_top, end_top, end),
        between(start_bottom, end_bottom, end),
        between(start_bottom, end_bottom, begin),
    )


def between(start: Point, end: Point, share: float) -> Point:
    """Return the point at a share of the way from one point to another."""
    return Point(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share)


def baseline(line: Line) -> tuple[Point, Point]:
    """Return the baseline of a line, from its beginning to its end."""
    start_top, end_top, end_bottom, start_bottom = line.corners
    return between(start_bottom, start_top, DESCENT), between(end_bottom, end_top, DESCENT)


def pixels(box: Box, page: Page) -> tuple[int, int, int, int]:
    """Return the pixels that a box touches, clipped to its page: left, top, right, bottom."""
    left, top, right, bottom = (round(value, 3) for value in box)  # 252.9999999 is 253
    right, bottom = math.ceil(right), math.ceil(bottom)
    if page.width and page.height:
        right, bottom = min(right, page.width), min(bottom, page.height)
    right, bottom = max(right, 0), max(bottom, 0)
    return min(max(math.floor(left), 0), right), min(max(math.floor(top), 0), bottom), right, bottom
