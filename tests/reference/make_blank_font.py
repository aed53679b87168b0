"""Makes ``mindnlp_ocr/assets/blank.ttf``: the font of invisible text in searchable PDF.

    uv run python tests/reference/make_blank_font.py

It draws nothing. It has a glyph for what is missing, one half as wide as the font is high, and one as wide as that. Each is
two points, at opposite corners of its box: PDFium, and so Chrome, passes over text whose glyphs have no extent.
"""

import io
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph, GlyphCoordinates
from fontTools.ttLib.tables.ttProgram import Program

PATH = Path(__file__).parents[2] / "mindnlp_ocr" / "assets" / "blank.ttf"
WIDTHS = {".notdef": 500, "half": 500, "full": 1000}
ASCENT, DESCENT = 800, -200


def _corners(width: int) -> Glyph:
    glyph = Glyph()
    glyph.numberOfContours, glyph.endPtsOfContours = 2, [0, 1]
    glyph.coordinates, glyph.flags = GlyphCoordinates([(0, DESCENT), (width, ASCENT)]), bytearray([1, 1])
    glyph.program = Program()
    glyph.program.fromBytecode(b"")
    return glyph


def blank_font() -> bytes:
    """The font, the same bytes every time."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(WIDTHS))
    builder.setupCharacterMap({0x20: "half", 0x3000: "full"})
    builder.setupGlyf({name: _corners(width) for name, width in WIDTHS.items()})
    builder.setupHorizontalMetrics({name: (width, 0) for name, width in WIDTHS.items()})
    builder.setupHorizontalHeader(ascent=ASCENT, descent=DESCENT)
    builder.setupNameTable({"familyName": "Blank", "styleName": "Regular", "psName": "Blank", "fullName": "Blank"})
    builder.setupOS2(sTypoAscender=ASCENT, sTypoDescender=DESCENT, usWinAscent=ASCENT, usWinDescent=-DESCENT)
    builder.setupPost(keepGlyphNames=False)
    builder.font["head"].created = builder.font["head"].modified = 0
    builder.font.recalcTimestamp = False
    stream = io.BytesIO()
    builder.save(stream)
    return stream.getvalue()


if __name__ == "__main__":
    PATH.write_bytes(blank_font())
    print(PATH, PATH.stat().st_size, "bytes")
