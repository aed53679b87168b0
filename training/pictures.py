"""Pictures for drawn pages: photographs, charts, diagrams and drawings, as ink masks (255 is ink)."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from training.fonts import Face, Mask


def photograph(r: Random, height: int, width: int) -> Mask:
    """Clouds of grey, with or without a drawing on them."""
    rng = np.random.default_rng(r.getrandbits(32))
    total = np.zeros((height, width))
    for cells, weight in ((3, 1.0), (8, 0.6), (24, 0.35), (70, 0.2)):
        coarse = (rng.random((cells, cells)) * 255).astype(np.uint8)
        total += weight * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    total = (total - total.min()) / (np.ptp(total) + 1e-6)
    picture: Mask = (70 + total * r.randint(100, 185)).astype(np.uint8)
    if r.random() < 0.4:
        return np.maximum(picture // 2 + 35, drawing(r, height, width))
    return picture


def chart(r: Random, height: int, width: int, face: Face, size: int) -> Mask:
    """Bars or curves between axes, with labels."""
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    x0, y1 = int(3.5 * size), height - int(1.8 * size)
    count = r.randint(3, 12)
    if r.random() < 0.5:
        for n in range(count):
            step = (width - x0) / count
            top = y1 * r.uniform(0.05, 0.9)
            bar = x0 + n * step + step * 0.1
            pen.rectangle((bar, top, bar + r.uniform(0.4, 0.8) * step, y1), r.randint(70, 255))
    else:
        for _ in range(r.randint(1, 4)):
            curve = [(x0 + (width - x0) * k / count, y1 * r.uniform(0.1, 0.95)) for k in range(count + 1)]
            pen.line(curve, r.randint(110, 255), r.randint(1, 3))
    ink = r.randint(110, 255)
    pen.line((x0, 0, x0, y1), ink)
    pen.line((x0, y1, width, y1), ink)
    if r.random() < 0.5:
        pen.rectangle((0, 0, width - 1, height - 1), outline=ink)
    page = np.array(image)
    for n in range(count):
        label = f"{r.uniform(0, 100):.{r.randint(0, 1)}f}"
        if n % 2:
            face.draw(page, x0 + (width - x0) * n / count, y1 + 2, label)
        else:
            face.draw(page, 2, int(y1 * n / count), label)
    return page


def diagram(r: Random, height: int, width: int, face: Face, words: Callable[[int], str]) -> Mask:
    """Boxes with words, and lines between them."""
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    rows, columns = r.randint(1, 3), r.randint(2, 4)
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    centres = [(width * (c + 0.5) / columns, height * (q + 0.5) / rows) for q, c in cells]
    for a, b in pairwise(centres):
        pen.line((*a, *b), r.randint(110, 255), r.randint(1, 2))
    half_x, half_y = width / columns * r.uniform(0.28, 0.44), height / rows * r.uniform(0.2, 0.42)
    for x, y in centres:
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        fill, ink = r.choice((0, 0, r.randint(20, 90))), r.randint(120, 255)
        (pen.rectangle if r.random() < 0.75 else pen.ellipse)(box, fill, ink)
    page = np.array(image)
    for x, y in centres:
        text = face.fit(words(r.randint(3, 16)), 2 * half_x - 4)
        face.draw(page, x - face.width(text) / 2, int(y - face.height / 2), text)
    return page


def drawing(r: Random, height: int, width: int) -> Mask:
    """Lines, ellipses, rectangles and polygons."""
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for _ in range(r.randint(4, 16)):
        ink, box = r.randint(90, 255), [r.randint(0, width), r.randint(0, height), 0, 0]
        box[2], box[3] = box[0] + r.randint(4, max(5, width // 2)), box[1] + r.randint(4, max(5, height // 2))
        k = r.randrange(4)
        if k == 0:
            pen.ellipse(box, r.choice((None, ink)), ink)
        elif k == 1:
            pen.rectangle(box, r.choice((None, ink)), ink)
        elif k == 2:
            pen.line(box, ink, r.randint(1, 4))
        else:
            corners = [(r.randint(0, width), r.randint(0, height)) for _ in range(r.randint(3, 5))]
            pen.polygon(corners, r.choice((None, ink)), ink)
    if r.random() < 0.5:
        pen.rectangle((0, 0, width - 1, height - 1), outline=r.randint(110, 255))
    return np.array(image)
