"""Make evaluation pages from PDFs with a text layer, which is their ground truth.

    python -m training.pdf_pages PDFS --output PAGES --each 2
    mindnlp-ocr evaluate PAGES/typeset.json --loose

From every PDF, some pages are drawn at random and rendered at 110, 150 or 200 dpi. Every other one is made to look scanned.
Pages are left out if their text layer is not what a reader sees, or not what the checkpoint reads: if it has characters for
private use, invisible characters, rows of dots, letters that are neither Chinese nor among the first 384 of Unicode, or many
words of one character, as in spaced letters, formulas and tables of signs. The same seed selects the same pages.
"""

import argparse
import io
import json
import logging
import re
import unicodedata
from pathlib import Path
from random import Random

import numpy as np
import pypdfium2
from PIL import Image, ImageFilter

from training.texts import is_chinese

log = logging.getLogger("training")
RESOLUTIONS = (110, 150, 200)
LEAST_WORDS = 60
MOST_SINGLE = 0.1  # share of the words that have one character, without those that are ordinary
ORDINARY = frozenset("aAI&-–—•1234567890")
LATIN_END = 0x180  # the first character after Latin Extended-A
DOTS = re.compile(r"(\. ?){5}")
STRANGE = {"Cc", "Cf", "Cn", "Co", "Cs"}  # categories: control, format, not assigned, private use, surrogates


def trusted(text: str) -> bool:
    """Return whether a text layer can be the ground truth of a page."""
    words = unicodedata.normalize("NFKC", text).split()
    single = sum(len(word) == 1 and word not in ORDINARY for word in words)
    odd = any(strange(c) for word in words for c in word) or DOTS.search(text) is not None
    return len(words) >= LEAST_WORDS and single <= MOST_SINGLE * len(words) and not odd


def strange(character: str) -> bool:
    if character.isalpha():
        return ord(character) >= LATIN_END and not is_chinese(character)
    return unicodedata.category(character) in STRANGE


def as_scan(image: Image.Image, r: Random) -> Image.Image:
    """Turn, blur, shade and soil a page; some have two levels only. It is not the degradation of training."""
    rng = np.random.default_rng(r.getrandbits(32))
    turned = image.rotate(r.uniform(-0.8, 0.8), Image.Resampling.BICUBIC, fillcolor=255)
    grey = np.asarray(turned.filter(ImageFilter.GaussianBlur(r.uniform(0.3, 0.9)))).astype(float)
    height, width = grey.shape
    grey *= np.linspace(r.uniform(0.8, 1), r.uniform(0.8, 1), width)[None]
    grey += rng.standard_normal((height, width)) * r.uniform(3, 14)
    if r.random() < 0.25:
        grey = np.where(grey > r.uniform(120, 170), 255.0, 0.0)
    file = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=r.randint(45, 80))
    return Image.open(file)


def make(pdfs: list[Path], output: Path, each: int, seed: int) -> int:
    """Write the pages and ``typeset.json``, which names the PDF and the page of each; return their number."""
    output.mkdir(parents=True, exist_ok=True)
    truths: dict[str, dict[str, str | int]] = {}
    for path in pdfs:
        r = Random(f"{seed} {path.name}")
        try:
            found = _pages_of(path, output, each, r, truths)
        except pypdfium2.PdfiumError as error:
            log.warning("%s is left out, because it cannot be read: %s", path.name, error)
            continue
        if found < each:
            log.info("%s: %d of %d pages with a text layer that can be the ground truth", path.name, found, each)
    (output / "typeset.json").write_text(json.dumps(truths, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    return len(truths)


def _pages_of(path: Path, output: Path, each: int, r: Random, truths: dict[str, dict[str, str | int]]) -> int:
    found = 0
    with pypdfium2.PdfDocument(path) as document:
        numbers = list(range(len(document)))
        r.shuffle(numbers)
        for number in numbers:
            if found >= each:
                break
            page = document[number]
            # U+FFFE is PDFium's mark for a hyphen at the end of a line
            text = page.get_textpage().get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "-")
            if not trusted(text):
                continue
            dpi, scanned = r.choice(RESOLUTIONS), len(truths) % 2 == 1
            image = page.render(scale=dpi / 72).to_pil().convert("L")
            name = f"{path.stem}_{number + 1}_{'scan' if scanned else 'clean'}_{dpi}.jpg"
            (as_scan(image, r) if scanned else image).save(output / name, quality=90)
            truths[name] = {"text": text, "source": path.name, "page": number + 1}
            found += 1
    return found


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pdfs", type=Path, help="a folder of PDFs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--each", type=int, default=2, help="pages of each PDF")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pdfs = sorted(options.pdfs.glob("*.pdf"))
    if not pdfs:
        parser.error(f"there is no PDF in {options.pdfs}: pass a folder of files that end in .pdf")
    log.info("%d pages in %s", make(pdfs, options.output, options.each, options.seed), options.output)


if __name__ == "__main__":
    main()
