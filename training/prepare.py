"""Create the fonts and tables of a data folder: subsets of font files, their characters, traditional forms and look-alikes.

    python -m training.prepare fonts FONT.ttf FONT.ttc:2 ... --data DATA --name fonts3    # FILE:NUMBER in a collection
    python -m training.prepare tables --data DATA                                         # trad.json and confusable.json

DATA must already contain ``lexicon.json``. Fonts are reduced to its characters, their traditional forms and Latin, without
hinting and layout tables, which takes some seconds per font. ``tables`` finds look-alikes by drawing every character in
three Chinese fonts of DATA, blurring the pictures and correlating them.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

log = logging.getLogger("training")
LATIN = [*map(chr, range(0x20, 0x7F)), *"£€¥©®°±·×÷–—‘’“”…•§"]
MARKS = "，。、；：？！“”‘’（）《》【】—…·￥％＋－＝～／＠＃＆＊「」『』〔〕〈〉﹐﹑．‧・"
DROPPED = ["vhea", "vmtx", "GSUB", "GPOS", "GDEF", "BASE", "VORG", "kern", "morx", "EBDT", "EBLC", "EBSC", "sbix"]
ALIKE = 0.62  # minimum correlation of look-alikes
COUNT = 6
# Pairs and families of characters that are known to be confused. They come first in the lists.
KNOWN = (
    "钢铜 酯醋 筒简 己已巳 未末 土士 日曰 人入八 干千于 刀力 天夫 免兔 大太犬 戊戌戍 候侯 "
    "拆折 辨辩瓣 徒徙 崇祟 历厉 设没 治冶 准淮 问间 名各 白自 目日 王玉主 今令 处外 住往 "
    "休体 田由甲申 右石 午牛 竞竟 微徵 晴睛 清请情 抬拾 推堆 析折 爪瓜 乌鸟 兵乒乓 薄簿 "
    "渴喝 幕慕墓暮 贷货 贫贪 享亨 衷哀衰 抢枪 卷券 氏民 斤斥 司同 网冈 项顷 颗棵 银根"
)


def characters_of(data: Path) -> list[str]:
    listed: list[str] = json.loads((data / "lexicon.json").read_text("utf8"))["zh_chars"]
    return listed


def traditional_forms(data: Path) -> dict[str, str]:
    from opencc import OpenCC

    convert = OpenCC("s2t").convert
    forms = {c: convert(c) for c in characters_of(data)}
    return {c: form for c, form in forms.items() if form != c and len(form) == 1}


def subset(source: str, target_folder: Path, wanted: set[str]) -> tuple[str, str]:
    """Write a subset of a font. Returns the name of its file, and the characters that it draws."""
    from fontTools import subset as cutter
    from fontTools.pens.boundsPen import ControlBoundsPen
    from fontTools.ttLib import TTFont

    file, _, number = source.partition(":")
    font = TTFont(file, fontNumber=int(number or 0), lazy=True)
    font.flavor = None
    options = cutter.Options()
    options.layout_features, options.hinting, options.notdef_outline = [], False, True
    options.drop_tables += DROPPED
    options.ignore_missing_unicodes = options.ignore_missing_glyphs = True
    cut = cutter.Subsetter(options)
    cut.populate(unicodes=map(ord, wanted))
    cut.subset(font)
    name = Path(file).stem + (f"-{number}" if number else "") + (".otf" if "CFF " in font else ".ttf")
    font.save(target_folder / name)
    font = TTFont(target_folder / name, lazy=True)
    glyphs, drawn = font.getGlyphSet(), []
    for code, glyph in font.getBestCmap().items():
        pen = ControlBoundsPen(glyphs)
        glyphs[glyph].draw(pen)
        if pen.bounds and code < 0x10000:
            drawn.append(chr(code))
    return name, "".join(sorted(drawn))


def make_fonts(sources: list[str], data: Path, name: str) -> None:
    wanted = {*LATIN, *MARKS, *characters_of(data), *traditional_forms(data).values()}
    (data / name).mkdir(exist_ok=True)
    table = data / f"has_{name}.json"
    has: dict[str, str] = json.loads(table.read_text("utf8")) if table.exists() else {}
    for source in sources:
        file, drawn = subset(source, data / name, wanted)
        has[file] = drawn
        table.write_text(json.dumps(has, ensure_ascii=False), encoding="utf8")  # a call that is interrupted keeps its fonts
        log.info("%s: %d characters", file, len(drawn))


def look_alikes(characters: list[str], fonts: list[Path]) -> dict[str, list[str]]:
    """Return for every character those whose blurred pictures are most similar, after the members of its known families."""
    likeness = np.zeros((len(characters), len(characters)), np.float32)
    for path in fonts:
        font = ImageFont.truetype(str(path), 22)
        pictures = []
        for character in characters:
            image = Image.new("L", (26, 28))
            ImageDraw.Draw(image).text((2, 13), character, 255, font, anchor="lm")
            picture = np.asarray(image.filter(ImageFilter.GaussianBlur(1.1)), np.float32).ravel()
            picture = picture - picture.mean()
            pictures.append(picture / max(1e-6, float(np.linalg.norm(picture))))
        stacked = np.stack(pictures)
        likeness += stacked @ stacked.T / len(fonts)
    np.fill_diagonal(likeness, -1)
    alike: dict[str, list[str]] = {}
    for number, character in enumerate(characters):
        nearest = np.argsort(-likeness[number])[: COUNT - 1]
        if found := [characters[other] for other in nearest if likeness[number, other] > ALIKE]:
            alike[character] = found
    known = set(characters)
    for group in KNOWN.split():
        for character in known.intersection(group):
            others = [c for c in group if c != character and c in known]
            alike[character] = list(dict.fromkeys([*others, *alike.get(character, [])]))[:COUNT]
    return {c: others for c, others in alike.items() if others}


def make_tables(data: Path) -> None:
    from training.fonts import Store

    store = Store(data)
    fonts = [font.path for font in store.chinese_body][:3]
    forms, alike = traditional_forms(data), look_alikes(characters_of(data), fonts)
    (data / "trad.json").write_text(json.dumps(forms, ensure_ascii=False), encoding="utf8")
    (data / "confusable.json").write_text(json.dumps(alike, ensure_ascii=False), encoding="utf8")
    log.info("%d traditional forms, look-alikes of %d characters", len(forms), len(alike))


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # at INFO it lists every glyph of every font
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fonts", "tables"))
    parser.add_argument("sources", nargs="*", help="font files")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="fonts3", help="name of the folder in DATA for the fonts (default: fonts3)")
    options = parser.parse_args(arguments)
    if options.what == "fonts":
        make_fonts(options.sources, options.data, options.name)
    else:
        make_tables(options.data)


if __name__ == "__main__":
    main()
