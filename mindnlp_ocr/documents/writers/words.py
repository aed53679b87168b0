"""Where the words of a line lie.

A model reads a line at once and says nothing of its words, so every position in here is an estimate: the line is shared out
among its characters by the widths that they have in common fonts. Where a line is set in one ordinary font the estimate is
good to a character or so; letter spacing, a wide gap inside a line, or a formula move it.
"""

import math
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from mindnlp_ocr.documents.result import Block, Box, Line, Page, Point
from mindnlp_ocr.documents.writers.base import printable

# Advance widths in thousandths of the font size, near those of common sans serif fonts.
WIDE, USUAL = 1000, 550
_WIDTHS = {
    **dict.fromkeys("ijlI.,:;!|'`·", 250),
    **dict.fromkeys(' ftr()[]{}-/\\"*^°', 330),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ&", 680),
    **dict.fromkeys("mwMW@%—…", 860),
}
LINE_PITCH = 1.3  # from one line of a paragraph to the next, in sizes of its font
DESCENT = 0.2  # the part of a line's height that lies below its baseline

Corners = tuple[Point, Point, Point, Point]


class Word(NamedTuple):
    """A word on its page.

    Attributes:
        text: the word; in languages without blanks all that stands between two of them.
        corners: its four corners, clockwise from the one where it begins.
    """

    text: str
    corners: Corners

    @property
    def box(self) -> Box:
        """The upright rectangle around the word."""
        return around(self.corners)


@lru_cache(maxsize=1 << 14)
def advance(character: str) -> int:
    """How far a character moves the next one, in thousandths of the font size."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    if unicodedata.east_asian_width(character) in "WF":
        return WIDE
    return _WIDTHS.get(character, USUAL)


def placed(page: Page) -> Page:
    """The page, its lines one below the other where nobody knows more of their places.

    A block that a model read as one text has the box of all of it: its text is parted at blanks into as many lines as fit
    its shape.

    A page that was read in one request has text alone: every line has the whole page for its box. Here they share its
    height, and the longest takes its whole width, so that a search finds the right part of a page.
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
    """A block, each of its texts in lines of the height that print of its length has in its box."""
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
    """A text in so many parts of about one length, parted at blanks, or between characters where there are none."""
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
    """The part of a region between two shares of its height, from 0 to 1."""
    start_top, end_top, end_bottom, start_bottom = corners
    return (
        between(start_top, start_bottom, begin),
        between(end_top, end_bottom, begin),
        between(end_top, end_bottom, end),
        between(start_top, start_bottom, end),
    )


def words(line: Line) -> list[Word]:
    """The words of a line, from its beginning to its end; none where it is blank."""
    text = printable(line.text).strip()
    widths = [advance(character) for character in text]
    whole = sum(widths)
    if not whole:  # nothing, or nothing but marks without a width
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
    """The upright rectangle around some points."""
    xs, ys = zip(*points, strict=True)
    return Box(min(xs), min(ys), max(xs), max(ys))


def part(corners: Corners, begin: float, end: float) -> Corners:
    """The part of a line between two shares of its length, from 0 to 1."""
    start_top, end_top, end_bottom, start_bottom = corners
    return (
        between(start_top, end_top, begin),
        between(start_top, end_top, end),
        between(start_bottom, end_bottom, end),
        between(start_bottom, end_bottom, begin),
    )


def between(start: Point, end: Point, share: float) -> Point:
    """The point at a share of the way from one to another."""
    return Point(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share)


def baseline(line: Line) -> tuple[Point, Point]:
    """The line on which the text rests, from its beginning to its end."""
    start_top, end_top, end_bottom, start_bottom = line.corners
    return between(start_bottom, start_top, DESCENT), between(end_bottom, end_top, DESCENT)


def pixels(box: Box, page: Page) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches, within its page: left, top, right, bottom."""
    left, top, right, bottom = (round(value, 3) for value in box)  # 252.9999999 is 253
    right, bottom = math.ceil(right), math.ceil(bottom)
    if page.width and page.height:
        right, bottom = min(right, page.width), min(bottom, page.height)
    right, bottom = max(right, 0), max(bottom, 0)
    return min(max(math.floor(left), 0), right), min(max(math.floor(top), 0), bottom), right, bottom
