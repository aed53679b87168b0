"""Regions of a page and how the model writes them: boxes in thousandths of the page, and the names of MinerU2.5."""

import re
from collections.abc import Iterable
from typing import NamedTuple

REGION = re.compile(r"<\|box_start\|>(\d+) (\d+) (\d+) (\d+)<\|box_end\|><\|ref_start\|>(\w+)<\|ref_end\|>")
KINDS = (
    "text",
    "title",
    "list",
    "table",
    "table_caption",
    "image",
    "image_caption",
    "equation",
    "code",
    "header",
    "footer",
    "page_number",
    "page_footnote",
    "aside_text",
)


class Region(NamedTuple):
    kind: str
    left: float
    top: float
    right: float
    bottom: float


def region_line(region: Region, width: float, height: float) -> str:
    """The region as the model writes it, its edges from 0 to 999 parts of the page; empty where nothing is left of it."""
    (x0, x1), (y0, y1) = (
        [min(999, max(0, round(edge * 1000 / whole))) for edge in pair]
        for pair, whole in (((region.left, region.right), width), ((region.top, region.bottom), height))
    )
    if x1 <= x0 or y1 <= y0:
        return ""
    box = f"{x0:03d} {y0:03d} {x1:03d} {y1:03d}"
    return f"<|box_start|>{box}<|box_end|><|ref_start|>{region.kind}<|ref_end|><|rotate_up|>"


def layout_text(regions: Iterable[Region], width: float, height: float) -> str:
    return "\n".join(line for region in regions if (line := region_line(region, width, height)))


def places_of(text: str) -> tuple[tuple[int, ...], ...]:
    """The regions of an answer as numbers: the index of the kind in `KINDS`, left, top, right, bottom."""
    return tuple((KINDS.index(kind), *map(int, edges)) for *edges, kind in REGION.findall(text))
