"""Measure a checkpoint on pages kept apart: a table of error rates as JSON.

    python -m training.evaluate CHECKPOINT --pages DEV --data DATA --output figures.json

DEV holds ``receipts.json`` and ``typeset.json`` beside their pictures (training/README.md has the form), and ``boxes.json``,
the boxes that a text detector finds on the typeset pages ({file: [four corners, ...]}). Sets whose files are absent are left
out; the drawn sets need DATA alone. With ``--training``, receipt lines that do not stand in those pages are counted apart.
``--limit`` takes the first so many pages of each set.
"""

import argparse
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from training.batches import LARGEST_PAGE, LAYOUT_PROMPT, TABLE_PROMPT
from training.check_sources import line_hash, pages_of
from training.checkpoint import load
from training.decode import Reader, Reading, as_read
from training.fonts import Font, Store, load_face
from training.layouts import draw_layout
from training.lines import draw_empty
from training.pages import Columns, draw_page
from training.regions import REGION, Region
from training.tables import draw_table
from training.texts import is_chinese

log = logging.getLogger("training")
MARGIN = 0.11  # of a true box's height, on every side
LAYOUT_EDGE = 1036
Figures = dict[str, float]


def distance(found: str, wanted: str) -> int:
    """The least number of characters to insert, delete or replace."""
    above = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        last, above[0] = above[0], i
        for j, b in enumerate(wanted, 1):
            last, above[j] = above[j], min(above[j] + 1, above[j - 1] + 1, last + (a != b))
    return above[-1]


def character_error(pairs: Iterable[tuple[str, str]]) -> float:
    """Percent of the true characters; a line counts at most as all of its characters."""
    wrong = count = 0
    for found, wanted in pairs:
        wrong += min(len(wanted), distance(found, wanted))
        count += len(wanted)
    return round(100 * wrong / max(1, count), 2)


def word_f1(found: Counter[str], wanted: Counter[str]) -> float:
    return 2 * (found & wanted).total() / max(1, found.total() + wanted.total())


def calibration_error(readings: list[Reading], right: list[bool], bins: int = 10) -> float:
    """The mean gap of confidence and share of right lines, over bins of equally many lines."""
    order = np.argsort([reading.confidence for reading in readings], kind="stable")
    confidence, hits = np.array([reading.confidence for reading in readings]), np.array(right, float)
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(confidence[part].mean() - hits[part].mean()) * len(part) for part in parts]
    return round(float(sum(gaps) / max(1, len(readings))), 3)


def padded(image: Image.Image, box: Iterable[float], margin: float) -> Image.Image:
    left, top, right, bottom = box
    more = (bottom - top) * margin
    x0, y0 = round(max(0, left - more)), round(max(0, top - more))
    return image.crop((x0, y0, round(min(image.width, right + more)), round(min(image.height, bottom + more))))


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def receipts(reader: Reader, pages: Path, limit: int, trained_on: Path | None = None) -> Figures:
    """True boxes, without regard to case. Lines that training pages have as well, such as letterheads, are read better."""
    crops, truths = [], []
    for file, lines in sorted(json.loads((pages / "receipts.json").read_text("utf8")).items())[:limit]:
        folder = pages / "receipts"  # training data keeps them in a folder of their own
        image = Image.open(folder / file if folder.is_dir() else pages / file)
        for *box, text in lines:
            crops.append(as_read(padded(image, box, MARGIN)))
            truths.append(plain(text))
    readings = reader.read(crops)
    pairs = [(plain(reading.text), truth) for reading, truth in zip(readings, truths, strict=True)]
    right = [found == wanted for found, wanted in pairs]
    figures = [
        hit for hit, (_, wanted) in zip(right, pairs, strict=True) if sum(map(str.isdigit, wanted)) >= 0.4 * len(wanted)
    ]
    rates = {
        "receipts: character errors, %": character_error(pairs),
        "receipts: lines right, %": round(100 * sum(right) / len(right), 1),
        "receipts: lines of figures right, %": round(100 * sum(figures) / max(1, len(figures)), 1),
        "receipts: calibration error": calibration_error(readings, right),
    }
    if trained_on:
        known = frozenset().union(*(hashes for _, hashes in pages_of(trained_on)))
        new = [pair for pair in pairs if line_hash(pair[1]) not in known]
        rates["receipts, lines not trained on: character errors, %"] = character_error(new)
        rates["receipts, lines not trained on: lines right, %"] = round(
            100 * sum(a == b for a, b in new) / max(1, len(new)), 1
        )
    return rates


