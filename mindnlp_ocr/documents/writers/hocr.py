"""hOCR 1.2, as valid XHTML."""

import math
from xml.sax.saxutils import escape, quoteattr

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Block, Box, Line, Page
from mindnlp_ocr.documents.writers.base import PagePicture, Writer, printable
from mindnlp_ocr.documents.writers.words import baseline, pixels, placed, words

CAPABILITIES = "ocr_page ocr_carea ocr_par ocr_line ocr_photo ocrx_word ocrp_wconf"

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
  <head>
    <title>{title}</title>
    <meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>
    <meta name="ocr-system" content="mindnlp-ocr {version}"/>
    <meta name="ocr-capabilities" content="{capabilities}"/>
  </head>
  <body>
"""


class HocrWriter(Writer):
    """Writes pages, areas (with one paragraph each), lines and words, with their boxes and the confidence of the line.

    A skewed line has the slope of its ``baseline``; a line rotated by more than 45 degrees has a ``textangle``. In addition
    to the properties of hOCR, ``x_kind`` is the kind of an area, and ``x_doubtful 1`` marks doubtful lines.
    """

    suffix = ".hocr"
    one_document = True

    def _begin(self) -> None:
        title = escape(printable(self.source))
        self.write(_HEAD.format(title=title, version=__version__, capabilities=CAPABILITIES))

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        number, page = self.pages, placed(page)
        name = printable(self.source).replace('"', "%22").replace(";", "%3B")  # characters that would end a property
        properties = [f'image "{name}"', _bbox(Box(0, 0, page.width, page.height), page), f"ppageno {page.number - 1}"]
        if page.dpi:
            properties.append(f"scan_res {round(page.dpi)} {round(page.dpi)}")
        self._comment(page.error)
        self.write(f'    <div class="ocr_page" id="page_{number}" title={_title(properties)}>\n')
        for place, block in enumerate(page.blocks, 1):
            self.write(_area(block, page, f"{number}_{place}"))
        self.write("    </div>\n")

    def _end(self, error: str | None) -> None:
        self._comment(error)
        self.write("  </body>\n</html>\n")

    def _comment(self, error: str | None) -> None:
        if error is not None:
            self.write(f"    <!-- {printable(error).replace('--', '- -')} -->\n")


def _area(block: Block, page: Page, name: str) -> str:
    box = _bbox(block.box, page)
    if not block.lines:
        return f'      <div class="ocr_photo" id="block_{name}" title={_title([box, f"x_kind {block.kind}"])}></div>\n'
    lines = "".join(_line(line, page, f"{name}_{number}") for number, line in enumerate(block.lines, 1))
    return (
        f'      <div class="ocr_carea" id="block_{name}" title={_title([box, f"x_kind {block.kind}"])}>\n'
        f'        <p class="ocr_par" id="par_{name}" title={_title([box])}>\n{lines}        </p>\n      </div>\n'
    )


def _line(line: Line, page: Page, name: str) -> str:
    properties = [_bbox(line.box, page), _direction(line)]
    confidence = [] if line.confidence is None else [f"x_wconf {round(100 * line.confidence)}"]
    if line.doubtful:
        properties.append("x_doubtful 1")
    spans = (
        f'<span class="ocrx_word" id="word_{name}_{number}" title={_title([_bbox(word.box, page), *confidence])}>'
        f"{escape(word.text)}</span>"
        for number, word in enumerate(words(line), 1)
    )
    return (
        f'          <span class="ocr_line" id="line_{name}" title={_title([*properties, *confidence])}>{" ".join(spans)}'
        "</span>\n"
    )


def _direction(line: Line) -> str:
    if abs(line.angle) > 45:
        return f"textangle {-line.angle % 360:.5g}"  # counter-clockwise
    start, _ = baseline(line)
    slope = math.tan(math.radians(line.angle))
    offset = start.y + slope * (line.box.left - start.x) - line.box.bottom
    return f"baseline {slope:.3f} {round(offset)}"


def _bbox(box: Box, page: Page) -> str:
    return "bbox {} {} {} {}".format(*pixels(box, page))


def _title(properties: list[str]) -> str:
    return quoteattr("; ".join(properties))
