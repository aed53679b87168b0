"""A small data folder: two fonts, a few lines of text, a PDF with one page, and two scans."""

import gzip
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = "的国体电话号码发票总计价钱已己巳钢铜"
MARKS = "，。、；：？！“”（）《》￥…—·"
TRADITIONAL = {"国": "國", "体": "體", "电": "電", "发": "發"}
LINES = ["Invoice No: INV-20417", "Total 12.50", "Harbour Office Supplies", "Thank you for your visit"]


def draw_font(path: Path, characters: str) -> None:
    """A font whose glyphs are frames, each of another width."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = {ord(c): f"u{ord(c):04x}" for c in characters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {}
    for number, name in enumerate([".notdef", *names.values()]):
        pen, edge = TTGlyphPen(None), 200 + number * 37 % 700
        for low, high in ((0, edge), (80, edge - 80)):
            corners = [(low, low), (low, high), (high, high), (high, low)]
            pen.moveTo(corners[0])
            for corner in corners[1:] if low == 0 else corners[:0:-1]:
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    matplotlib = pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("data")
    (folder / "fonts").mkdir()
    latin = "".join(map(chr, range(32, 127)))
    for name in ("DejaVuSans.ttf", "DejaVuSansMono.ttf"):
        font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
        (folder / "fonts" / name).write_bytes(font.read_bytes())
    chinese = CHARACTERS + MARKS + "".join(TRADITIONAL.values()) + latin
    has = {"DejaVuSans.ttf": latin + "“”—€£", "DejaVuSansMono.ttf": latin}
    for name in ("frames.ttf", "FandolKai.ttf"):  # the second is held out by its name
        draw_font(folder / "fonts" / name, chinese)
        has[name] = chinese
    lexicon = {
        "en_words": ["the", "invoice", "harbour", "total", "office"],
        "zh_chars": list(CHARACTERS),
        "zh_words": ["发票", "电话", "号码"],
        "zh_freq": [50, 20, 10],
    }
    tables = {"lexicon": lexicon, "has": has, "trad": TRADITIONAL, "confusable": {"已": ["己", "巳"], "钢": ["铜"]}}
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(table), encoding="utf8")
    (folder / "corpus_en.txt").write_text("The office by the harbour, the total of an invoice.\n" * 9, encoding="utf8")
    (folder / "corpus_zh.txt").write_text("电话号码，发票总计。" * 4, encoding="utf8")
    return folder


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("real")
    font = ImageFont.truetype(str(data / "fonts" / "DejaVuSans.ttf"), 16)
    image = Image.new("L", (400, 300), 255)
    boxes = []
    for number, text in enumerate(LINES):
        place = (30, 20 + 40 * number)
        ImageDraw.Draw(image).text(place, text, 0, font)
        boxes.append([*ImageDraw.Draw(image).textbbox(place, text, font), text])
    (folder / "pdfs").mkdir()
    image.save(folder / "pdfs" / "page.pdf", resolution=72)
    page = {"pdf": "page.pdf", "page": 0, "w": 400, "h": 300, "lines": boxes, "blocks": [[0, 1], [2, 3]]}
    (folder / "pdf_lines.json.gz").write_bytes(gzip.compress(json.dumps([page]).encode()))
    for name in ("receipts", "books"):
        (folder / name).mkdir()
        image.save(folder / name / "scan.png")
        (folder / f"{name}.json").write_text(json.dumps({"scan.png": boxes}), encoding="utf8")
    return folder
