"""Positions of lines on a rotated page, and their conversion back to the page as it was opened."""

import numpy as np
from PIL import Image

from mindnlp_ocr.documents.detector import Detection, Quad, bounds, turned_clockwise
from mindnlp_ocr.documents.result import Block, Box, Point, Rotation

TURNED = 0.01  # minimum slope for a line to count as rotated

Corners = tuple[Point, Point, Point, Point]


def turned(image: Image.Image, found: Detection, rotation: Rotation) -> tuple[Image.Image, Detection]:
    """Rotate a page and its lines clockwise."""
    quads = found.quads
    width, height = image.size
    for _ in range(rotation // 90):
        quads = [turned_clockwise(quad, height) for quad in quads]
        width, height = height, width
    return (image.rotate(-rotation, expand=True) if rotation else image), Detection(quads, found.sure)


def placed(quad: Quad) -> tuple[Box, Corners | None]:
    """Return the box of a line, and its corners if the line is rotated."""
    box = Box(*(float(value) for value in bounds(quad)))
    rise = max(abs(quad[1][1] - quad[0][1]), abs(quad[2][1] - quad[3][1]))
    if rise <= max(2.0, TURNED * float(np.ptp(quad[:, 0]))):
        return box, None
    first, second, third, fourth = (Point(round(float(x), 2), round(float(y), 2)) for x, y in quad)
    return box, (first, second, third, fourth)


def placed_back(blocks: tuple[Block, ...], rotation: Rotation, size: tuple[int, int]) -> tuple[Block, ...]:
    """Convert the positions of blocks from a page that was rotated clockwise to the original page of size ``size``."""
    if not rotation:
        return blocks
    width, height = size

    def back(point: Point) -> Point:
        if rotation == 90:
            return Point(point.y, height - point.x)
        if rotation == 180:
            return Point(width - point.x, height - point.y)
        return Point(width - point.y, point.x)

    moved = []
    for block in blocks:
        lines = []
        for line in block.lines:
            first, second, third, fourth = (back(point) for point in line.corners)
            polygon = (first, second, third, fourth)
            xs, ys = zip(*polygon, strict=True)
            box = Box(min(xs), min(ys), max(xs), max(ys))
            lines.append(line.model_copy(update={"polygon": polygon, "box": box}))
        around = Box.around(line.box for line in lines)
        moved.append(block.model_copy(update={"box": around, "lines": tuple(lines)}))
    return tuple(moved)