def typeset(reader: Reader, pages: Path, limit: int) -> Figures:
    """A detector's boxes as they are; words without their order."""
    boxes = json.loads((pages / "boxes.json").read_text("utf8"))
    found: dict[str, Counter[str]] = {"clean": Counter(), "scan": Counter()}
    score: dict[str, list[float]] = {"clean": [0, 0], "scan": [0, 0]}
    for file, page in sorted(json.loads((pages / "typeset.json").read_text("utf8")).items())[:limit]:
        image = Image.open(pages / file).convert("RGB")
        corners = [np.array(box) for box in boxes[file]]
        crops = [padded(image, (*box.min(0), *box.max(0)), 0) for box in corners if np.ptp(box, 0).min() >= 3]
        texts = " ".join(reading.text for reading in reader.read([as_read(crop) for crop in crops]))
        words, truth = Counter(re.findall(r"\S+", texts)), Counter(re.findall(r"\S+", page["text"]))
        kind = "scan" if "scan" in file else "clean"
        found[kind] += words
        score[kind][0] += 2 * (words & truth).total()
        score[kind][1] += words.total() + truth.total()
    both = [sum(part) for part in zip(*score.values(), strict=True)]
    rates = {**score, "all": both}
    return {f"typeset, {kind}: word F1": round(hits / max(1, count), 4) for kind, (hits, count) in rates.items() if count}


def drawn_crop(r: Random, font: Font, size: int, text: str, noisy: bool) -> Image.Image:
    """A line on paper, cut about its ink; degraded in other ways than in training."""
    rng = np.random.default_rng(r.getrandbits(32))
    face = load_face(font.path, size)
    face.spacing = 0.0
    page = np.zeros((3 * size, int(face.width(text)) + 40), np.uint8)
    face.draw(page, 20, size, text)
    rows, columns = (page.any(axis).nonzero()[0] for axis in (1, 0))
    image = Image.fromarray(255 - (page * r.uniform(0.73, 1)).astype(np.uint8))
    if noisy:
        blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(r.uniform(0, 0.9)))).astype(float)
        grey = blurred * r.uniform(0.75, 1) + rng.standard_normal(blurred.shape) * r.uniform(6, 38)
        if r.random() < 0.4:
            specks = rng.random(grey.shape)
            grey = np.where(specks < 0.01, 0, np.where(specks > 0.99, 255, grey))
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    return padded(image, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), MARGIN)


def unseen_fonts(reader: Reader, held_out: Store, each: int) -> Figures:
    """Chinese prose in the fonts that are held out, simplified and traditional, clean and noisy."""
    figures: Figures = {}
    for script in ("simplified", "traditional"):
        fonts = [font for font in held_out.chinese if getattr(font, script)]
        for noisy in (False, True) if fonts else ():
            r = Random(77)
            crops: list[Image.Image] = []
            truths: list[str] = []
            while len(truths) < each * len(fonts):
                font = fonts[len(truths) % len(fonts)]
                text = held_out.texts.snippet(r, "zh", r.randint(6, 26))
                text = held_out.into_traditional(text) if script == "traditional" else text
                text = "".join(c for c in font.keep(text) if is_chinese(c) or c in "，。、；：？！（）《》")
                if len(text) >= 6:
                    crops.append(as_read(drawn_crop(r, font, r.choice((13, 15, 17, 20, 24)), text, noisy)))
                    truths.append(text)
            found = [reading.text for reading in reader.read(crops)]
            name = f"unseen fonts, {script}, {'noisy' if noisy else 'clean'}"
            figures[f"{name}: character errors, %"] = character_error(zip(found, truths, strict=True))
            marks = Counter("".join(c for text in truths for c in text if c in "，。、；："))
            hits = sum((Counter(a) & Counter(b) & marks).total() for a, b in zip(found, truths, strict=True))
            figures[f"{name}: marks found, %"] = round(100 * hits / max(1, sum(marks.values())), 1)
    return figures


def whole_pages(reader: Reader, held_out: Store, each: int) -> Figures:
    """Whole pages in unseen fonts: running text, labels with values, and tables.

    Small pages have 192 image tokens. Large ones have 480, nearly as many as the largest pages that the package reads whole.
    """
    figures: Figures = {}
    for size, height, width, longest in (("small", 336, 448, 260), ("large", 672, 560, 420)):
        for chinese in (False, True):
            for kind in ("text and forms", "columns"):
                r = Random(31)
                pages: list[Image.Image] = []
                truths: list[str] = []
                while len(truths) < each:
                    limit = 150 * longest // 260 if chinese else longest
                    if kind == "columns":
                        columns = Columns(held_out, r, height, width)
                        if columns.chinese != chinese:
                            continue
                        mask, text = columns.draw(limit)
                    else:
                        mask, text = draw_page(held_out, r, height, width, limit, chinese)
                    if text:
                        pages.append(Image.fromarray(255 - mask))
                        truths.append(text)
                found = [reading.text for reading in reader.read(pages, "Extract all text from this image.")]
                name = f"{size} pages, {'Chinese' if chinese else 'English'}, {kind}: character errors, %"
                figures[name] = character_error(zip(found, truths, strict=True))
    return figures


