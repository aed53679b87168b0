"""Whole pages with the exact boxes of their regions, drawn without end: no two are alike, so none can be learnt by heart.

Headers, footers, page numbers, titles, one to three columns of headings, paragraphs, lists, tables of contents, tables,
pictures with captions, equations, listings, names in the margin and footnotes. A region's box is that of its ink. The names
of the kinds are those of MinerU2.5.
"""

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

from training.figure_blocks import FigureSheet
from training.fonts import Mask, Store
from training.regions import Region, layout_text

RATIOS = (0.707, 0.707, 0.707, 0.707, 0.773, 0.773, 0.65, 0.85, 1.0, 1.333, 1.414, 1.778)  # width by height
LARGE_PRINT = 0.18  # share of the pages with large print; most of them are smaller, such as letters, receipts and screens
WIDE_MARGINS = 0.35  # share of the pages with margins as wide as those of LaTeX's classes
LETTERS, SIGNS = "xyzabcnkmijfgpqRSTEF", "==+-<>/*"  # of equations
RESAMPLING = (
    Image.Resampling.BICUBIC,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
    Image.Resampling.LANCZOS,
)


def draw_layout(store: Store, r: Random, edge: int, cut: Callable[[], Mask | None] | None = None) -> tuple[Mask, str]:
    """A page squashed to a square of so many pixels, and its regions as the model answers them.

    Args:
        cut: gives paragraphs of other pages, which stand among those that are drawn.
    """
    page, regions = Designer(store, r, cut).draw()
    height, width = page.shape
    if r.random() < 0.12:  # not the whole of the picture
        scale_x, scale_y = r.uniform(0.72, 1.0), r.uniform(0.72, 1.0)
        x, y = (int(whole * r.uniform(0, 1 / scale - 1)) for whole, scale in ((width, scale_x), (height, scale_y)))
        canvas = np.zeros((int(height / scale_y) + 1, int(width / scale_x) + 1), np.uint8)
        canvas[y : y + height, x : x + width] = page
        page, regions = canvas, [Region(k, a + x, b + y, c + x, d + y) for k, a, b, c, d in regions]
        height, width = page.shape
    picture = np.asarray(Image.fromarray(page).resize((edge, edge), r.choice(RESAMPLING)))
    return picture, layout_text(regions, width, height)


