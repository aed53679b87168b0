"""A page on which text is set in lines, and the regions of its ink."""

import math
from random import Random

import numpy as np

from training.figures import titled
from training.fonts import Face, Font, Mask, Store, load_face
from training.regions import Region

INK = 60  # value from which a pixel counts as ink of a box


class Sheet:
    """An empty page of one language and one font.

    Attributes:
        page: the ink [height, width]; 255 is ink.
        regions: the regions in reading order.
        chinese: whether the text is Chinese.
        font: the font of running text.
        keep: reduces a text to what this font has, in the script of the page.
    """

    def __init__(self, store: Store, r: Random, height: int, width: int) -> None:
        self.store, self.r, self.height, self.width = store, r, height, width
        self.page: Mask = np.zeros((height, width), np.uint8)
        self.regions: list[Region] = []
        self.chinese = bool(store.chinese) and r.random() < 0.42
        self.font = r.choice(store.chinese_body if self.chinese else store.latin_body)
        self.keep = store.script(r, self.font) if self.chinese else self.font.keep

    def _add(self, kind: str, left: float, top: float, right: float, bottom: float) -> bool:
        """The ink in this part of the page as a region."""
        x0, y0 = max(0, int(left)), max(0, int(top))
        part = self.page[y0 : max(y0, math.ceil(bottom)), x0 : max(x0, math.ceil(right))] > INK
        rows, columns = part.any(1).nonzero()[0], part.any(0).nonzero()[0]
        if not len(rows):
            return False
        self.regions.append(
            Region(kind, x0 + int(columns[0]), y0 + int(rows[0]), x0 + int(columns[-1]) + 1, y0 + int(rows[-1]) + 1)
        )
        return True

    def _face(self, font: Font, size: float) -> Face:
        face = load_face(font.path, max(7, round(size)))
        face.spacing = 0.0
        return face

    def _words(self, length: int, heading: bool = False) -> str:
        r, texts = self.r, self.store.texts
        if self.chinese:
            length = max(2, length // 2)
            language = "zh" if r.random() < 0.9 else "mixed"
        else:
            language = "en"
        parts: list[str] = []
        while sum(map(len, parts)) < length:
            rest = length - sum(map(len, parts))
            parts.append(self.keep(texts.snippet(r, language, rest)) or str(r.randint(1, 99)))
        text = ("" if self.chinese else " ").join(parts)
        return titled(r, text) if heading and not self.chinese and r.random() < 0.6 else text

    def _wrapped(self, face: Face, text: str, first: float, room: float) -> list[str]:
        """The text in lines; the first has less room where it is indented."""
        lines: list[str] = []
        space, line, used, limit = face.width(" "), "", 0.0, room - first
        units = list(text) if self.chinese else text.split(" ")
        for unit in units:
            wide = face.width(unit)
            between = 0.0 if self.chinese or not line else space
            if line and used + between + wide > limit:
                lines.append(line)
                line, used, between, limit = "", 0.0, 0.0, room
            if wide <= limit:
                line += unit if self.chinese or not line else " " + unit
                used += between + wide
        return [*lines, line] if line else lines

    def _lines(
        self,
        kind: str,
        face: Face,
        text: str,
        place: tuple[int, int, int, int],
        middle: bool,
        leading: float,
        first: float = 0.0,
        justified: bool = False,
        other: Face | None = None,
    ) -> int:
        """Lines of text as one region, as many as fit; the end of the last."""
        left, right, y, stop = place
        pitch = face.height * leading * (0.92 if leading < 1.3 else 0.86)
        lines = self._wrapped(face, text, first, right - left)
        fits = int((stop - y - face.height) / pitch) + 1 if stop - y >= face.height else 0
        whole, lines = len(lines) <= fits, lines[: max(0, fits)]
        at = float(y)
        for n, line in enumerate(lines):
            indent = first if n == 0 else 0.0
            free = right - left - indent - face.width(line)
            x = left + indent + (free / 2 if middle else 0.0)
            stretched = justified and (n + 1 < len(lines) or not whole) and 0 < free < 0.3 * (right - left)
            self._words_at(face, x, int(at), line, free if stretched else 0.0, other)
            at += pitch
        end = int(at - pitch + face.height) + 1 if lines else y
        if lines:
            self._add(kind, left - 2, y, right + 3, end)
        return end

    def _words_at(self, face: Face, x: float, y: int, line: str, free: float, other: Face | None) -> None:
        if not free and other is None:
            face.draw(self.page, x, y, line)
            return
        if self.chinese:
            face.spacing = free / max(1, len(line) - 1)
            face.draw(self.page, x, y, line)
            face.spacing = 0.0
            return
        words = line.split(" ")
        gap = face.width(" ") + free / max(1, len(words) - 1)
        for word in words:
            used = other if other and self.r.random() < 0.12 and other.width(word) <= face.width(word) * 1.15 else face
            used.draw(self.page, x, y + face.ascent - used.ascent, word)
            x += face.width(word) + gap

    def _frame(self, left: float, top: float, right: float, bottom: float, ink: int, thick: int = 1) -> None:
        x0, y0, x1, y1 = (max(0, int(edge)) for edge in (left, top, right, bottom))
        for rows, columns in (
            (slice(y0, y0 + thick), slice(x0, x1)),
            (slice(y1 - thick, y1), slice(x0, x1)),
            (slice(y0, y1), slice(x0, x0 + thick)),
            (slice(y0, y1), slice(x1 - thick, x1)),
        ):
            part = self.page[rows, columns]
            np.maximum(part, ink, out=part)