def empty_crops(reader: Reader, store: Store, count: int) -> Figures:
    r = Random(5)
    masks = [draw_empty(store, r, r.choice((100, 200, 400))) for _ in range(count)]
    crops = [as_read(Image.fromarray(255 - (mask * r.uniform(0.5, 1)).astype(np.uint8))) for mask in masks]
    silent = sum(not reading.text.strip() for reading in reader.read(crops))
    return {"crops without text: nothing read, %": round(100 * silent / count, 1)}


def regions_of(text: str) -> list[Region]:
    return [Region(kind, *map(float, box)) for *box, kind in REGION.findall(text)]


def overlap(a: Region, b: Region) -> float:
    """The area that both cover, by the area that either covers."""
    shared = common(a, b)
    return shared / max(1e-9, area(a) + area(b) - shared)


def common(a: Region, b: Region) -> float:
    return max(0.0, min(a.right, b.right) - max(a.left, b.left)) * max(0.0, min(a.bottom, b.bottom) - max(a.top, b.top))


def area(a: Region) -> float:
    return (a.right - a.left) * (a.bottom - a.top)


def matched(found: list[Region], wanted: list[Region], least: float = 0.7) -> list[tuple[Region, Region]]:
    """Pairs of a found and a wanted region, the likest first, none in two pairs."""
    likeness = sorted(((overlap(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(wanted)), reverse=True)
    pairs: list[tuple[int, int]] = []
    for like, i, j in likeness:
        if like >= least and all(i != k and j != n for k, n in pairs):
            pairs.append((i, j))
    return [(found[i], wanted[j]) for i, j in pairs]


def drawn_layouts(reader: Reader, held_out: Store, count: int) -> Figures:
    """Pages that were never drawn before, in unseen fonts, as squares of 1036 pixels."""
    r = Random(2026)
    drawn = [draw_layout(held_out, r, LAYOUT_EDGE) for _ in range(count)]
    pages = [Image.fromarray(255 - (mask * r.uniform(0.75, 1)).astype(np.uint8)) for mask, _ in drawn]
    found = [regions_of(reading.text) for reading in reader.read(pages, LAYOUT_PROMPT, special=True)]
    wanted = [regions_of(text) for _, text in drawn]
    pairs = [pair for a, b in zip(found, wanted, strict=True) for pair in matched(a, b)]
    every = sum(map(len, wanted))
    figures = {
        "drawn layouts: regions found at IoU 0.7, %": round(100 * len(pairs) / max(1, every), 1),
        "drawn layouts: regions right at IoU 0.7, %": round(100 * len(pairs) / max(1, sum(map(len, found))), 1),
        "drawn layouts: kinds right, %": round(100 * sum(a.kind == b.kind for a, b in pairs) / max(1, len(pairs)), 1),
    }
    for kind, number in Counter(region.kind for regions in wanted for region in regions).items():
        hits = sum(b.kind == kind for _, b in pairs)
        figures[f"drawn layouts, {kind} ({number}): found, %"] = round(100 * hits / number, 1)
    return figures


def cells_of(otsl: str) -> list[list[tuple[str, str]]]:
    """Return the tags of each row of a table with the texts that follow them."""
    return [re.findall(r"<(fcel|ecel|lcel|ucel|xcel)>([^<]*)", row) for row in otsl.split("<nl>")[:-1]]


def joined(text: str) -> str:
    """The text of a cell without the space at the end of a line that ends with a hyphen."""
    return text.strip().replace("- ", "-")


def drawn_tables(reader: Reader, held_out: Store, count: int) -> Figures:
    """Tables in unseen fonts, of 560 by 336 pixels."""
    r = Random(404)
    drawn: list[tuple[Image.Image, str]] = []
    while len(drawn) < count:
        mask, text = draw_table(held_out, r, 336, 560)
        if text:
            drawn.append((Image.fromarray(255 - (mask * r.uniform(0.75, 1)).astype(np.uint8)), text))
    return table_figures("drawn tables", reader, drawn)


def typeset_tables(reader: Reader, tables: Path, limit: int) -> Figures:
    """The tables of :mod:`training.tex_tables`, reduced to LARGEST_PAGE image tokens at most."""
    truths = sorted(json.loads((tables / "tables.json").read_text("utf8")).items())[:limit]
    pictures = []
    for file, _ in truths:
        image = Image.open(tables / file).convert("RGB")
        scale = min(1.0, math.sqrt(LARGEST_PAGE * 784 / (image.width * image.height)))
        columns, rows = (max(2, int(edge * scale / 28)) for edge in image.size)
        columns += rows == columns  # squares are layouts
        pictures.append(image.resize((28 * columns, 28 * rows), Image.Resampling.BICUBIC))
    return table_figures("typeset tables", reader, list(zip(pictures, [text for _, text in truths], strict=True)))


def table_figures(name: str, reader: Reader, tables: list[tuple[Image.Image, str]]) -> Figures:
    """Return how many structures are right, and how many cells with text are in their place with the right text."""
    found = reader.read([picture for picture, _ in tables], TABLE_PROMPT, special=True)
    structures = cells = right = 0
    pairs: list[tuple[str, str]] = []
    for reading, (_, wanted) in zip(found, tables, strict=True):
        a, b = cells_of(reading.text), cells_of(wanted)
        structures += [[tag for tag, _ in row] for row in a] == [[tag for tag, _ in row] for row in b]
        read = {(i, j): joined(text) for i, row in enumerate(a) for j, (_, text) in enumerate(row)}
        for i, row in enumerate(b):
            for j, (tag, text) in enumerate(row):
                if tag == "fcel":
                    cells += 1
                    right += read.get((i, j)) == joined(text)
        pairs.append((re.sub(r"<\w+>", " ", reading.text), re.sub(r"<\w+>", " ", wanted)))
    return {
        f"{name}: structures right, %": round(100 * structures / max(1, len(tables)), 1),
        f"{name}: cells right, %": round(100 * right / max(1, cells), 1),
        f"{name}: character errors, %": character_error(pairs),
    }


def typeset_layouts(reader: Reader, pages: Path, limit: int) -> Figures:
    """The share of a detector's lines that lie in a region: there is no truth for the regions of these pages."""
    boxes = json.loads((pages / "boxes.json").read_text("utf8"))
    files = sorted(json.loads((pages / "typeset.json").read_text("utf8")))[:limit]
    images = [Image.open(pages / file).convert("RGB") for file in files]
    squares = [image.resize((LAYOUT_EDGE, LAYOUT_EDGE), Image.Resampling.BICUBIC) for image in images]
    covered = lines = 0
    for reading, image, file in zip(reader.read(squares, LAYOUT_PROMPT, special=True), images, files, strict=True):
        regions = regions_of(reading.text)
        for corners in boxes[file]:
            places = np.array(corners) * 1000 / image.size
            line = Region("line", *places.min(0), *places.max(0))
            lines += 1
            covered += any(common(line, region) > 0.8 * area(line) for region in regions)
    return {"typeset pages: lines in a region, %": round(100 * covered / max(1, lines), 1)}


def measure(options: argparse.Namespace) -> Figures:
    reader = Reader(load(options.checkpoint).to(options.device), options.checkpoint / "tokenizer.json")
    few = Reader(reader.model, options.checkpoint / "tokenizer.json", batch=8)  # whole pages take much memory
    figures: Figures = {}
    tasks: list[Callable[[], Figures]] = []
    pages: Path | None = options.pages
    if pages and (pages / "receipts.json").exists():
        tasks.append(lambda: receipts(reader, pages, options.limit, options.training))
    if pages and (pages / "boxes.json").exists():
        tasks.append(lambda: typeset(reader, pages, options.limit))
        if options.layouts:
            tasks.append(lambda: typeset_layouts(few, pages, options.limit))
    if options.typeset_tables:
        tasks.append(lambda: typeset_tables(few, options.typeset_tables, options.limit))
    if options.data:
        held_out = Store(options.data, held_out=True)
        tasks.append(lambda: unseen_fonts(reader, held_out, options.lines))
        tasks.append(lambda: whole_pages(reader, held_out, options.drawn_pages))
        tasks.append(lambda: empty_crops(reader, Store(options.data), 80))
        if options.tables:
            tasks.append(lambda: drawn_tables(few, held_out, options.tables))
        if options.layouts:
            tasks.append(lambda: drawn_layouts(few, held_out, options.layouts))
    for task in tasks:
        start = time.time()
        found = task()
        log.info("%s (%.0f s)", found, time.time() - start)
        figures.update(found)
    return figures


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pages", type=Path, help="development pages")
    parser.add_argument("--data", type=Path, help="fonts and texts, for what is drawn")
    parser.add_argument("--limit", type=int, default=1000, help="pages of each set")
    parser.add_argument("--training", type=Path, help="training pages, whose lines are told apart")
    parser.add_argument("--drawn-pages", type=int, default=16, help="small and large pages of each kind")
    parser.add_argument("--lines", type=int, default=60, help="lines drawn in each unseen font")
    parser.add_argument("--layouts", type=int, default=0, help="pages whose regions are looked for: 5 to 20 s each on a CPU")
    parser.add_argument("--tables", type=int, default=0, help="number of tables that are drawn and read")
    parser.add_argument("--typeset-tables", type=Path, help="tables of training.tex_tables")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = measure(options)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
