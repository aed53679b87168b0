"""The fonts of the drawn pages, and a page that is filled from top to bottom."""

from __future__ import annotations

import functools
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONTS = {
    "sans": "DejaVuSans.ttf",
    "bold": "DejaVuSans-Bold.ttf",
    "arial": "LiberationSans-Regular.ttf",
    "arial-bold": "LiberationSans-Bold.ttf",
    "serif": "LiberationSerif-Regular.ttf",
    "serif-bold": "LiberationSerif-Bold.ttf",
    "mono": "LiberationMono-Regular.ttf",
    "mono-bold": "LiberationMono-Bold.ttf",
    "hei": "NotoSansCJK-Regular.otf",
    "hei-bold": "NotoSansCJK-Bold.otf",
    "song": "NotoSerifCJK-Regular.otf",
}
INK, MUTED, WHITE, NAVY, RED = "#1b1f24", "#4a5260", "#ffffff", "#1f3a5f", "#9c1c1c"


class Fonts:
    """Opens the fonts of one folder by their short name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019  (one instance lives as long as the program)
    def __call__(self, name: str, size: int) -> ImageFont.FreeTypeFont:
        """The font at a height in pixels."""
        # The basic layout draws alike with and without libraqm.
        return ImageFont.truetype(self.folder / FONTS[name], size, layout_engine=ImageFont.Layout.BASIC)


class Sheet:
    """A page that is filled from top to bottom and keeps the text it was given."""

    def __init__(
        self,
        fonts: Fonts,
        width: int,
        height: int,
        *,
        font: str = "sans",
        size: int = 16,
        margin: int = 16,
        top: int | None = None,
        leading: float = 1.5,
        paper: str = WHITE,
        ink: str = INK,
    ) -> None:
        self.fonts, self.font, self.size = fonts, font, size
        self.margin, self.leading, self.ink = margin, leading, ink
        self.y: float = margin if top is None else top
        self.image = Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.lines: list[str] = []

    @property
    def right(self) -> int:
        """Where the right margin begins."""
        return self.image.width - self.margin

    def row(
        self,
        *cells: str,
        font: str | None = None,
        size: int | None = None,
        ink: str | None = None,
        align: str = "left",
    ) -> Sheet:
        """One printed line: a cell alone is aligned, of two one stands at each margin."""
        size = size or self.size
        face = self.fonts(font or self.font, size)
        spare = self.right - self.margin - sum(face.getlength(cell) for cell in cells)
        edges = [self.margin + {"left": 0.0, "center": spare / 2, "right": spare}[align]]
        if len(cells) == 2:
            edges = [self.margin, self.right - face.getlength(cells[1])]
        for edge, cell in zip(edges, cells, strict=True):
            if spare < 0 or edge + face.getlength(cell) > self.image.width:
                raise ValueError(f"{cell!r} does not fit")
            self.draw.text((round(edge), round(self.y)), cell, font=face, fill=ink or self.ink)
        self.y += size * self.leading
        if self.y - size * (self.leading - 1.25) > self.image.height:
            raise ValueError(f"{cells} is below the page")
        self.lines.append(" ".join(cells))
        return self

    def rows(self, *texts: str, **style: str) -> Sheet:
        """Several lines of one cell each."""
        for text in texts:
            self.row(text, **style)  # type: ignore[arg-type]
        return self

    def pairs(self, table: dict[str, str], **style: str) -> Sheet:
        """Labels at the left edge and their values at the right one."""
        for label, value in table.items():
            self.row(label, value, **style)  # type: ignore[arg-type]
        return self

    def gap(self, pixels: float) -> Sheet:
        """Empty paper."""
        self.y += pixels
        return self

    def rule(self, ink: str = "#b8bec8", width: int = 1, space: int = 10) -> Sheet:
        """A horizontal line with room below it."""
        y = round(self.y)
        self.draw.rectangle((self.margin, y, self.right - 1, y + width - 1), fill=ink)
        self.y += width + space
        return self

    def box(self, left: float, top: float, right: float, bottom: float, fill: str) -> Sheet:
        """A filled rectangle, which the next rows are printed over."""
        self.draw.rectangle((left, top, right - 1, bottom - 1), fill=fill)  # Pillow's corners are both inside
        return self