class Designer(FigureSheet):
    """A page whose style is chosen first, and which is then filled from the top to the bottom."""

    def __init__(self, store: Store, r: Random, cut: Callable[[], Mask | None] | None = None) -> None:
        self.cut = cut if r.random() < 0.35 else None
        ratio = r.choice(RATIOS) * r.uniform(0.96, 1.04)
        large_print = r.uniform(1.5, 3.4) if r.random() < LARGE_PRINT else 1.0
        area = r.uniform(0.75, 1.9) * 1e6 * (r.uniform(0.15, 1.0) if large_print > 1 else 1.0)
        super().__init__(store, r, int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio)))
        heads = store.latin_body
        if self.chinese:
            scripts = self.font.simplified, self.font.traditional
            heads = [font for font in store.chinese_body if (font.simplified, font.traditional) == scripts]
        self.head_font = r.choice(heads) if r.random() < 0.4 else self.font if self.chinese else store.relative(r, self.font)
        shorter = min(self.height, self.width * 1.414)
        size = r.choice((7, 8, 9, 9, 10, 10, 11, 11, 12, 14)) * large_print
        self.size = max(8, round(shorter * size / 842 * r.uniform(0.95, 1.1)))
        self.leading = r.uniform(1.25, 1.95) if self.chinese else r.uniform(1.08, 1.65)
        self.justified, self.indent = r.random() < 0.6, r.random() < 0.5
        self.gap = self.size * (r.uniform(0.45, 1.6) if not self.indent or r.random() < 0.5 else 0.0)
        self.margins = [int(side * r.uniform(0.035, 0.14)) for side in (self.width, self.width, self.height, self.height)]
        if large_print == 1.0 and r.random() < WIDE_MARGINS:
            self.margins = [int(self.width * r.uniform(0.12, 0.26)) for _ in range(2)]
            self.margins += [int(self.height * r.uniform(*share)) for share in ((0.08, 0.19), (0.12, 0.26))]
        text_width = self.width - self.margins[0] - self.margins[1]
        self.columns = 1 if text_width < 36 * self.size else r.choice((1, 1, 1, 1, 2, 2, 2, 2, 3))
        self.gutter = int(self.size * r.uniform(1.1, 3.2))
        self.head_scale, self.numbered = r.uniform(1.0, 1.7), r.random() < 0.5
        self.head_middle = r.random() < 0.2
        self.forms = r.random() < 0.12
        self.places = r.choice(("prose", "prose", "prose", "report", "report", "mixed", "manual", "manual", "program"))
        self.code = self.code_style(self.margins[0], self.size, self.places == "program")

    # The page

    def draw(self) -> tuple[Mask, list[Region]]:
        r = self.r
        left, right = self.margins[0], self.width - self.margins[1]
        top, bottom = self.margins[2], self.height - self.margins[3]
        foot: list[Region] = []
        if r.random() < 0.5:
            top = self._edge_line(left, right, top, True)
        if r.random() < 0.62:
            kept, self.regions = self.regions, []
            bottom = self._edge_line(left, right, bottom, False)
            foot, self.regions = self.regions, kept
        y = top
        if r.random() < 0.3:
            y = self._title_block(left, right, y, bottom)
        stop = bottom if r.random() < 0.82 else int(y + (bottom - y) * r.uniform(0.15, 0.9))
        while stop - y > 5 * self.size:
            y = self._band(left, right, y, stop)
            if r.random() < 0.02:
                break
        if not self.regions and not foot:
            self._paragraph(left, right, top, bottom)
        return self.page, self.regions + foot

    def _edge_line(self, left: int, right: int, y: int, above: bool) -> int:
        """Header or footer with the page number; where the text of the page begins, or ends."""
        r = self.r
        face = self._face(self.font, self.size * r.uniform(0.72, 1.0))
        height = face.height
        at = r.randint(max(1, min(y // 4, y - height)), max(2, y - height)) if above else 0
        if not above:
            low, high = y, max(y + 1, self.height - height - 2)
            at = r.randint(low, max(low, min(high, low + (self.height - y) * 2 // 3)))
        at = max(0, min(at, self.height - height - 1))
        page_number = r.choice(("%d", "%d", "- %d -", "Page %d", "%d / 48", "[%d]")) % r.randint(1, 640)
        if self.chinese and r.random() < 0.3:
            page_number = f"第 {r.randint(1, 300)} 页"
        pieces: list[tuple[str, str, str]] = []  # kind, place, text
        kind = "header" if above else "footer"
        places = r.choice((["left"], ["middle"], ["right"], ["left", "right"], ["left", "middle", "right"]))
        with_number = r.random() < (0.35 if above else 0.8)
        numbered = r.choice(places) if with_number else ""
        for place in places:
            if place == numbered:
                pieces.append(("page_number", place, self.font.keep(page_number) or str(r.randint(1, 99))))
            elif len(places) > 1 or not with_number:
                pieces.append((kind, place, self._words(r.randint(4, 34))))
        drawn = False
        room = (right - left) / len(places) - self.size
        for kind, place, text in pieces:
            text = face.fit(text, room)
            used = face.width(text)
            if not text:
                continue
            x = {"left": left, "middle": (left + right - used) / 2, "right": right - used}[place]
            face.draw(self.page, x, at, text)
            drawn |= self._add(kind, x - 1, at, x + used + 2, at + height)
        if drawn and r.random() < 0.3:
            line = at + height + r.randint(1, 4) if above else at - r.randint(2, 5)
            if 0 <= line < self.height:
                self.page[line : line + r.randint(1, 2), left:right] = r.randint(100, 255)
        free = self.size * r.uniform(0.8, 2)
        return int(max(y, at + height + free)) if above else int(min(y, at - free))

    def _title_block(self, left: int, right: int, y: int, bottom: int) -> int:
        r = self.r
        face = self._face(self.head_font, self.size * r.uniform(1.4, 2.6))
        middle = r.random() < 0.6
        y = self._lines("title", face, self._words(r.randint(8, 90), heading=True), (left, right, y, bottom), middle, 1.15)
        y += int(self.size * r.uniform(0.4, 1.5))
        for _ in range(r.choice((0, 0, 1, 1, 2))):
            small = self._face(self.font, self.size * r.uniform(0.85, 1.1))
            text = self._words(r.randint(8, 70), heading=r.random() < 0.5)
            y = self._lines("text", small, text, (left, right, y, bottom), middle, 1.2)
            y += int(self.size * r.uniform(0.5, 1.3))
        return y + int(self.size * r.uniform(0, 2))

    def _band(self, left: int, right: int, y: int, stop: int) -> int:
        """A part of the page over its whole width: something alone, or columns."""
        r = self.r
        if self.columns > 1 and r.random() < 0.3:
            return self._block(left, right, y, stop, wide=True)
        high = stop if r.random() < 0.7 else int(y + (stop - y) * r.uniform(0.35, 0.8))
        width = (right - left - self.gutter * (self.columns - 1)) / self.columns
        lowest = y
        for column in range(self.columns):
            x = left + column * (width + self.gutter)
            at = y
            end = high if column + 1 < self.columns or r.random() < 0.6 else int(y + (high - y) * r.uniform(0.2, 1))
            note = self._footnote(int(x), int(x + width), end) if r.random() < 0.1 else None
            if note:
                end = note[0]
            while end - at > 2.2 * self.size:
                before = at
                at = self._block(int(x), int(x + width), at, end)
                if at <= before:
                    break
            if note:
                self.regions.append(note[1])
                at = high
            lowest = max(lowest, at)
        if self.columns > 1 and r.random() < 0.05:
            self.page[y:lowest, int(left + width + self.gutter / 2)] = r.randint(100, 255)
        return max(lowest, y + 2 * self.size) + int(self.size * r.uniform(0.3, 1.6))

    def _block(self, left: int, right: int, y: int, stop: int, wide: bool = False) -> int:
        """One thing of the text; where the next may begin."""
        r = self.r
        more = {"prose": 0.0, "manual": 0.0, "program": 0.0, "report": 0.5, "mixed": 1.0}[self.places]
        makers: list[Callable[[int, int, int, int], int]] = [
            self._form if self.forms else self._paragraph,
            self._heading,
            self._list,
            self._contents,
            self._table,
            self._picture,
            self._equation,
            self._listing,
        ]
        listings = {"manual": 7.0, "program": 40.0}.get(self.places, 0.5)
        weights = [10.0, 2.2, 0.8 + more, 0.12, 0.7 + 1.6 * more, 0.9 + 1.6 * more, 0.6, listings]
        if wide:
            weights = [1.0, 1.0, 0.1, 0.0, 2.0, 2.5, 0.1, 0.1]
        if self.regions and self.regions[-1].kind == "code":
            weights[-1] = 0.0  # two listings could not be told from one with a blank line
        found = r.choices(makers, weights)[0](left, right, y, stop)
        if found <= y:
            found = self._paragraph(left, right, y, stop)
        gap = self.gap if r.random() < 0.9 else self.size * r.uniform(0.5, 3)
        return int(found + gap) if found > y else y

    # Text

    def _paragraph(self, left: int, right: int, y: int, stop: int) -> int:
        r, face = self.r, self._face(self.font, self.size)
        if self.cut and r.random() < 0.6 and (end := self._pasted(left, right, y, stop)) > y:
            return end
        count = math.exp(r.uniform(0, math.log(14)))
        text = self._words(max(6, int(count * (right - left) / (self.size * 0.5))))
        indent = self.size * 2.0 if self.indent else 0.0
        other = None
        if self.places in ("manual", "program"):
            self.name_in_margin(left, y, stop, self.code)
        if not self.chinese and r.random() < 0.15:
            other = self._face(self.store.relative(r, self.font), self.size)
        return self._lines("text", face, text, (left, right, y, stop), False, self.leading, indent, self.justified, other)

    def _pasted(self, left: int, right: int, y: int, stop: int) -> int:
        """A paragraph cut out of another page."""
        ink = self.cut() if self.cut else None
        if ink is None:
            return y
        scale = (right - left) / ink.shape[1]
        if not 0.45 < scale < 1.5:
            scale = self.r.uniform(0.5, 1.0)
        height, width = int(ink.shape[0] * scale), int(ink.shape[1] * scale)
        if height < 8 or width > right - left + 1 or y + height > stop:
            return y
        scaled = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
        part = self.page[y : y + height, left : left + width]
        np.maximum(part, scaled[: part.shape[0], : part.shape[1]], out=part)
        return y + height if self._add("text", left - 1, y, left + width + 1, y + height) else y

    def _heading(self, left: int, right: int, y: int, stop: int) -> int:
        r = self.r
        face = self._face(self.head_font, self.size * self.head_scale * r.choice((1.0, 1.0, 0.85, 1.2)))
        room = stop - y
        if room < face.height + 3 * self.size:
            return y
        text = self._words(r.randint(5, 60), heading=True)
        if self.numbered:
            number_ = ".".join(str(r.randint(1, 9)) for _ in range(r.randint(1, 3)))
            text = f"{number_}{r.choice((' ', '  ', '. '))}{text}"
            if self.chinese and r.random() < 0.4:
                text = f"第{r.choice('一二三四五六七八九')}{r.choice('章节条')} {text}"
        before = int(self.size * r.uniform(0, 0.8))
        return self._lines("title", face, text, (left, right, y + before, stop), self.head_middle, 1.15) + r.randint(0, 3)

    def _list(self, left: int, right: int, y: int, stop: int) -> int:
        """Items with bullets or numbers: one region."""
        r, face = self.r, self._face(self.font, self.size)
        hang, style = self.size * r.uniform(1.2, 2.2), r.choice(("bullet", "dash", "1.", "(1)", "a)"))
        inner = int(left + hang + self.size * r.choice((0, 0, 1, 2)))
        at, start, kept = y, len(self.regions), r.uniform(0, 0.6) * self.size
        for n in range(1, r.randint(2, 8) + 1):
            text = self._words(r.randint(8, 110))
            begin = at
            at = self._lines("list", face, text, (inner, right, at, stop), False, self.leading)
            if at == begin:
                break
            marks = {"bullet": "•", "dash": "-", "1.": f"{n}.", "(1)": f"({n})", "a)": f"{chr(96 + n)})"}
            mark = self.font.keep(marks[style]) or "-"
            face.draw(self.page, inner - hang, begin, mark)
            at = int(at + kept)
        if len(self.regions) == start:
            return y
        del self.regions[start:]
        self._add("list", inner - hang - 1, y, right + 3, at)
        return at

    def _form(self, left: int, right: int, y: int, stop: int) -> int:
        """Labels and values line by line: one region of text."""
        r, face = self.r, self._face(self.font, self.size)
        pitch = int(face.height * r.uniform(1.0, 1.5))
        apart, at = r.uniform(0.25, 0.6), y
        for _ in range(r.randint(1, 7)):
            if at + face.height > stop:
                break
            label, value = (self.keep(part) for part in self.store.texts.pair(r, self.chinese))
            room = (right - left) * apart
            face.draw(self.page, left, at, face.fit(label, room - self.size))
            face.draw(self.page, left + room, at, face.fit(value, right - left - room))
            at += pitch
        if at > y:
            self._add("text", left - 1, y, right + 2, at - pitch + face.height)
        return at

    def _equation(self, left: int, right: int, y: int, stop: int) -> int:
        r = self.r
        face = self._face(self.font, self.size * r.uniform(1.0, 1.3))
        if stop - y < 2.5 * face.height or right - left < 12 * self.size:
            return y
        text = " ".join(
            f"{r.choice(LETTERS)}{r.choice(('', '(' + r.choice(LETTERS) + ')', ''))} {r.choice(SIGNS)}"
            for _ in range(r.randint(2, 6))
        )
        text = face.fit(self.font.keep(f"{text} {r.choice(LETTERS)}"), (right - left) * 0.8)
        y += int(self.size * r.uniform(0.2, 0.7))
        x = (left + right - face.width(text)) / 2
        face.draw(self.page, x, y, text)
        end = y + face.height
        if r.random() < 0.4:  # a fraction
            end += face.height
            self.page[y + face.height + 1, int(x + self.size) : int(x + face.width(text) / 2)] = 255
            face.draw(self.page, x + self.size, y + face.height, face.fit(text[::-1], face.width(text) / 2 - self.size))
        if r.random() < 0.5:
            mark = f"({r.randint(1, 40)})"
            face.draw(self.page, right - face.width(mark), y, mark)
        self._add("equation", left - 1, y, right + 2, end)
        return end + int(self.size * r.uniform(0.2, 0.7))

    def _contents(self, left: int, right: int, y: int, stop: int) -> int:
        """Entries of a table of contents, or of an index, with their pages: one region, a list."""
        r, face = self.r, self._face(self.font, self.size)
        pitch, at, number_ = face.height * r.uniform(0.95, 1.4), float(y), r.randint(1, 300)
        leader, numbered, inset = r.choice((". ", ".", " . ", "")), r.random() < 0.6, self.size * r.choice((0, 1.2, 2))
        for n in range(r.randint(3, 40)):
            if at + face.height > stop:
                break
            depth = min(n, r.choice((0, 0, 1, 1, 1, 2)))
            head = ".".join(str(r.randint(1, 12)) for _ in range(depth + 1)) + " " if numbered else ""
            number_ += r.choice((0, 0, 1, 1, 2, 5))
            page, x = str(number_), left + depth * inset
            room = right - x - face.width(page) - self.size
            text = face.fit(head + self._words(r.randint(4, 60), heading=r.random() < 0.3), 0.9 * room)
            face.draw(self.page, x, int(at), text)
            if leader:
                dots = leader * int((room - face.width(text)) / max(1.0, face.width(leader)))
                face.draw(self.page, right - face.width(page) - 0.5 * self.size - face.width(dots), int(at), dots)
            face.draw(self.page, right - face.width(page), int(at), page)
            at += pitch
        end = int(at - pitch + face.height)
        return end if at > y and self._add("list", left - 1, y, right + 2, end) else y

    def _listing(self, left: int, right: int, y: int, stop: int) -> int:
        return self.listing(left, right, y, stop, self.code)

    def _footnote(self, left: int, right: int, stop: int) -> tuple[int, Region] | None:
        """Small print at the end of a column, a short rule above it; where it begins, and its region."""
        r, face = self.r, self._face(self.font, self.size * 0.82)
        text = f"{r.randint(1, 30)} " + self._words(r.randint(20, 160))
        lines = self._wrapped(face, text, 0, right - left)
        y = stop - int((len(lines) + 0.5) * face.height)
        if y < self.height // 2:
            return None
        if self._lines("page_footnote", face, text, (left, right, y, stop), False, 1.0) == y:
            return None
        if r.random() < 0.7:
            self.page[y - 3, left : int(left + (right - left) * r.uniform(0.15, 0.5))] = 255
        return y - int(self.size), self.regions.pop()
