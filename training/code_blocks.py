"""Listings on a page: lines of code with their indentation, often with line numbers, and names in the margin of a manual."""

from dataclasses import dataclass

from training.fonts import Font
from training.sheet import Sheet


@dataclass
class CodeStyle:
    """How the listings of a page look.

    Attributes:
        font: None where there is no typewriter font.
        size: of the letters, in pixels.
        number_size: of the line numbers; 0 without numbers.
        outside: the numbers stand in the margin.
        number: of the next line.
        inset: the distance from the edge of the column, in pixels.
        step: spaces of a level of indentation.
        framed: whether listings have a frame.
        names: the share of the paragraphs and listings with a name in the margin.
        lengths: the possible numbers of lines, each as the least and the most.
    """

    font: Font | None
    size: float
    number_size: float
    outside: bool
    number: int
    inset: float
    step: int
    framed: bool
    names: float
    lengths: tuple[tuple[int, int], ...]


class CodeSheet(Sheet):
    """A page with listings."""

    def code_style(self, margin: int, size: int, program: bool) -> CodeStyle:
        """Choose the style for a page with this left margin and size of letters; listings of a program fill the page."""
        r = self.r
        numbered = r.random() < 0.4
        return CodeStyle(
            font=r.choice(self.store.monospaced) if self.store.monospaced else None,
            size=size * r.uniform(0.8, 1.0),
            number_size=size * r.uniform(0.5, 0.9) if numbered else 0.0,
            outside=margin > 3.5 * size and r.random() < 0.5,
            number=r.choice((1, r.randint(1, 60), r.randint(1, 2000))),
            inset=size * r.choice((0.0, 0.0, 0.5, 1.0, 2.0, 3.0)),
            step=r.choice((1, 2, 2, 3, 4, 4)),
            framed=r.random() < 0.25,
            names=r.uniform(0.1, 0.6) if margin > 7 * size and r.random() < 0.5 else 0.0,
            lengths=((8, 90), (20, 120)) if program else ((1, 1), (1, 2), (2, 6), (3, 14), (3, 14), (8, 50)),
        )

    def listing(self, left: int, right: int, y: int, stop: int, style: CodeStyle) -> int:
        """Draw a listing, a region of the kind "code"; return where it ends."""
        r, font = self.r, style.font
        if font is None or stop - y < 3 * style.size:
            return y
        self.name_in_margin(left, y, stop, style)
        face, small = self._face(font, style.size), self._face(self.font, style.number_size)
        pitch, at, depth = int(face.height * r.uniform(0.9, 1.2)), y, 0
        digits = self._digits(style)
        x = left + style.inset + (0.0 if style.outside or not digits else digits + style.size)
        before = at
        numbers_all = r.random() < 0.8  # blank lines have numbers, too
        for row in range(r.randint(*r.choice(style.lengths))):
            if at + face.height > stop:
                break
            blank = row > 0 and r.random() < 0.05
            if digits and (numbers_all or not blank):
                mark = str(style.number)
                style.number += 1
                place = x - style.size - digits + (digits - small.width(mark))
                small.draw(self.page, place, at + face.ascent - small.ascent, mark)
                before = at
            if not blank:
                room = right - x - depth * style.step * face.width(" ")
                width = r.choice((r.randint(1, 6), r.randint(4, 40), r.randint(10, 90)))
                length = int(min(room / face.width("x"), width))
                text = face.fit(font.keep(self.store.texts.listing(r, max(1, length))) or "}", room)
                face.draw(self.page, x + depth * style.step * face.width(" "), at, text)
                before = at
            at += pitch
            depth = max(0, min(6, depth + r.choice((-1, -1, 0, 0, 0, 0, 0, 1, 1))))
        end = before + face.height
        start = x - style.size - digits if digits else left
        if style.framed:
            self._frame(start - 3, y - 2, right, min(end + 3, self.height - 1), r.randint(90, 255))
        return end + 3 if self._add("code", start - 4, y - 3, right + 2, end + 4) else y

    def _digits(self, style: CodeStyle) -> float:
        """The width of the line numbers of a listing that starts at the next number."""
        face = self._face(self.font, style.number_size)
        return face.width("8" * len(str(style.number + 120))) if style.number_size else 0.0

    def name_in_margin(self, left: int, y: int, stop: int, style: CodeStyle) -> None:
        """Draw the name of what is explained, left of a paragraph or a listing, now and then."""
        r, font = self.r, style.font
        if font is None or r.random() >= style.names or stop - y < 2 * style.size:
            return
        face = self._face(font, style.size * r.uniform(0.8, 1.0))
        numbers = self._digits(style) + style.size if style.outside and style.number_size else 0.0
        end = left - numbers - style.size * r.uniform(0.5, 1.5)
        text = face.fit(font.keep(self.store.texts.listing(r, r.randint(3, 18))), end - 4)
        x = end - face.width(text)
        if text and x > 2:
            face.draw(self.page, x, y, text)
            self._add("aside_text", x - 2, y, end + 2, y + face.height + 1)
