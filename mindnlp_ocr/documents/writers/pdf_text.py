"""The invisible text layer of a searchable PDF: words at their positions, in a font with empty glyphs."""

import math
import zlib
from pathlib import Path
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Stream

from mindnlp_ocr.documents.result import Line, Page, Point
from mindnlp_ocr.documents.writers.words import DESCENT, WIDE, Corners, Word, advance, words

FONT_FILE = Path(__file__).parents[2] / "assets" / "blank.ttf"
HALF, FULL = 500, 1000  # widths of the two glyphs of the font, in thousandths of the font size
_FIRST_FULL = 0x8000  # character codes from here on have the width FULL
_LAST = 0xFFFF
_REPLACEMENT = "\ufffd"


class Matrix:
    """An affine transformation in PDF's notation: x' = a x + c y + e, y' = b x + d y + f."""

    def __init__(self, a: float, b: float, c: float, d: float, e: float, f: float) -> None:
        self.values = (a, b, c, d, e, f)

    def apply(self, point: Point) -> Point:
        a, b, c, d, e, f = self.values
        return Point(a * point.x + c * point.y + e, b * point.x + d * point.y + f)

    def before(self, a: float, b: float, c: float, d: float, e: float, f: float) -> "Matrix":
        """Return the composition that applies the given transformation first and this one second."""
        x, y, origin = self.apply(Point(a, b)), self.apply(Point(c, d)), self.apply(Point(e, f))
        _, _, _, _, right, up = self.values
        return Matrix(x.x - right, x.y - up, y.x - right, y.y - up, *origin)

    def __str__(self) -> str:
        return numbers(*self.values)


def numbers(*values: float) -> str:
    """Format numbers for PDF: without exponents, with four decimals."""
    texts = (f"{value:.4f}".rstrip("0").rstrip(".") for value in values)
    return " ".join("0" if text == "-0" else text for text in texts)


class TextLayer:
    """The text layer of a document, which assigns a code to every character and finally writes the map of the codes.

    All pages share the font and its codes, so a page adds only its own words.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._next = {HALF: 1, FULL: _FIRST_FULL}

    def content(self, page: Page, place: Matrix, font: str) -> bytes:
        """Return the content stream for the text of a page; ``place`` transforms pixels to the coordinates of the PDF
        page."""
        drawn = [part for line in page.lines for part in self._line(line, place, font)]
        return "\n".join(["q", "BT", "3 Tr", *drawn, "ET", "Q", ""]).encode() if drawn else b""

    def _line(self, line: Line, place: Matrix, font: str) -> list[str]:
        found = words(line)
        drawn = []
        for number, word in enumerate(found):
            drawn.append(self._run(word.text, word.corners, place, font))
            if number + 1 < len(found):
                drawn.append(self._run(" ", _gap(word, found[number + 1]), place, font))
        return [run for run in drawn if run]

    def _run(self, text: str, corners: Corners, place: Matrix, font: str) -> str:
        """Return the operators for text that fills a quadrilateral; empty if the quadrilateral is too small."""
        start_top, _, end, start = (place.apply(corner) for corner in corners)
        length, size = math.dist(start, end), math.dist(start, start_top)
        codes = [self._code(character) for character in text]
        natural = sum(FULL if code >= _FIRST_FULL else HALF for code in codes) * size / 1000
        if length < 1e-3 or size < 1e-3:
            return ""
        right, up = (end.x - start.x) / length, (end.y - start.y) / length
        x, y = start.x + DESCENT * (start_top.x - start.x), start.y + DESCENT * (start_top.y - start.y)
        written = "".join(f"{code:04X}" for code in codes)
        return (
            f"{font} {numbers(size)} Tf {numbers(100 * length / natural)} Tz "
            f"{numbers(right, up, -up, right, x, y)} Tm <{written}> Tj"
        )

    def _code(self, character: str) -> int:
        code = self._codes.get(character)
        if code is None:
            width = FULL if advance(character) >= WIDE else HALF
            code = self._next[width]
            if code > (_LAST if width == FULL else _FIRST_FULL - 1):  # more than 32,767 different characters
                return self._code(_REPLACEMENT) if character != _REPLACEMENT else 1
            self._codes[character] = code
            self._next[width] += 1
        return code

    def write_font(self, pdf: pikepdf.Pdf, font: pikepdf.Object) -> None:
        """Write the font, including all used characters, to an object that the pages already reference."""
        program = FONT_FILE.read_bytes()
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name.Blank,
            Flags=4,
            FontBBox=Array([0, -200, 1000, 800]),
            ItalicAngle=0,
            Ascent=800,
            Descent=-200,
            CapHeight=800,
            StemV=80,
            FontFile2=pdf.make_indirect(_compressed(pdf, program, Length1=len(program))),
        )
        glyphs = b"\0\1" * _FIRST_FULL + b"\0\2" * (_LAST + 1 - _FIRST_FULL)
        descendant = Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=Name.Blank,
            CIDSystemInfo=Dictionary(Registry=pikepdf.String("Adobe"), Ordering=pikepdf.String("Identity"), Supplement=0),
            FontDescriptor=pdf.make_indirect(descriptor),
            DW=HALF,
            W=Array([_FIRST_FULL, _LAST, FULL]),
            CIDToGIDMap=pdf.make_indirect(_compressed(pdf, glyphs)),
        )
        font.Type, font.Subtype, font.BaseFont = Name.Font, Name.Type0, Name.Blank
        font.Encoding = Name("/Identity-H")
        font.DescendantFonts = Array([pdf.make_indirect(descendant)])
        font.ToUnicode = pdf.make_indirect(_compressed(pdf, self._to_unicode()))

    def _to_unicode(self) -> bytes:
        """Return the map from codes to text as a CMap."""
        pairs = sorted((code, character) for character, code in self._codes.items())
        parts = []
        for first in range(0, len(pairs), 100):  # a block of a CMap has at most 100 entries
            block = pairs[first : first + 100]
            rows = "".join(f"<{code:04X}> <{character.encode('utf-16-be').hex().upper()}>\n" for code, character in block)
            parts.append(f"{len(block)} beginbfchar\n{rows}endbfchar\n")
        return _CMAP.format(blocks="".join(parts)).encode("ascii")


_CMAP = """\
/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
{blocks}\
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""


def _gap(word: Word, following: Word) -> Corners:
    return word.corners[1], following.corners[0], following.corners[3], word.corners[2]


def _compressed(pdf: pikepdf.Pdf, data: bytes, **entries: Any) -> Stream:
    return Stream(pdf, zlib.compress(data, 9), Filter=Name.FlateDecode, **entries)
