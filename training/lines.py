"""Line crops at their own resolution, drawn in many fonts and cut as by a text detector, and crops without text.

A sample is a mask (255 is ink) and its text. :mod:`training.degrade` adds colours, noise and blur.
"""

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from training.fonts import Face, Font, Mask, Store, load_face

SIZES = (9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 26, 28, 32, 36)
CHINESE_SIZES = SIZES[2:]
DOTTED_SIZES = (24, 28, 32, 36)
EMPTY_SHARE = 0.02
CHINESE_SHARE = 0.54


@dataclass
class Style:
    """The typography of a line."""

    font: Font
    chinese: bool
    size: int
    receipt: bool = False
    dotted: bool = False
    listing: bool = False


def draw_line(store: Store, r: Random, width: int, chinese: bool | None = None) -> tuple[Mask, str] | None:
    """Draw a line that is at most ``width`` pixels wide when it is scaled to a height of 28. Returns None if it is empty."""
    if chinese is None and r.random() < EMPTY_SHARE:
        return draw_empty(store, r, width), ""
    style = choose_style(store, r, r.random() < CHINESE_SHARE if chinese is None else chinese)
    size, face = style.size, load_face(style.font.path, style.size)
    room = width * size * 1.3 / 28
    text = choose_text(store, r, style, room)
    face.spacing = size * (r.uniform(-0.04, 0.16) if r.random() < 0.2 else 0.0)
    gap = size * r.uniform(0, 0.35) if r.random() < 0.2 else 0.0  # wider spaces, as in justified text
    left, right = (size * (r.uniform(0, 0.04) if r.random() < 0.1 else r.uniform(0.04, 0.45)) for _ in range(2))
    while text and face.width(text) + gap * text.count(" ") > room - left - right:
        cut = text.rfind(" ")
        text = (text[:cut] if cut > 0 and not style.chinese else text[:-1]).rstrip()
    if not text:
        return None
    used = face.width(text) + gap * text.count(" ") + left + right
    hole = text.find(" ", r.randrange(len(text))) if r.random() < 0.07 else -1  # one space as wide as a gap between columns
    extra = min(room - used, size * r.uniform(0.5, 5)) if hole > 0 else 0.0
    base = int(size * 1.9)
    page = np.zeros((int(size * 3.4), int(used + max(extra, 0) + 1)), np.uint8)
    set_words(store, r, page, style, text, base, (left, gap, hole, extra if extra > 0 else 0.0))
    rows = page.any(1).nonzero()[0]
    if len(rows) < 2:
        return None
    top, bottom = choose_box(r, style, base, int(rows[0]), int(rows[-1]) + 1)
    if r.random() < 0.2:
        draw_neighbours(store, r, page, face, style, base)
    if style.dotted:
        page = dots(r, page, size)
    top, bottom = max(0, int(top + 0.5)), min(len(page), int(bottom + 0.5))
    if bottom - top < 6:
        return None
    if r.random() < 0.05:  # underlined
        page[min(bottom - 1, int(base + size * r.uniform(0.08, 0.22)))] = r.randint(120, 255)
    if r.random() < 0.05:  # ruling lines of a table
        page[top if r.random() < 0.5 else bottom - 1] = r.randint(120, 255)
    if r.random() < 0.04:
        page[:, 0 if r.random() < 0.5 else page.shape[1] - 1] = r.randint(120, 255)
    return page[top:bottom], text


def choose_style(store: Store, r: Random, chinese: bool) -> Style:
    if chinese or (store.chinese and r.random() < 0.05):
        return Style(store.chinese_font(r), chinese, r.choice(CHINESE_SIZES if chinese else SIZES))
    if store.monospaced and r.random() < 0.22:
        receipt, dotted = r.random() < 0.5, r.random() < 0.3
        sizes = DOTTED_SIZES if dotted else SIZES
        return Style(r.choice(store.monospaced), False, r.choice(sizes), receipt, dotted, listing=not receipt and not dotted)
    if store.dotted and r.random() < 0.02:
        return Style(r.choice(store.dotted), False, r.choice(SIZES), r.random() < 0.6)
    return Style(store.latin_font(r), False, r.choice(SIZES))


