"""Images of pages with their results: the positions, the reading order and the confidence of lines."""

import math
from itertools import pairwise
from statistics import median

from PIL import Image, ImageDraw, ImageFont

from mindnlp_ocr.documents.result import Box, Line, Page, Point
from mindnlp_ocr.documents.writers.words import placed

LINE_HEIGHT = 32  # pixels; smaller print is enlarged to it, so that labels fit next to it
LARGEST = 4_000  # pixels; pages with a longer side are not enlarged
_BLOCK = (40, 90, 200)
_UNKNOWN = (110, 110, 110)  # lines without a confidence
_DOUBTFUL = (205, 20, 20)
_STOPS = ((0.0, (205, 20, 20)), (0.5, (215, 120, 0)), (0.8, (140, 140, 0)), (1.0, (0, 140, 50)))

Colour = tuple[int, int, int]


def visualize(page: Page, image: Image.Image) -> Image.Image:
    """Draw the results of a page on its image.

    The outline of a line is red (confidence 0), orange, or green (1); it is grey if the confidence is unknown, and dashed
    red if the line is doubtful. Beside each line are its number in reading order and its confidence. Blocks are blue, with
    their number and kind, and an arrow leads from each block to the next. The top margin contains a summary of the page.
    """
    return _Drawing(placed(page), image).picture()


def colour(line: Line) -> Colour:
    """Return the colour of the outline of a line."""
    if line.doubtful:
        return _DOUBTFUL
    if line.confidence is None:
        return _UNKNOWN
    for (low, first), (high, second) in pairwise(_STOPS):
        if line.confidence <= high:
            share = (line.confidence - low) / (high - low)
            red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
            return red, green, blue
    return _STOPS[-1][1]


class _Drawing:
    def __init__(self, page: Page, image: Image.Image) -> None:
        self._page = page
        heights = [math.dist(line.corners[0], line.corners[3]) for line in page.lines]
        height = median(heights) if heights else LINE_HEIGHT
        across = (page.width or image.width) / image.width
        factor = max(1.0, min(LINE_HEIGHT * across / max(height, 1), LARGEST / max(image.size), 4.0))
        self._scale = factor / across
        self._font = ImageFont.load_default(min(max(12, round(height * self._scale * 0.42)), 40))
        self._width = max(2, round(height * self._scale / 14))
        self._margin = round(self._font.getlength("000: 0.00")) + 16
        size = (round(image.width * factor), round(image.height * factor))
        self._canvas = Image.new("RGB", (size[0] + 2 * self._margin, size[1] + 2 * self._margin), "white")
        resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        self._canvas.paste(resized, (self._margin, self._margin))
        self._draw = ImageDraw.Draw(self._canvas, "RGBA")

    def picture(self) -> Image.Image:
        self._draw.rectangle(
            [value - 1 for value in self._box(Box(0, 0, self._page.width, self._page.height))], outline=(200, 200, 200)
        )
        self._blocks()
        number = 0
        for block in self._page.blocks:
            for line in block.lines:
                number += 1
                self._line(line, number)
        self._arrows()
        self._summary()
        return self._canvas

    def _point(self, point: Point) -> Point:
        return Point(point.x * self._scale + self._margin, point.y * self._scale + self._margin)

    def _box(self, box: Box, pad: float = 0) -> Box:
        (left, top), (right, bottom) = self._point(Point(box.left, box.top)), self._point(Point(box.right, box.bottom))
        return Box(left - pad, top - pad, right + pad, bottom + pad)

    def _blocks(self) -> None:
        for number, block in enumerate(self._page.blocks, 1):
            box = self._box(block.box, 2 * self._width)
            self._draw.rectangle(box, outline=(*_BLOCK, 170), width=self._width)
            self._label(f"{number} {block.kind}", Point(box.left, box.top), _BLOCK, above=True)

    def _line(self, line: Line, number: int) -> None:
        shown = colour(line)
        corners = [self._point(corner) for corner in line.corners]
        self._draw.polygon(corners, fill=(*shown, 28))
        for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
            self._stroke(start, end, shown, dashed=line.doubtful)
        text = f"{number}" if line.confidence is None else f"{number}: {line.confidence:.2f}"
        room = Box(corners[0].x - self._font.getlength(text) - 10, corners[0].y, corners[0].x, corners[0].y + 2)
        self._label(text, corners[0], shown, above=any(_meet(room, self._box(other.box)) for other in self._page.lines))

    def _stroke(self, start: Point, end: Point, shown: Colour, dashed: bool) -> None:
        length, dash = math.dist(start, end), 5 * self._width
        if not dashed or not length:
            self._draw.line((start, end), fill=shown, width=self._width)
            return
        for position in range(0, math.ceil(length), 2 * dash):
            first, last = position / length, min((position + dash) / length, 1)
            points = [(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share) for share in (first, last)]
            self._draw.line((points[0], points[1]), fill=shown, width=self._width + 1)

    def _arrows(self) -> None:
        boxes = [self._box(block.box) for block in self._page.blocks]
        for box, following in pairwise(boxes):
            start = Point((box.left + box.right) / 2, box.bottom)
            end = Point((following.left + following.right) / 2, following.top)
            self._draw.line((start, end), fill=(*_BLOCK, 130), width=self._width)
            angle, size = math.atan2(end.y - start.y, end.x - start.x), 5 * self._width
            barbs = [(end.x - size * math.cos(angle + turn), end.y - size * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
            self._draw.polygon([end, *barbs], fill=(*_BLOCK, 200))

    def _label(self, text: str, corner: Point, shown: Colour, above: bool) -> None:
        """Draw text to the left of a corner, or above it."""
        _, top, width, bottom = self._draw.textbbox((0, 0), text, font=self._font)
        x = corner.x if above else corner.x - width - 8
        y = corner.y - bottom - 4 if above else corner.y - top + 2
        x = max(0, min(x, self._canvas.width - width - 6))
        self._draw.rectangle((x, y + top - 2, x + width + 6, y + bottom + 2), fill=(255, 255, 255, 200))
        self._draw.text((x + 3, y), text, fill=shown, font=self._font)

    def _summary(self) -> None:
        page = self._page
        parts = [f"page {page.number}", f"read as {page.layout}", f"{len(page.blocks)} blocks", f"{len(page.lines)} lines"]
        if page.confidence is not None:
            parts.append(f"confidence {page.confidence:.2f}")
        parts.append(f"{sum(line.doubtful for line in page.lines)} doubtful")
        if page.error is not None:
            parts = [parts[0], f"error: {page.error}"]
        shown = _DOUBTFUL if page.doubtful or page.error is not None else (0, 0, 0)
        self._draw.text((6, 4), ", ".join(parts), fill=shown, font=self._font)


def _meet(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom
