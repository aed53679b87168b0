"""Real pages: typeset PDFs, rendered at random resolutions, and scans of receipts and books."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from training.fonts import Mask
from training.texts import is_chinese

RESOLUTIONS = (80, 96, 100, 120, 144, 150, 170, 200, 200, 240)
CHINESE_SHARE = 0.3
BOOK_SHARE = 0.22
BLOCK_LINES = 14
LEAST_GAP = 0.1  # of the height of a line, between two of its words
CLEARER = 1.5  # how much wider the narrowest gap between words must be than the widest between letters


@dataclass
class Line:
    """A line of text and its box in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def moved(self, x: float, y: float) -> "Line":
        return Line(self.left - x, self.top - y, self.right - x, self.bottom - y, self.text)

    def outside(self, width: int, height: int) -> bool:
        return self.right < 0 or self.bottom < 0 or self.left > width or self.top > height

    def inside(self, width: int, height: int) -> bool:
        return self.left >= -1 and self.top >= -1 and self.right <= width + 1 and self.bottom <= height + 1


@dataclass
class Page:
    """A grey image (255 is paper), its lines, and its paragraphs as pairs of first and last line."""

    image: Mask
    lines: list[Line]
    blocks: list[tuple[int, int]]


class RealPages:
    """The pages of a folder: ``pdfs/`` with ``pdf_lines.json.gz``, ``receipts/`` and ``books/`` with a JSON file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        lines = folder / "pdf_lines.json.gz"
        pages = json.loads(gzip.decompress(lines.read_bytes()).decode("utf8")) if lines.exists() else []
        self.typeset: list[dict[str, Any]] = [page for page in pages if len(page["lines"]) > 2]
        self._chinese = [page for page in self.typeset if mostly_chinese(page)]
        self.receipts, self.books = (self._scans(name) for name in ("receipts", "books"))

    def _scans(self, name: str) -> list[tuple[Path, list[list[Any]]]]:
        path = self._folder / f"{name}.json"
        scans = json.loads(path.read_text("utf8")) if path.exists() else {}
        return [(self._folder / name / file, lines) for file, lines in scans.items() if len(lines) > 1]

    def pdf(self, r: Random) -> Page:
        import pypdfium2

        page = r.choice(self._chinese if self._chinese and r.random() < CHINESE_SHARE else self.typeset)
        scale = r.choice(RESOLUTIONS) / 72
        document = pypdfium2.PdfDocument(self._folder / "pdfs" / page["pdf"])
        image = document[page["page"]].render(scale=scale, grayscale=True).to_numpy()
        document.close()
        lines = [Line(scale * x0, scale * y0, scale * x1, scale * y1, text) for x0, y0, x1, y1, text in page["lines"]]
        return Page(image[:, :, 0] if image.ndim == 3 else image, lines, [(first, last) for first, last in page["blocks"]])

    def scan(self, r: Random) -> Page:
        books = self.books and (not self.receipts or r.random() < BOOK_SHARE)
        path, lines = r.choice(self.books if books else self.receipts)
        return Page(np.asarray(Image.open(path).convert("L")), [Line(*line) for line in lines], [])


def mostly_chinese(page: dict[str, Any]) -> bool:
    text = "".join(line[4] for line in page["lines"])
    return sum(map(is_chinese, text)) > 0.2 * len(text)


def crops(r: Random, page: Page) -> Iterator[tuple[Mask, str]]:
    """Yield every line at its own resolution, cut with the margins of a detector, which are sometimes inaccurate."""
    height, width = page.image.shape

    def margin() -> float:
        k = r.random()
        return r.uniform(0.06, 0.17) if k < 0.6 else r.uniform(-0.02, 0.24) if k < 0.92 else r.uniform(0.2, 0.4)

    for line in page.lines:
        if not 6 <= line.height <= 160:
            continue
        before, after = (line.height * (r.uniform(0.05, 0.3) if r.random() < 0.85 else r.uniform(0, 0.05)) for _ in range(2))
        left, right = int(max(0, line.left - before + 0.5)), int(min(width, line.right + after + 0.5))
        top = int(max(0, line.top - line.height * margin() + 0.5))
        bottom = int(min(height, line.bottom + line.height * margin() + 0.5))
        if right - left >= 5 and bottom - top >= 6:
            yield page.image[top:bottom, left:right], line.text


def words_of(crop: Mask, text: str) -> list[tuple[Mask, str]] | None:
    """Cut a line between its words. Returns None if the gaps between words cannot be told from those between letters."""
    words = text.split()
    if not words or any(map(is_chinese, text)):
        return None
    paper, ink = np.percentile(crop, (75, 2))
    if paper - ink < 40:
        return None
    columns = np.flatnonzero((crop < paper - 0.4 * (paper - ink)).any(0))
    steps = np.diff(columns)
    order = np.argsort(-steps, kind="stable")
    count = len(words) - 1
    if len(steps) < count + 1:
        return None
    if count:
        narrowest, widest = int(steps[order[count - 1]]) - 1, int(steps[order[count]]) - 1
        if narrowest < max(CLEARER * widest, LEAST_GAP * len(crop), 3):
            return None
    cuts = [int(columns[n] + columns[n + 1]) // 2 for n in sorted(order[:count])]
    edges = [0, *cuts, crop.shape[1]]
    return [(crop[:, left:right], word) for (left, right), word in zip(pairwise(edges), words, strict=True)]


def shuffled(r: Random, lines: Iterable[tuple[Mask, str]]) -> Iterator[tuple[Mask, str]]:
    """Yield lines that are composed of the words of the given lines, drawn at random.

    The lines of a few hundred receipts are soon learnt by heart. Their words in a new order have to be read.
    """
    words = [word for crop, text in lines for word in words_of(crop, text) or ()]
    for _ in range(len(words) // 3):
        first = r.choice(words)
        height = len(first[0])
        alike = [word for word in words if 0.8 < len(word[0]) / height < 1.25]
        chosen = [first, *r.choices(alike, k=r.choice((0, 1, 1, 2, 2, 3, 4, 5)))]
        parts = []
        for picture, _ in chosen:
            if len(picture) != height:
                width = max(1, round(picture.shape[1] * height / len(picture)))
                picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
            parts.append(np.pad(picture, ((0, 0), (0, int(height * r.uniform(0.08, 0.3)))), mode="edge"))
        yield np.concatenate(parts, 1), " ".join(word for _, word in chosen)


def blocks(page: Page) -> Iterator[Mask]:
    """Yield the ink of paragraphs of two or more lines, cut close to their lines."""
    for first, last in page.blocks:
        lines = page.lines[first : last + 1]
        if not 2 <= len(lines) <= BLOCK_LINES:
            continue
        left, top = (max(0, int(min(edges)) - 1) for edges in ([k.left for k in lines], [k.top for k in lines]))
        right, bottom = (int(max(edges)) + 2 for edges in ([k.right for k in lines], [k.bottom for k in lines]))
        cut: Mask = np.subtract(255, page.image[top:bottom, left:right], dtype=np.uint8)
        if cut.size and right - left > 8 * lines[0].height and np.median(cut) < 40:
            yield cut


def window(r: Random, page: Page, height: int, width: int, paper: int = 255) -> tuple[Mask, list[Line]] | None:
    """Return a part of the page from one of its lines on, and its lines, or None if none is complete. Lines that are cut by
    the edge are painted over."""
    image = page.image
    if image.shape[0] < height or image.shape[1] < width:
        missing = [(0, max(0, wanted - has)) for wanted, has in zip((height, width), image.shape, strict=True)]
        image = np.pad(image, missing, constant_values=paper)
    start = r.choice(page.lines)
    x = int(min(max(0, start.left - r.uniform(2, 30)), image.shape[1] - width))
    y = int(min(max(0, start.top - r.uniform(2, 12)), image.shape[0] - height))
    part = image[y : y + height, x : x + width].copy()
    whole = []
    for line in (line.moved(x, y) for line in page.lines):
        if line.outside(width, height):
            continue
        if line.inside(width, height):
            whole.append(line)
        else:
            rows = slice(max(0, int(line.top) - 1), max(0, int(line.bottom) + 2))
            part[rows, max(0, int(line.left) - 2) : max(0, int(line.right) + 3)] = paper
    return (part, whole) if whole else None


def resized(page: Page, scale: float) -> Page:
    height, width = (max(8, int(edge * scale)) for edge in page.image.shape)
    image = np.asarray(Image.fromarray(page.image).resize((width, height), Image.Resampling.BICUBIC))
    lines = [Line(scale * k.left, scale * k.top, scale * k.right, scale * k.bottom, k.text) for k in page.lines]
    return Page(image, lines, page.blocks)


def rows_of(lines: list[Line]) -> str:
    """Return the text of a receipt. Lines next to each other become one line, separated by spaces."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.top + line.bottom):
        if rows:
            head = rows[-1][0]
            shared = min(line.bottom, head.bottom) - max(line.top, head.top)
            if shared > 0.55 * min(line.height, head.height):
                rows[-1].append(line)
                continue
        rows.append([line])
    return "\n".join(" ".join(line.text for line in sorted(row, key=lambda line: line.left)) for row in rows)
