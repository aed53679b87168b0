"""Draw the example documents of several lines and columns.

    python tests/reference/make_documents.py --fonts FONTS --output examples

FONTS holds Caladea (OFL-1.1), a font that the built-in checkpoint was not trained on. The text of the two columns is from
John Stuart Mill, Considerations on Representative Government (1861), in the public domain; the letter is made up.
The drawing has no randomness beyond fixed seeds.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

DPI = 200
PAGE = (1654, 2339)  # A4
MILL = [
    (
        "The case in which election by two stages answers well in practice is when the electors are not chosen "
        "solely as electors, but have other important functions to discharge, which precludes their being selected"
        " solely as delegates to give a particular vote."
    ),
    (
        "This combination of circumstances exemplifies itself in another American institution, the Senate of the "
        "United States. That assembly, the Upper House, as it were, of Congress, is considered to represent not "
        "the people directly, but the States as such, and to be the guardian of that portion of their sovereign "
        "rights which they have not alienated."
    ),
    (
        "As the internal sovereignty of each state is, by the nature of an equal federation, equally sacred "
        "whatever be the size or importance of the state, each returns to the Senate the same number of members, "
        "whether it be little Delaware or New York."
    ),
    (
        "The elections thus made have proved eminently successful, and are conspicuously the best of all the "
        "elections in the United States, the Senate invariably consisting of the most distinguished men among "
        "those who have made themselves sufficiently known in public life."
    ),
    (
        "After such an example, it can not be said that indirect popular election is never advantageous. Under "
        "certain conditions it is the very best system that can be adopted."
    ),
]
LETTER = [
    "Harbour Office Supplies Ltd",
    "12 Harbour Road, Bristol BS1 4QA",
    "",
    "14 March 2025",
    "Our reference: HOS/2025/0417",
    "",
    "Dear Mrs Whitcombe,",
    "",
    "Thank you for your order of 11 March. Two of the five items are in stock and",
    "leave our warehouse tomorrow; the others follow by 28 March at the latest.",
    "",
    "Item            Quantity      Price",
    "Copy paper A4         40     131.60",
    "Toner black            3     188.25",
    "Archive boxes         25      42.50",
    "",
    "The total of 362.35 is due within 30 days. Please quote invoice INV-20417",
    "with your payment, and write to orders@harbour-office.example if anything is",
    "missing or damaged.",
    "",
    "Yours sincerely,",
    "Thomas Aldridge",
]


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[list[str]]:
    """The words of each line."""
    lines: list[list[str]] = [[]]
    for word in text.split():
        if lines[-1] and font.getlength(" ".join([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def two_columns(fonts: Path) -> tuple[Image.Image, str]:
    """A page of a book review, justified in two columns under one heading."""
    page = Image.new("L", PAGE, 255)
    draw = ImageDraw.Draw(page)
    font, heading = (
        ImageFont.truetype(fonts / f"Caladea-{style}.ttf", size) for style, size in (("Regular", 30), ("Bold", 58))
    )
    title = "On Indirect Elections"
    draw.text((PAGE[0] / 2, 190), title, font=heading, fill=0, anchor="ma")
    width, leading, bottom = 640, 41, 1180
    lefts = (140, 140 + width + 94)
    rows = [line for paragraph in MILL for line in [*wrapped(paragraph, font, width), []]][:-1]
    half = len(rows) // 2 + 1
    texts: list[str] = []
    for left, column in zip(lefts, (rows[:half], rows[half:]), strict=True):
        top = 340.0
        for index, words in enumerate(column):
            if words:
                last = index + 1 == len(column) or not column[index + 1]
                space = font.getlength(" ") if last else (width - font.getlength("".join(words))) / max(1, len(words) - 1)
                x = float(left)
                for word in words:
                    draw.text((x, top), word, font=font, fill=0)
                    x += font.getlength(word) + space
                texts.append(" ".join(words))
            top += leading if words else leading * 0.6
        bottom = max(bottom, int(top))
    footer = "Considerations on Representative Government, 1861"
    draw.text((PAGE[0] / 2, bottom + 120), footer, font=font, fill=0, anchor="ma")
    return page.crop((0, 0, PAGE[0], bottom + 260)), "\n".join([title, *texts, footer]) + "\n"


def scan(fonts: Path) -> tuple[Image.Image, str]:
    """A letter, as a flatbed scanner leaves it: a little turned, shaded, noisy."""
    page = Image.new("L", (PAGE[0], 1560), 250)
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(fonts / "Caladea-Regular.ttf", 34)
    for number, line in enumerate(LETTER):
        cells = line.split("  ")
        if len(cells) == 1:
            draw.text((180, 160 + 54 * number), line, font=font, fill=25)
            continue
        for x, anchor, cell in zip(
            (180, 760, 1060), ("la", "ra", "ra"), [c.strip() for c in cells if c.strip()], strict=True
        ):
            draw.text((x, 160 + 54 * number), cell, font=font, fill=25, anchor=anchor)
    page = page.rotate(0.7, Image.Resampling.BICUBIC, fillcolor=250).filter(ImageFilter.GaussianBlur(0.8))
    random = np.random.default_rng(4)
    shade = np.linspace(0, -34, page.width)[None] + np.linspace(0, -12, page.height)[:, None]
    noisy = np.asarray(page, np.float32) + shade + random.normal(0, 7, (page.height, page.width))
    lines = (" ".join(line.split()) for line in LETTER)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "\n".join(line for line in lines if line) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    page, text = two_columns(arguments.fonts)
    page.save(arguments.output / "two_columns.pdf", "PDF", resolution=DPI, quality=80)
    (arguments.output / "two_columns.txt").write_text(text, encoding="utf-8")
    page, text = scan(arguments.fonts)
    page.save(arguments.output / "scan.jpg", quality=70, dpi=(DPI, DPI))
    (arguments.output / "scan.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
