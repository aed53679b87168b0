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

from mindnlp_ocr.documents.result import Box, Line, Page, Point
from mindnlp_ocr.documents.writers.base import printable

# Advance widths in thousandths of the font size, near those of common sans serif fonts.
WIDE, USUAL = 1000, 550
_WIDTHS = {
    **dict.fromkeys("ijlI.,:;!|'`·", 250),
    **dict.fromkeys(' ftr()[]{}-/\\"*^°', 330),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ&", 680),
    **dict.fromkeys("mwMW@%—…", 860),
}
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

    A page that was read in one request has text alone: every line has the whole page for its box. Here they share its
    height, and the longest takes its whole width, so that a search finds the right part of a page.
    """
    lines = page.lines
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