def choose_text(store: Store, r: Random, style: Style, room: float) -> str:
    fits = max(1, int(room / (style.size * (1.0 if style.chinese else 0.5))))
    length = fits if r.random() < 0.5 else max(1, int(fits * r.uniform(0.55, 1.0)))
    if style.listing and r.random() < 0.7:
        return style.font.keep(store.texts.listing(r, length))
    text = store.texts.receipt(r) if style.receipt else store.texts.line(r, style.chinese, length)
    return store.script(r, style.font)(text) if style.chinese else style.font.keep(text)


def set_words(
    store: Store, r: Random, page: Mask, style: Style, text: str, base: int, spaces: tuple[float, float, int, float]
) -> None:
    """Draw the text, sometimes with words in another font of the family, with wider spaces, or with one very wide space."""
    left, gap, hole, extra = spaces
    face = load_face(style.font.path, style.size)
    other: Face | None = None
    if not style.chinese and not style.font.chinese and r.random() < 0.06:
        other = load_face(store.relative(r, style.font).path, style.size)
        other.spacing = face.spacing
    if not (gap or other or extra):
        face.draw(page, left, base - face.ascent, text)
        return
    x, seen, use_other = left, 0, False
    for word in text.split(" "):
        if other and r.random() < 0.25:
            use_other = not use_other
        used = other if other and use_other and x + other.width(word) <= page.shape[1] - 1 else face
        used.draw(page, x, base - used.ascent, word)
        x += used.width(word) + face.width(" ") + gap
        seen += len(word) + 1
        if seen == hole + 1:
            x += extra


def choose_box(r: Random, style: Style, base: int, top: int, bottom: int) -> tuple[float, float]:
    """Return the upper and lower edge of the crop, around the ink or the font's body, with the margins of a detector."""

    def margin(height: float) -> float:
        k = r.random()
        if k < 0.62:
            return height * r.uniform(0.06, 0.17)
        return height * (r.uniform(0, 0.24) if k < 0.88 else r.uniform(-0.06, 0.03) if k < 0.94 else r.uniform(0.2, 0.42))

    if bottom - top > 0.5 * style.size and r.random() < 0.55:
        return top - margin(bottom - top), bottom + margin(bottom - top)
    above, below = (0.94, 0.16) if style.chinese else (0.84, 0.28)
    return base - above * style.size - margin(style.size), base + below * style.size + margin(style.size)


def draw_neighbours(store: Store, r: Random, page: Mask, face: Face, style: Style, base: int) -> None:
    """Draw the lines above and below, parts of which are inside the crop."""
    pitch = int(style.size * r.uniform(1.05, 1.5))
    length = max(2, int(page.shape[1] / (style.size * (1 if style.chinese else 0.5))))
    near = style.font.keep(store.texts.snippet(r, "zh" if style.chinese else "en", length))
    if r.random() < 0.7:
        face.draw(page, r.uniform(-style.size, style.size), base - face.ascent + pitch, near)
    if r.random() < 0.7:
        face.draw(page, r.uniform(-style.size, style.size), base - face.ascent - pitch, near[::-1])


def dots(r: Random, page: Mask, size: int) -> Mask:
    """Split the ink into the dots of a dot-matrix printer."""
    pitch = size / r.uniform(8, 12)
    if pitch < 2.2:
        return page
    y, x = ((np.arange(length) + r.uniform(0, pitch)) % pitch - pitch / 2 for length in page.shape)
    distance = np.sqrt(y[:, None] ** 2 + x[None] ** 2)
    return (page * np.clip((pitch * r.uniform(0.38, 0.58) - distance) + 0.5, 0, 1)).astype(np.uint8)


