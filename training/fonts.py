"""Fonts, their glyphs at one size, their characters, and the store of fonts and texts for drawing lines and pages."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.texts import Texts

# Fonts that are excluded from training, to measure the accuracy on unseen fonts.
HELD_OUT = ("EBGaramond", "eb-garamond", "mononoki", "Caladea", "Arimo", "arimo", "Tinos", "tinos")
HELD_OUT_CHINESE = ("NotoSerifCJK-Bold", "DroidSansFallback", "FandolKai")
HANDWRITTEN = (
    "ma-shan-zheng",
    "long-cang",
    "zhi-mang-xing",
    "zcool-kuaile",
    "SmileySans",
    "unifont",
    "wdxl",
    "zcool-qingke",
)
MONOSPACED = ("mono", "courier", "ocr")
DOTTED = ("vt323", "doto", "press-start", "dotgothic", "pixelify", "share-tech-mono", "unifont")

TRADITIONAL_SHARE = 0.5  # of the texts in fonts that have the characters of both scripts

Mask = NDArray[np.uint8]  # 255 is ink


@dataclass
class Font:
    """A font file and its characters."""

    path: Path
    characters: frozenset[str]
    style: str = ""
    chinese: bool = field(init=False)
    simplified: bool = False
    traditional: bool = False

    def __post_init__(self) -> None:
        self.chinese = "的" in self.characters

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def decorative(self) -> bool:
        return self.style in {"display", "hand"} or any(part in self.name for part in HANDWRITTEN)

    def keep(self, text: str) -> str:
        """Return the text with single spaces and without the characters that the font lacks."""
        return " ".join("".join(c for c in text if c in self.characters or c == " ").split())


class Face:
    """A font at one size. Its glyphs are cached as bitmaps, from which lines are composed.

    Attributes:
        spacing: additional pixels between letters.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        self.ascent, self.descent = self._font.getmetrics()
        self.spacing = 0.0
        self._glyphs: dict[str, tuple[Mask | None, int, int, float]] = {}

    def _glyph(self, character: str) -> tuple[Mask | None, int, int, float]:
        glyph = self._glyphs.get(character)
        if glyph is None:
            left, top, right, bottom = map(int, self._font.getbbox(character))
            bitmap = None
            if right > left and bottom > top:
                image = Image.new("L", (right - left, bottom - top))
                ImageDraw.Draw(image).text((-left, -top), character, 255, self._font)
                bitmap = np.asarray(image)
            glyph = self._glyphs[character] = (bitmap, left, top, self._font.getlength(character))
        return glyph

    @property
    def height(self) -> int:
        return int(self.ascent + self.descent)

    def width(self, text: str) -> float:
        return sum(self._glyph(c)[3] for c in text) + self.spacing * len(text)

    def draw(self, page: Mask, x: float, y: int, text: str) -> None:
        """Draw a line from its top left corner. Parts outside of the page are cut off."""
        height, width = page.shape
        for character in text:
            bitmap, left, top, advance = self._glyph(character)
            if bitmap is not None:
                at_x, at_y = int(x + left + 0.5), y + top
                x0, y0 = max(at_x, 0), max(at_y, 0)
                x1, y1 = min(at_x + bitmap.shape[1], width), min(at_y + bitmap.shape[0], height)
                if x1 > x0 and y1 > y0:
                    part = page[y0:y1, x0:x1]
                    np.maximum(part, bitmap[y0 - at_y : y1 - at_y, x0 - at_x : x1 - at_x], out=part)
            x += advance + self.spacing

    def fit(self, text: str, width: float) -> str:
        """Return the longest beginning of the text that fits into the width, cut at a space if there is one."""
        if self.width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle]) <= width else (low, middle - 1)
        cut = text.rfind(" ", 0, low)
        return text[: cut if cut > 0 else low].rstrip()


@lru_cache(maxsize=12000)
def load_face(path: Path, size: int) -> Face:
    return Face(path, size)


class Store:
    """The fonts and texts of a data folder, loaded once, so that the processes of the data loader share them.

    The folder contains the font files in ``fonts*``, the characters of each in ``has*.json`` ({file name: characters}),
    styles in ``fonts2.json``, and the files that :class:`training.texts.Texts` reads.
    """

    def __init__(self, folder: Path, held_out: bool = False) -> None:
        self.texts = Texts(folder)
        styles_path = folder / "fonts2.json"
        styles = json.loads(styles_path.read_text("utf8")) if styles_path.exists() else []
        style = {entry["file"]: entry.get("style", "") for entry in styles}
        files = {path.name: path for place in sorted(folder.glob("fonts*")) if place.is_dir() for path in place.iterdir()}
        fonts = []
        for table in sorted(folder.glob("has*.json")):
            for name, characters in json.loads(table.read_text("utf8")).items():
                if name in files and any(part in name for part in HELD_OUT + HELD_OUT_CHINESE) == held_out:
                    fonts.append(Font(files[name], frozenset(characters), style.get(name, "")))
        self.latin = [font for font in fonts if not font.chinese]
        self.chinese = [font for font in fonts if font.chinese]
        for font in self.chinese:
            font.simplified = share(font, self.texts.characters) > 0.88
            font.traditional = share(font, self.texts.traditional.values()) > 0.8
        self.latin_weights = [0.15 if font.style in {"display", "hand"} else 1.0 for font in self.latin]
        self.chinese_weights = [0.25 if font.decorative else 1.0 if font.simplified else 0.5 for font in self.chinese]
        self.monospaced = [
            font for font in self.latin if font.style == "mono" or any(part in font.name.lower() for part in MONOSPACED)
        ]
        self.dotted = [font for font in self.latin if any(part in font.name.lower() for part in DOTTED)]
        self.latin_body = [font for font in self.latin if not font.decorative] or self.latin
        self.chinese_body = [
            font for font in self.chinese if (font.simplified or font.traditional) and not font.decorative
        ] or self.chinese
        self._families: dict[str, list[Font]] = defaultdict(list)
        for font in self.latin:
            self._families[family(font)].append(font)

    def latin_font(self, r: Random) -> Font:
        return r.choices(self.latin, self.latin_weights)[0]

    def chinese_font(self, r: Random) -> Font:
        return r.choices(self.chinese, self.chinese_weights)[0]

    def relative(self, r: Random, font: Font) -> Font:
        """Return a random font of the same family, such as its bold font."""
        return r.choice(self._families[family(font)] or [font])

    def into_traditional(self, text: str) -> str:
        return "".join(self.texts.traditional.get(c, c) for c in text)

    def script(self, r: Random, font: Font) -> Callable[[str], str]:
        """Choose the script of a line or a page: return a function that reduces a text to the characters of the font, in
        their traditional forms if that script was chosen."""
        if font.traditional and (not font.simplified or r.random() < TRADITIONAL_SHARE):
            return lambda text: font.keep(self.into_traditional(text))
        return font.keep


def share(font: Font, characters: Collection[str]) -> float:
    """Return the share of the characters that the font has."""
    return sum(c in font.characters for c in characters) / max(1, len(characters))


def family(font: Font) -> str:
    return font.name.split("-")[0].lower()[:8]
