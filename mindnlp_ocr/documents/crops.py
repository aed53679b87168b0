"""Crops of single lines for the model: deskewed, split if they are too long, and scaled as the checkpoint requires."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.documents.detector import Quad, bounds, height, width
from mindnlp_ocr.documents.settings import LineSettings

STRAIGHT = 0.6  # degrees; lines with a smaller angle are cropped without rotation
WORD_GAP = 0.2  # minimum width of a space, in heights of the line
CELL_GAP = 2.2  # minimum width of a gap between columns, in heights of the line
INK = 0.12  # minimum contrast of ink to paper, as a share of the range of grey levels


class Crop(NamedTuple):
    """A part of a line for one request.

    Attributes:
        image: RGB, ``LineSettings.height`` pixels high.
        blank_before: whether there is a space between this part and the previous one.
    """

    image: Image.Image
    blank_before: bool = False


def straightened(page: Image.Image, quad: Quad, margin: float) -> Image.Image:
    """Crop and deskew the line within the corners, with a margin of ``margin`` times its height around it."""
    extra = margin * height(quad)
    angle = math.degrees(math.atan2(quad[1][1] - quad[0][1], quad[1][0] - quad[0][0]))
    if abs(angle) < STRAIGHT:
        left, top, right, bottom = bounds(quad)
        pad = round(extra)
        box = (max(0, left - pad), max(0, top - pad), min(page.width, right + pad), min(page.height, bottom + pad))
        return page.crop(box)
    wide, high = max(1, round(width(quad) + 2 * extra)), max(1, round(height(quad) + 2 * extra))
    inner = np.array([[extra, extra], [wide - extra, extra], [wide - extra, high - extra]], np.float32)
    # Only the surrounding region is converted to an array: a page of 40 megapixels has hundreds of lines.
    left, top, right, bottom = bounds(quad)
    pad = math.ceil(extra) + 2
    box = (max(0, left - pad), max(0, top - pad), min(page.width, right + pad), min(page.height, bottom + pad))
    corners = (quad[:3] - np.array(box[:2])).astype(np.float32)
    matrix = cv2.getAffineTransform(corners, inner)
    pixels = cv2.warpAffine(
        np.asarray(page.crop(box)), matrix, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return Image.fromarray(pixels)


def split_cells(page: Image.Image, quad: Quad) -> list[Quad]:
    """Split a line at gaps that are so wide that its parts belong to different columns."""
    line = straightened(page, quad, 0.0)
    gaps = [gap for gap in ink_gaps(line) if gap[1] - gap[0] > CELL_GAP * line.height]
    if not gaps:
        return [quad]
    keep = 0.25 * line.height  # part of the gap that is kept on each side
    edges = [0.0, *(x for start, end in gaps for x in (start + keep, end - keep)), float(line.width)]
    parts = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        shares = np.array([start, end]) / line.width
        upper = quad[0] + np.outer(shares, quad[1] - quad[0])
        lower = quad[3] + np.outer(shares, quad[2] - quad[3])
        parts.append(np.array([upper[0], upper[1], lower[1], lower[0]]))
    return parts


def crops_of(page: Image.Image, quad: Quad, settings: LineSettings) -> list[Crop]:
    """Return the crops of one line: one, or several if the line is too long for one request."""
    line = straightened(page, quad, settings.margin)
    longest = settings.max_width / settings.stretch / settings.height * line.height
    if line.width <= longest:
        return [Crop(scaled(line, settings))]
    gaps = ink_gaps(line)
    edges = [(0, False)]
    while line.width - edges[-1][0] > longest:
        start = edges[-1][0]
        edges.append(_cut(line, gaps, start + longest / 2, start + longest))
    edges.append((line.width, False))
    return [
        Crop(scaled(line.crop((start, 0, end, line.height)), settings), blank)
        for (start, blank), (end, _) in pairwise(edges)
    ]


def scaled(line: Image.Image, settings: LineSettings) -> Image.Image:
    """Scale a line to the height and aspect ratio that the checkpoint requires."""
    wanted = line.width * settings.height / line.height * settings.stretch
    steps = max(1, round(wanted / settings.height))
    return line.resize((steps * settings.height, settings.height), Image.Resampling.BICUBIC)


def stretched_again(crop: Image.Image, settings: LineSettings) -> Image.Image:
    """Widen the crop of a line from ``stretch`` to ``stretch_again``, at most to the maximum width."""
    wanted = min(crop.width * settings.stretch_again / settings.stretch, settings.max_width)
    steps = max(1, int(wanted / settings.height))
    return crop.resize((steps * settings.height, settings.height), Image.Resampling.BICUBIC)


def ink_gaps(line: Image.Image) -> list[tuple[int, int]]:
    """Return the ranges of pixel columns without ink between columns with ink, as (first, end)."""
    ink = np.flatnonzero(_ink(line).any(0))
    breaks = np.flatnonzero(np.diff(ink) > 1)
    return [(int(ink[i]) + 1, int(ink[i + 1])) for i in breaks]


def _ink(line: Image.Image) -> NDArray[np.bool_]:
    """Return the mask of ink on light or dark paper.

    The outermost rows define the colour of the paper and are not part of the result.
    """
    grey = np.asarray(line.convert("L"), np.float32)
    rows = max(1, round(0.08 * grey.shape[0]))
    paper = float(np.median(np.concatenate([grey[:rows], grey[-rows:]])))
    grey = grey[rows:-rows] if grey.shape[0] > 4 * rows else grey
    spread = max(48.0, float(np.percentile(np.abs(grey - paper), 99)))
    different: NDArray[np.bool_] = np.abs(grey - paper) > max(20.0, 3 * INK * spread)
    return different


def _cut(line: Image.Image, gaps: Sequence[tuple[int, int]], first: float, last: float) -> tuple[int, bool]:
    """Return the pixel column between ``first`` and ``last`` at which to cut a line, and whether there is a space.

    The cut is in the last gap between words, else in the last gap between letters, else in the column with the least ink.
    """
    candidates = [(start, end) for start, end in gaps if first <= (start + end) // 2 <= last]
    words = [(start, end) for start, end in candidates if end - start >= WORD_GAP * line.height]
    if words or candidates:
        start, end = (words or candidates)[-1]
        return (start + end) // 2, bool(words)
    begin, stop = math.ceil(first), math.floor(last) + 1
    return begin + int(_ink(line)[:, begin:stop].sum(0).argmin()), False