def draw_empty(store: Store, r: Random, width: int) -> Mask:
    """Draw a crop without text: paper, ruling lines, edges of figures, shades, or edges of the lines above and below."""
    height = r.randint(14, 44)
    page = np.zeros((height, max(8, int(width * height / 28))), np.uint8)
    k = r.random()
    if k < 0.18:
        return page
    if k < 0.38:
        return draw_rules(r, page)
    if k < 0.62:
        return draw_shapes(r, page)
    return draw_shades(r, page) if k < 0.76 else draw_slivers(store, r, page)


def draw_rules(r: Random, page: Mask) -> Mask:
    height, width = page.shape
    for _ in range(r.randint(1, 2)):
        y = r.randrange(height)
        page[y : y + r.randint(1, 3), r.choice((0, 0, r.randrange(width))) :] = r.randint(90, 255)
    if r.random() < 0.4 and width > 3 * height:
        for _ in range(r.randint(1, 4)):
            x = r.randrange(width)
            page[r.randrange(height) :, x : x + r.randint(1, 2)] = r.randint(90, 255)
    return page


def draw_shapes(r: Random, page: Mask) -> Mask:
    height, width = page.shape
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    for _ in range(r.randint(1, 4)):
        ink, x, y = r.randint(80, 255), r.uniform(-0.3, 1.2) * width, r.uniform(-0.5, 1.5) * height
        reach = height * math.exp(r.uniform(0.2, 2.2))
        box = (x - reach, y - reach, x + reach, y + reach)
        k = r.random()
        if k < 0.3:
            pen.arc(box, r.randint(0, 360), r.randint(0, 360), ink, r.randint(1, 4))
        elif k < 0.5:
            pen.ellipse(box, ink)
        elif k < 0.7:
            pen.line((x, y, r.random() * width, r.uniform(-0.5, 1.5) * height), ink, r.randint(1, 3))
        elif k < 0.85:
            corners = [(x + r.uniform(-reach, reach), y + r.uniform(-reach, reach)) for _ in range(r.randint(3, 6))]
            pen.polygon(corners, ink)
        else:
            curve = [(width * step / 12, height / 2 + height * r.uniform(-0.6, 0.6)) for step in range(13)]
            pen.line(curve, ink, r.randint(1, 2))
    return np.array(image)


def draw_shades(r: Random, page: Mask) -> Mask:
    rng = np.random.default_rng(r.getrandbits(32))
    coarse = rng.random((r.randint(2, 6), r.randint(2, 24)))
    coarse = (coarse - coarse.min()) / (np.ptp(coarse) + 1e-6) * r.randint(60, 255)
    height, width = page.shape
    shade = np.array(Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    if r.random() < 0.5:
        shade = np.clip(shade + rng.standard_normal(shade.shape) * r.uniform(5, 50), 0, 255).astype(np.uint8)
    return shade


def draw_slivers(store: Store, r: Random, page: Mask) -> Mask:
    height, width = page.shape
    chinese = r.random() < 0.4
    font = store.chinese_font(r) if chinese and store.chinese else store.latin_font(r)
    size = max(9, int(height * r.uniform(0.7, 1.0)))
    face = load_face(font.path, size)
    face.spacing = 0.0
    length = max(2, int(width / size * (1 if chinese else 2)))
    canvas = np.zeros((3 * size + height, width), np.uint8)
    face.draw(canvas, r.uniform(-size, size), size, font.keep(store.texts.snippet(r, "zh" if chinese else "en", length)))
    rows = canvas.any(1).nonzero()[0]
    if len(rows):
        ink = canvas[rows[0] : rows[-1] + 1]
        cut = max(1, min(height // 4, int(len(ink) * r.uniform(0.08, 0.26))))
        if r.random() < 0.6:
            page[:cut] = ink[-cut:]
        else:
            page[height - cut :] = ink[:cut]
    return page
