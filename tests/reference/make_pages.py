"""Draw the pages that the tests read and the pages in examples/, each with the text it shows beside it.

    python tests/reference/make_pages.py --fonts FONTS

FONTS holds DejaVu, Liberation and Noto CJK fonts. The drawing has no randomness beyond fixed seeds; the files in
the repository are what the goldens were recorded with, so record again after drawing anew.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sheet import MUTED, NAVY, RED, WHITE, Fonts, Sheet

ROOT = Path(__file__).resolve().parents[2]


def invoice(fonts: Fonts) -> Sheet:
    """An invoice whose sums are right: 20 % tax on the subtotal less the discount."""
    sheet = Sheet(fonts, 560, 672, font="sans", size=16, margin=40, top=30, leading=1.56)
    sheet.row("Harbour Office Supplies", font="bold", size=24, ink=NAVY)
    sheet.row("12 Harbour Road, Bristol", ink=MUTED)
    sheet.gap(8).rule(NAVY, 2, 14)
    sheet.pairs({"Invoice No:": "INV-20417", "Date:": "2025-03-14", "Due Date:": "2025-04-13"})
    sheet.pairs({"Bill To:": "Green Valley School"})
    sheet.gap(12)
    sheet.box(32, sheet.y - 5, 528, sheet.y + 24, "#e4eaf2")
    sheet.row("Item", "Amount", font="bold", ink=NAVY)
    sheet.gap(8)
    items = {
        "2 x Writing desk": "$378.00",
        "4 x Office chair": "$516.00",
        "4 x Desk lamp": "$98.00",
        "9 x Copy paper": "$45.00",
        "1 x Filing cabinet": "$240.00",
        "1 x Whiteboard": "$129.50",
    }
    for label, amount in items.items():
        sheet.row(label, amount).rule("#e1e5ea", 1, 6)
    sheet.gap(8)
    sheet.pairs({"Subtotal": "$1,406.50", "Discount": "$56.50", "Tax 20%": "$270.00"})
    sheet.gap(2).rule(NAVY, 2, 10)
    sheet.row("Total Amount", "$1,620.00", font="bold", size=20, ink=NAVY)
    sheet.gap(8)
    return sheet.row("Thank you for your business.", ink=MUTED)


def receipt(fonts: Fonts) -> Sheet:
    """A till receipt, in a fixed-width font."""
    sheet = Sheet(fonts, 364, 532, font="mono", size=16, margin=28, top=26, leading=1.5, paper="#fdfcf7")
    sheet.row("CORNER BAKERY", font="mono-bold", size=24, align="center")
    sheet.row("48 Market Street", align="center")
    sheet.row("Tel: 555-207-3318", align="center")
    sheet.gap(6).rule("#8a8a80", 1, 10)
    sheet.pairs({"Receipt": "004821", "Date": "2025-06-07", "Time": "08:42", "Cashier": "Maria"})
    sheet.gap(4).rule("#8a8a80", 1, 10)
    sheet.pairs({"Coffee": "3.20", "Green tea": "2.80", "Butter bread": "4.50", "Apple cake": "5.75"})
    sheet.gap(4).rule("#8a8a80", 1, 10)
    sheet.pairs({"Subtotal": "16.25", "Tax": "1.30"})
    sheet.row("TOTAL", "17.55", font="mono-bold", size=20)
    sheet.pairs({"Cash": "20.00", "Change": "2.45"})
    sheet.gap(8)
    return sheet.row("Have a nice day!", align="center")


def letter(fonts: Fonts) -> Sheet:
    """Paragraphs of English text."""
    sheet = Sheet(fonts, 476, 504, font="serif", size=19, margin=48, top=40, leading=1.5, paper="#fffdf8")
    sheet.row("Northfield Public Library", font="serif-bold", size=26, ink=NAVY)
    sheet.gap(2).rule(NAVY, 1, 14)
    sheet.row("September 8, 2025")
    sheet.gap(12)
    sheet.row("Dear members,")
    sheet.gap(8)
    sheet.rows(
        "The reading room on the second floor will open",
        "again on Monday, after three months of repair.",
        "There are new tables, better lights and forty",
        "more places by the windows.",
    )
    sheet.gap(8)
    sheet.rows(
        "We have also changed our hours. From October",
        "the library is open until 9 PM on weekdays and",
        "until 6 PM on Saturday. Please bring your card.",
    )
    sheet.gap(12)
    sheet.row("With kind regards,")
    return sheet.row("Helen Carter, Director")


def notice_zh(fonts: Fonts) -> Sheet:
    """A Chinese notice, as it hangs in a stairwell: the water will be off."""
    sheet = Sheet(fonts, 504, 532, font="hei", size=20, margin=42, top=34, leading=1.7)
    sheet.row("停水通知", font="hei-bold", size=34, ink=RED, align="center")
    sheet.rule(RED, 2, 18)
    sheet.row("各位居民：")
    sheet.rows(
        "因城市供水管道改造工程需要，本小区",
        "将于6月18日上午9点至下午5点停止供水。",
        "请大家提前做好储水准备，出门前检查",
        "水龙头是否关好，以免造成损失。",
        "恢复供水后，请先放水几分钟再使用。",
        "给您的生活带来不便，我们深表歉意。",
    )
    sheet.gap(6).rule("#b8bec8", 1, 14)
    sheet.pairs({"联系电话：": "0571-86254170"})
    sheet.gap(6)
    sheet.row("阳光花园物业服务中心", align="right")
    return sheet.row("2025年6月15日", align="right")


EXAMPLES: dict[str, Callable[[Fonts], Sheet]] = {
    "invoice": invoice,
    "receipt": receipt,
    "letter": letter,
    "notice_zh": notice_zh,
}


def photographed(image: Image.Image, seed: int) -> Image.Image:
    """Uneven light and grain, as a camera leaves them."""
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    light = np.linspace(1.0, 0.88, width)[None, :] * np.linspace(1.0, 0.94, height)[:, None]
    grain = np.random.default_rng(seed).normal(0, 3, (height, width))
    return Image.fromarray((pixels * light[..., None] + grain[..., None]).clip(0, 255).astype(np.uint8))


def pages(fonts: Fonts) -> dict[str, tuple[Image.Image, list[str]]]:
    """File name to picture and text: what OCR meets, in the sizes and modes that a preprocessor may get wrong."""
    made: dict[str, tuple[Image.Image, list[str]]] = {}

    def add(name: str, sheet: Sheet, change: Callable[[Image.Image], Image.Image] = lambda image: image) -> None:
        made[name] = (change(sheet.image), sheet.lines)

    def sheet(width: int, height: int, **style: object) -> Sheet:
        return Sheet(fonts, width, height, **style)  # type: ignore[arg-type]

    # Sizes: one word at the smallest size allowed, one below it, strips, sides that 28 does not divide.
    add("word_56x56.png", sheet(56, 56, size=18, margin=6, top=16).row("Exit"))
    add("small_48x30.png", sheet(48, 30, size=17, margin=4, top=5).row("No.7"))
    add("line_392x28.png", sheet(392, 28, size=17, margin=8, top=4).row("Please keep this ticket until the exit."))
    line = sheet(400, 60, font="serif", size=24, margin=12, top=15)
    add("line_400x60.png", line.row("Platform 4, departure 18:35"))
    add(
        "strip_1008x30.png",
        sheet(1008, 30, font="arial", size=18, margin=10, top=5).row(
            "Passengers are kindly asked to have their tickets ready before they board the train to Manchester."
        ),
    )
    add(
        "odd_301x173.png",
        sheet(301, 173, font="arial", size=17, margin=17, top=14, leading=1.65).rows(
            "Opening hours", "Monday to Friday 9:00", "Saturday 10:30", "Closed on Sunday", "Tel: 555-014-2290"
        ),
    )
    tall = sheet(126, 644, font="hei", size=22, margin=18, top=22, leading=1.78)
    seasons = "春夏秋冬 东南西北 上下左右 高山流水 风和日丽 天长地久 国泰民安 五谷丰登 前程似锦"
    wishes = "学海无涯 一帆风顺 万事如意 心想事成 欢天喜地 马到成功"
    add("tall_126x644.png", tall.rows(*seasons.split(), *wishes.split()))
    minutes = sheet(700, 560, font="sans", size=20, margin=44, top=40, leading=1.6)
    minutes.row("Minutes of the Garden Club", font="bold", size=26).gap(8)
    minutes.rows(
        "The meeting began at 7:15 PM with twelve members.",
        "The last report was read and accepted.",
        "Money in the account: $842.60",
        "The spring sale brought in $315.00 this year.",
    ).gap(10)
    minutes.rows(
        "Anna will order new tools before the end of May.",
        "Peter has found a better place for the compost.",
        "The water tank must be cleaned twice a month.",
    ).gap(10)
    add("minutes_700x560.png", minutes.rows("Next meeting: June 12, 2025", "The meeting ended at 8:40 PM."))
    large = sheet(900, 700, font="sans", size=26, margin=56, top=48, leading=1.65)
    large.row("Safety Rules for Visitors", font="bold", size=34).gap(12)
    large.rows(
        "Wear a helmet and strong shoes at all times.",
        "Stay behind the yellow line near the machines.",
        "Do not touch anything without permission.",
        "Food and drinks are not allowed in this area.",
        "Report every accident to the office at once.",
    ).gap(14)
    large.pairs({"Emergency": "555-901-4477", "First aid room": "B 204", "Last change": "2025-01-20"})
    add("large_900x700.png", large.gap(10).row("Thank you for your help."))

    # Chinese and mixed text.
    add("zh_line_336x34.png", sheet(336, 34, font="hei", size=20, margin=10, top=2).row("请在出口处出示您的车票"))
    add(
        "zh_text_448x308.png",
        sheet(448, 308, font="song", size=20, margin=30, top=24, leading=1.8).rows(
            "春天来了，公园里的花都开了。",
            "孩子们在草地上放风筝，",
            "老人们坐在树下聊天。",
            "湖边的柳树长出了新的叶子，",
            "几只小鸟在枝头唱歌。",
            "大家都喜欢这个美丽的季节。",
        ),
    )
    form = sheet(420, 322, font="hei", size=18, margin=28, top=20, leading=1.75)
    form.row("增值税发票", font="hei-bold", size=24, align="center").gap(8)
    add(
        "zh_form_420x322.png",
        form.pairs(
            {
                "发票号码：": "20458713",
                "开票日期：": "2025-02-26",
                "购买方：": "东方贸易公司",
                "数量：": "36",
                "单价：": "￥125.00",
                "合计：": "￥4500.00",
            }
        ),
    )
    add(
        "mixed_420x238.png",
        sheet(420, 238, font="hei", size=19, margin=26, top=20, leading=1.75).rows(
            "会议室 Meeting Room 305",
            "时间： 2025-09-01 14:30",
            "地点： 上海市南京路 88 号",
            "联系人： 王小明 13800451276",
            "Please be on time.",
        ),
    )

    # Colours, picture modes and what cameras and scanners do.
    add(
        "paper_392x224.png",
        sheet(392, 224, font="serif", size=20, margin=28, top=24, leading=1.7, paper="#f3e3b3", ink="#4a2c12").rows(
            "Fresh honey from the valley",
            "Small jar 4.50",
            "Large jar 8.20",
            "Sold here every Sunday",
            "Ask for a free taste!",
        ),
    )
    add(
        "inverted_364x196.png",
        sheet(364, 196, size=19, margin=28, top=24, leading=1.9, paper="#14213d", ink="#f5f5f5").rows(
            "Now boarding at gate 21", "Flight KL 1042 to Oslo", "Departure 16:05", "Please have your pass ready"
        ),
    )
    add("blank_224x168.png", sheet(224, 168))
    photo = sheet(420, 280, font="arial", size=19, margin=28, top=26, leading=1.8, paper="#f6f4ee").rows(
        "Lost and found office",
        "Found on bus 12: one black",
        "umbrella and a pair of gloves.",
        "Please call us on weekdays",
        "between 8:00 and 16:00.",
    )
    add("photo_420x280.jpg", photo.pairs({"Phone": "555-310-8872"}), functools.partial(photographed, seed=5))
    gray = sheet(336, 252, font="arial", size=18, margin=24, top=22, leading=1.75).row(
        "Library card", font="arial-bold", size=22
    )
    add(
        "gray_336x252.png",
        gray.gap(6).pairs(
            {
                "Name": "Laura Bennett",
                "Account": "70315528",
                "Date": "2024-11-05",
                "Status": "Active",
                "Balance": "$0.00",
            },
        ),
        lambda image: image.convert("L"),
    )
    add(
        "rotated_420x280.png",
        sheet(420, 280, size=18, margin=40, top=40, leading=1.9).rows(
            "The old bridge was closed in",
            "winter because of the ice. It",
            "opened again in April with a",
            "new road for bicycles and a",
            "small path along the river.",
        ),
        lambda image: image.rotate(1.2, Image.Resampling.BICUBIC, fillcolor=WHITE),
    )
    mono = sheet(448, 210, font="mono", size=17, margin=22, top=20, leading=1.75)
    add(
        "mono_448x210.png",
        mono.pairs(
            {
                "Order ID": "A7-4402-KX",
                "Serial No": "93820156",
                "Model": "TR-560",
                "Weight": "12.5 kg",
                "Shipping": "$18.90",
                "Page": "1",
            }
        ),
    )
    ticket = sheet(280, 448, font="sans", size=16, margin=22, top=24, leading=1.6)
    ticket.row("City Parking", font="bold", size=22, align="center").gap(4).rule()
    ticket.pairs({"Ticket": "558-2071", "Date": "03/11/2025", "In": "09:12", "Out": "11:47", "Level": "B2"})
    ticket.gap(6).rule().pairs({"Price per hour": "$2.50", "Hours": "3", "Total": "$7.50", "Card": "$7.50"})
    add(
        "ticket_280x448.png",
        ticket.gap(8).row("Drive safely!", align="center"),
        lambda image: image.quantize(16, dither=Image.Dither.NONE),
    )
    stamp = sheet(308, 140, font="bold", size=22, margin=24, top=24, leading=1.7, ink=RED).rows(
        "PAID", "Account 4471", "May 19, 2025"
    )

    def alpha(image: Image.Image) -> Image.Image:
        # White everywhere below the alpha, so that dropping it and laying it over white agree.
        image.putalpha(image.convert("L").point(lambda value: 255 if value < 250 else 0))
        return image

    add("alpha_308x140.png", stamp, alpha)
    return made


def save(path: Path, image: Image.Image, lines: list[str]) -> None:
    """The picture, and its text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        image.save(path, quality=80)
    else:
        image.save(path, optimize=True)
    path.with_suffix(".txt").write_text("\n".join(lines) + ("\n" if lines else ""), encoding="utf-8")
    print(f"{path.relative_to(ROOT)}  {image.width}x{image.height} {image.mode}  {path.stat().st_size:,} bytes")


def main() -> None:
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True, help="folder of the fonts named in FONTS")
    fonts = Fonts(parser.parse_args().fonts)
    for name, draw in EXAMPLES.items():
        sheet = draw(fonts)
        save(ROOT / "examples" / f"{name}.png", sheet.image, sheet.lines)
    for name, (image, lines) in pages(fonts).items():
        save(ROOT / "tests" / "pages" / name, image, lines)


if __name__ == "__main__":
    main()
