"""ALTO 4: blocks, lines and words with their positions in pixels."""

from typing import Any, get_args
from xml.sax.saxutils import escape, quoteattr

from mindnlp_ocr import __version__
from mindnlp_ocr.documents.result import Block, BlockKind, Box, Line, Page, Point
from mindnlp_ocr.documents.writers.base import PagePicture, Writer, printable
from mindnlp_ocr.documents.writers.words import around, baseline, pixels, placed, words

VERSION = "4.2"
NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_SCHEMA = f"{NAMESPACE} https://www.loc.gov/standards/alto/v4/alto-4-2.xsd"
_TURNED = 0.5  # degrees; text at a smaller angle is written as horizontal

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="{namespace}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="{schema}" \
SCHEMAVERSION="{version}">
  <Description>
    <MeasurementUnit>pixel</MeasurementUnit>
    <sourceImageInformation>
      <fileName>{source}</fileName>
    </sourceImageInformation>
    <Processing ID="reading">
      <processingCategory>contentGeneration</processingCategory>
      <processingSoftware>
        <softwareName>mindnlp-ocr</softwareName>
        <softwareVersion>{software}</softwareVersion>
      </processingSoftware>
    </Processing>
  </Description>
  <Tags>
{kinds}\
    <OtherTag ID="doubtful" LABEL="doubtful" DESCRIPTION="its confidence lies below the threshold of the reading"/>
  </Tags>
  <Layout>
"""


class AltoWriter(Writer):
    """Writes pages with blocks, lines and words. A table is a composed block of rows, which are composed blocks of cells.

    Tags name the kind of a block and mark doubtful lines. A rotated line has a polygon, and its block a rotation. The
    quality of a page that could not be read is "Missing", and its quality detail contains the reason.
    """

    suffix = ".xml"
    one_document = True

    def _begin(self) -> None:
        kinds = "".join(f'    <LayoutTag ID="kind-{kind}" LABEL="{kind}"/>\n' for kind in get_args(BlockKind))
        source = escape(printable(self.source))
        self.write(
            _HEAD.format(
                namespace=NAMESPACE, schema=_SCHEMA, version=VERSION, source=source, software=__version__, kinds=kinds
            )
        )

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        number, page = self.pages, placed(page)
        attributes: dict[str, Any] = {"WIDTH": page.width, "HEIGHT": page.height, "PHYSICAL_IMG_NR": page.number}
        if page.error is not None:
            attributes |= {"QUALITY": "Missing", "QUALITY_DETAIL": printable(page.error)}
        if page.confidence is not None:
            attributes["PC"] = _share(page.confidence)
        self.write(_open("Page", 2, ID=f"page_{number}", PROCESSINGREFS="reading", **attributes))
        box = _place(Box(0, 0, page.width, page.height), page)
        self.write(_open("PrintSpace", 3, **box))
        for place, block in enumerate(page.blocks, 1):
            self.write(_block(block, page, f"block_{number}_{place}"))
        self.write("      </PrintSpace>\n    </Page>\n")

    def _end(self, error: str | None) -> None:
        if self.pages == 0:  # ALTO requires at least one page
            self._page(Page(number=1, error=error or "there is no page"), None)
        self.write("  </Layout>\n</alto>\n")


def _block(block: Block, page: Page, name: str) -> str:
    if not block.lines:
        return _open("Illustration", 4, close=True, ID=name, **_place(block.box, page), TAGREFS=f"kind-{block.kind}")
    if block.kind != "table":
        return _text_block(block.lines, page, name, block.box, 4, TAGREFS=f"kind-{block.kind}")
    rows = []
    for row, cells in enumerate(block.rows, 1):
        box = Box.around(cell.box for cell in cells)
        rows.append(_open("ComposedBlock", 5, ID=f"{name}_{row}", **_place(box, page), TYPE="row"))
        for column, cell in enumerate(cells, 1):
            rows.append(_text_block((cell,), page, f"{name}_{row}_{column}", cell.box, 6))
        rows.append(f"{'  ' * 5}</ComposedBlock>\n")
    attributes = {"ID": name, **_place(block.box, page), "TYPE": "table", "TAGREFS": "kind-table"}
    return f"{_open('ComposedBlock', 4, **attributes)}{''.join(rows)}{'  ' * 4}</ComposedBlock>\n"


def _text_block(lines: tuple[Line, ...], page: Page, name: str, box: Box, depth: int, **attributes: Any) -> str:
    angles = [line.angle for line in lines]
    if max(angles) - min(angles) < 5 and abs(angles[0]) >= _TURNED:
        attributes["ROTATION"] = f"{-sum(angles) / len(angles):.5g}"
    written = "".join(_line(line, page, f"{name}_line_{number}", depth + 1) for number, line in enumerate(lines, 1))
    return f"{_open('TextBlock', depth, ID=name, **_place(box, page), **attributes)}{written}{'  ' * depth}</TextBlock>\n"


def _line(line: Line, page: Page, name: str, depth: int) -> str:
    found = words(line)
    if not found:  # a line in ALTO requires at least one word
        return ""
    attributes = {"ID": name, **_place(line.box, page), "BASELINE": _points(baseline(line))}
    if line.doubtful:
        attributes["TAGREFS"] = "doubtful"
    confidence = {} if line.confidence is None else {"WC": _share(line.confidence)}
    parts = [_open("TextLine", depth, **attributes)]
    if line.polygon is not None:
        parts.append(f'{"  " * (depth + 1)}<Shape><Polygon POINTS="{_points(line.polygon)}"/></Shape>\n')
    for number, word in enumerate(found):
        if number:
            before, after = found[number - 1].corners, word.corners
            gap = around((before[1], before[2], after[0], after[3]))
            parts.append(_open("SP", depth + 1, close=True, **_place(gap, page)))
        content = {"CONTENT": word.text, **_place(word.box, page), **confidence}
        parts.append(_open("String", depth + 1, close=True, **content))
    return "".join(parts) + "  " * depth + "</TextLine>\n"


def _place(box: Box, page: Page) -> dict[str, Any]:
    left, top, right, bottom = pixels(box, page)
    return {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{round(point.x)},{round(point.y)}" for point in points)


def _share(confidence: float) -> str:
    return f"{confidence:.4f}"


def _open(tag: str, depth: int, close: bool = False, **attributes: Any) -> str:
    written = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"{'  ' * depth}<{tag}{written}{'/' if close else ''}>\n"
