"""Small drawn pages: running text, forms, and receipts or tables with two to four values in a row."""

import math
from collections.abc import Callable
from random import Random

import numpy as np

from training.figures import amount, code, number
from training.fonts import Face, Mask, Store, load_face
from training.lines import dots

SIZES = (10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 27, 30, 34, 38, 42, 46)
COLUMN_SIZES = (11, 12, 13, 14, 15, 16, 18, 20, 22, 24)


def draw_page(store: Store, r: Random, height: int, width: int, limit: int, chinese: bool | None = None) -> tuple[Mask, str]:
    """Draw lines of text, or of a label and its value, until the page is full or the limit of characters is reached."""
    if chinese is None:
        chinese = r.random() < 0.45
    chinese_body = chinese or (store.chinese and r.random() < 0.07)
    font = r.choice(store.chinese_body if chinese_body else store.latin_body)
    keep = store.script(r, font) if chinese else font.keep
    size = choose_size(r, height, chinese)
    page = np.zeros((height, width), np.uint8)
    leading, k = r.uniform(1.1, 1.75), r.random()
    kind = "text" if k < 0.62 else "form" if k < 0.9 else "mixed"
    align = r.choice(["left"] * 6 + ["center", "right"])
    margin = r.randint(2, max(3, min(40, width // 8)))
    y = r.randint(0, max(1, min(30, int(height * 0.1)))) if height > 60 else r.randint(0, max(0, height - int(size * 1.25)))
    stop = height if r.random() < 0.75 else r.randint(height // 3, height)
    ragged = r.random() < 0.5
    tracking = r.uniform(-0.03, 0.15) if r.random() < 0.15 else 0.0
    lines: list[str] = []
    while True:
        here = size
        if r.random() < 0.06:
            here = max(s for s in SIZES if s <= max(10, int(size * r.uniform(1.2, 1.7))))
        face = load_face(font.path, here)
        face.spacing = here * tracking
        if y + face.height > stop + (0 if lines else 2) and (lines or y + here > height):
            break
        room = width - 2 * margin
        if kind == "form" or (kind == "mixed" and r.random() < 0.5):
            text = set_pair(store, r, page, face, keep, (margin, y, room), chinese)
        else:
            fits = max(2, int(room / (here * (1.0 if chinese else 0.52))))
            length = max(2, int(fits * r.uniform(0.3, 1.1))) if ragged else fits + 6
            raw = store.texts.chinese(r, length) if chinese else store.texts.english(r, length)
            text = face.fit(keep(raw), room)
            free = room - face.width(text)
            face.draw(page, margin + {"left": 0.0, "center": free / 2, "right": free}[align], y, text)
        if not text:
            break
        if sum(map(len, lines)) + len(lines) + len(text) > limit:
            page[max(y - 1, 0) :] = 0
            break
        lines.append(text)
        if r.random() < 0.05 and y + face.height < height:
            page[y + face.height, margin : width - margin] = 160
        y += int(face.height * leading * (1 if r.random() < 0.9 else r.uniform(1.2, 2)) * 0.92)
    return page, "\n".join(lines)


def choose_size(r: Random, height: int, chinese: bool) -> int:
    largest = min(46, int(height * 0.8))
    size = int(math.exp(r.uniform(math.log(13 if chinese else 11), math.log(largest))))
    if height > 150 and r.random() < 0.6:
        size = min(size, 26)
    return max(s for s in SIZES if s <= max(size, 10))


def set_pair(
    store: Store, r: Random, page: Mask, face: Face, keep: Callable[[str], str], place: tuple[int, int, int], chinese: bool
) -> str:
    """Draw a label and its value, side by side or at opposite edges. Returns the line's text, empty if it does not fit."""
    x, y, room = place
    label, value = (keep(part) for part in store.texts.pair(r, chinese))
    while label and value and face.width(label + " " + value) > room:
        if len(value) > 3:
            value = value[:-1].rstrip()
        else:
            label = label[:-1].rstrip()
    if not label or not value:
        return ""
    if r.random() < 0.5:
        face.draw(page, x, y, label)
        face.draw(page, x + room - face.width(value), y, value)
    else:
        face.draw(page, x, y, label + " " + value)
    return label + " " + value


class Columns:
    """A receipt or a small table: rows of values, and single lines. The text of a row is its values, separated by spaces."""

    def __init__(self, store: Store, r: Random, height: int, width: int) -> None:
        self.store, self.r = store, r
        self.chinese = bool(store.chinese) and r.random() < 0.3
        if self.chinese:
            self.font = r.choice(store.chinese_body)
        else:
            self.font = r.choice(store.monospaced) if store.monospaced and r.random() < 0.5 else store.latin_font(r)
        self.keep = store.script(r, self.font) if self.chinese else self.font.keep
        self.size = r.choice([size for size in COLUMN_SIZES if size <= max(12, height * 0.7)])
        if height > 150:
            self.size = min(self.size, 20)
        self.face = load_face(self.font.path, self.size)
        self.face.spacing = 0.0
        self.page = np.zeros((height, width), np.uint8)
        self.margin = r.randint(2, max(3, width // 12))
        count = r.choice((2, 2, 2, 3, 4)) if width > 250 else 2
        inner = [r.uniform(0.35, 0.75)] if count == 2 else [(i + r.uniform(-0.15, 0.15)) / count for i in range(1, count)]
        self.starts = [0.0, *sorted(inner)]
        self.kinds = [r.randrange(4) for _ in range(count)]
        self.right = r.random() < 0.6  # whether values are aligned right in their columns

    def draw(self, limit: int) -> tuple[Mask, str]:
        r, face, page = self.r, self.face, self.page
        height, width = page.shape
        room = width - 2 * self.margin
        y, pitch = r.randint(0, 8), face.height + int(self.size * r.uniform(-0.05, 0.5))
        stop = height if r.random() < 0.8 else r.randint(height // 3, height)
        lines: list[str] = []
        while y + face.height <= stop:
            text = self._alone(y, room) if r.random() < 0.18 else self._row(y, room)
            if text:
                if sum(map(len, lines)) + len(lines) + len(text) > limit:
                    page[max(y - 1, 0) :] = 0
                    break
                lines.append(text)
            if r.random() < 0.06:
                page[min(height - 1, y + face.height), self.margin : width - self.margin] = r.randint(120, 255)
            y += pitch if r.random() < 0.93 else int(pitch * r.uniform(1.2, 2.2))
        if r.random() < 0.12 and len(lines) > 1:
            for start in self.starts[1:]:
                page[:, int(self.margin + start * room - self.size * 0.35)] = r.randint(100, 255)
        if r.random() < 0.12 and self.size >= 18:
            page = dots(r, page, self.size)
        return page, "\n".join(lines)

    def _alone(self, y: int, room: int) -> str:
        r, texts = self.r, self.store.texts
        text = self.face.fit(self.keep(texts.chinese(r, r.randint(3, 16)) if self.chinese else texts.receipt(r)), room)
        self.face.draw(self.page, self.margin + ((room - self.face.width(text)) / 2 if r.random() < 0.5 else 0), y, text)
        return text

    def _row(self, y: int, room: int) -> str:
        values = []
        for column, start in enumerate(self.starts):
            if column and self.r.random() < 0.05:
                continue
            left = self.margin + start * room
            last = column + 1 == len(self.starts)
            right = self.margin + room if last else self.margin + self.starts[column + 1] * room - self.size * 0.6
            tries = [self.keep(self._value(column)) for _ in range(5)] + [self.keep(str(self.r.randint(0, 99)))]
            text = next((t for t in tries if t and self.face.width(t) <= right - left), "")
            if text:
                self.face.draw(self.page, right - self.face.width(text) if self.right and column else left, y, text)
                values.append(text)
        return " ".join(values)

    def _value(self, column: int) -> str:
        r, texts = self.r, self.store.texts
        if self.chinese and r.random() < 0.5:
            return texts.pair(r, True)[0] if column == 0 and r.random() < 0.6 else texts.chinese_word(r)
        if column == 0:
            if r.random() < 0.4:
                return texts.pair(r, False)[0]
            return texts.capitals(r, r.randint(1, 3)) if r.random() < 0.5 else texts.entry(r, self.chinese)
        makers = (amount, number, code, lambda r: texts.entry(r, self.chinese))
        return makers[self.kinds[column] if r.random() < 0.8 else r.randrange(4)](r)
