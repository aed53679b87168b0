"""Conversion of the blocks of mineru-vl-utils to our blocks, with the text of their own answers or of detected lines."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.result import Block, BlockKind, Box, CutReason, Line, Point, Rotation
from mindnlp_ocr.documents.tables import cells_of, to_html

KINDS: dict[str, BlockKind] = {
    "text": "text",
    "ref_text": "text",
    "index": "text",
    "phonetic": "text",
    "list_item": "list",
    "list": "list",
    "title": "title",
    "doc_title": "title",
    "paragraph_title": "title",
    "table": "table",
    "equation": "formula",
    "equation_block": "formula",
    "formula_number": "formula",
    "code": "code",
    "algorithm": "code",
    "image": "figure",
    "chart": "figure",
    "image_block": "figure",
    "caption": "caption",
    "table_caption": "caption",
    "image_caption": "caption",
    "code_caption": "caption",
    "footnote": "footnote",
    "table_footnote": "footnote",
    "image_footnote": "footnote",
    "page_footnote": "footnote",
    "header": "header",
    "footer": "footer",
    "page_number": "footer",
    "aside_text": "aside",
}
LEVELS = {"title": 1, "doc_title": 1, "paragraph_title": 2}
CONTAINERS = frozenset({"list", "equation_block", "image_block"})  # contain other blocks, and are not read themselves
PICTURES = frozenset({"image", "chart", "image_block"})
OWNED = 0.3  # minimum share of a line inside a block that owns it
INSIDE = 0.8  # minimum share of a block inside a list for it to be an item of the list
_DELIMITERS = re.compile(r"^\s*(?:\\\[|\$\$)|(?:\\\]|\$\$)\s*$")
_FENCE = re.compile(r"^\s*```[^\n]*\n|\n?```\s*$")

Found = Mapping[str, Any]  # a ContentBlock: type, bbox as shares of the page, angle, content, merge_prev; label, scored
Estimate = Callable[[Sequence[float]], tuple[float | None, bool]]


def blocks_of(found: Sequence[Found], size: tuple[int, int], estimate: Estimate) -> tuple[Block, ...]:
    """Convert the blocks of a page, in the order of the model.

    Args:
        found: the blocks after post-processing. A list that contains items is omitted, and its items become blocks of kind
            "list". Blocks without text are omitted, unless they are figures.
        size: width and height of the page in pixels.
        estimate: returns, for log-probabilities, the confidence of a text and whether it is doubtful.
    """
    lists = [block for block in found if block["type"] == "list" and not block.get("content")]
    items = _items(found, lists)
    blocks = []
    for block, is_item in zip(found, items, strict=True):
        if any(block is outer for outer in lists):
            continue
        made = _block(block, is_item, size, estimate)
        if made.lines or made.kind == "figure":
            blocks.append(made)
    return tuple(blocks)


def blocks_of_lines(
    found: Sequence[Found], lines: Sequence[Line], size: tuple[int, int]
) -> tuple[tuple[Block, ...], list[Line]]:
    """Put lines into the detected blocks of a page of size ``size``.

    A line belongs to the block that contains the largest share of it, if this is at least ``OWNED``; of equal ones, to the
    smallest. The box of a block becomes the box around its lines, because a model's boxes are less exact than detected
    lines. Blocks without lines are omitted, unless they are figures.

    Returns:
        The blocks in the order of the model, and the lines outside of all blocks.
    """
    frames = [pixels(block["bbox"], size) for block in found]
    owned: list[list[Line]] = [[] for _ in found]
    outside = []
    for line in lines:
        shares = [share_inside(line.box, frame) for frame in frames]
        most = max(shares, default=0.0)
        if most < OWNED:
            outside.append(line)
            continue
        candidates = [number for number, share in enumerate(shares) if share > most - 0.01]
        owned[min(candidates, key=lambda number: frames[number].width * frames[number].height)].append(line)
    items = _items(found, [block for block in found if block["type"] == "list"])
    blocks = []
    for block, frame, is_item, mine in zip(found, frames, items, owned, strict=True):
        label, kind = _kind(block, is_item)
        if mine or kind == "figure":
            box = Box.around([line.box for line in mine] + [frame] * (kind == "figure"))
            level = LEVELS.get(label) if kind == "title" else None
            blocks.append(Block(kind=kind, box=box, lines=_in_rows(mine), label=label, level=level))
    return tuple(blocks), outside


def _in_rows(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Bring the lines of one block into reading order, and number their rows."""
    ordered: list[Line] = []
    for block in arranged(lines):
        first = ordered[-1].row + 1 if ordered else 0
        ordered += [line.model_copy(update={"row": first + line.row}) for line in block.lines]
    return tuple(ordered)


def _items(found: Sequence[Found], lists: Sequence[Found]) -> list[bool]:
    """Return for each block whether it lies in one of the lists."""
    return [
        any(share_inside(block["bbox"], outer["bbox"]) >= INSIDE for outer in lists if outer is not block) for block in found
    ]


def _kind(found: Found, is_item: bool) -> tuple[str, BlockKind]:
    """Return the label of a block and its kind."""
    label = found.get("label", found["type"])
    kind = KINDS.get(label if found["type"] == "text" else found["type"], "text")
    return label, "list" if is_item and kind == "text" else kind


def _block(found: Found, is_item: bool, size: tuple[int, int], estimate: Estimate) -> Block:
    label, kind = _kind(found, is_item)
    content = (found.get("content") or "").strip()
    scored = found.get("scored")
    confidence, doubtful = estimate(scored.logprobs) if scored is not None and content else (None, False)
    cut = cut_of(scored)
    frame = Frame(pixels(found["bbox"], size), found.get("angle") or 0)
    common: dict[str, Any] = {"box": frame.box, "kind": kind, "label": label, "angle": frame.angle}
    about: dict[str, Any] = {"confidence": confidence, "doubtful": doubtful}

    if kind == "table" and (cells := cells_of(content)):
        height = max(cell.row + cell.rows for cell in cells)
        width = max(cell.column + cell.columns for cell in cells)
        lines = [
            frame.line(
                (cell.column / width, cell.row / height, (cell.column + cell.columns) / width,
                 min(height, cell.row + cell.rows) / height),
                text=cell.text, row=cell.row, cut=cut if number == len(cells) - 1 else None, **about,
            )
            for number, cell in enumerate(cells)
        ]  # fmt: skip
        return Block(**common, lines=tuple(lines), html=to_html(cells))
    latex = None
    if kind == "formula" and label != "formula_number":
        content = latex = _DELIMITERS.sub("", content).strip()
    if kind == "code":
        content = _FENCE.sub("", content)
        texts = [text.rstrip() for text in content.split("\n")] if content else []
    else:
        texts = [" ".join(text.split()) for text in content.split("\n") if text.strip()]
    lines = [
        frame.line(
            (0, row / len(texts), 1, (row + 1) / len(texts)),
            text=text, row=row, cut=cut if row == len(texts) - 1 else None, **about,
        )
        for row, text in enumerate(texts)
    ]  # fmt: skip
    return Block(
        **common,
        lines=tuple(lines),
        level=LEVELS.get(label) if kind == "title" else None,
        continues=bool(found.get("merge_prev")) and kind == "text",
        latex=latex or None,
    )


class Frame:
    """A region with relative coordinates, from 0 to 1, in the orientation of its text.

    Args:
        box: the region, in pixels of the page.
        angle: degrees by which its text is rotated clockwise.
    """

    def __init__(self, box: Box, angle: Rotation = 0) -> None:
        self.box, self.angle = box, angle

    def line(self, place: tuple[float, float, float, float], **fields: Any) -> Line:
        """Create a line at a place, given as left, top, right, bottom."""
        left, top, right, bottom = place
        corners = (self._point(left, top), self._point(right, top), self._point(right, bottom), self._point(left, bottom))
        xs, ys = zip(*corners, strict=True)
        box = Box(min(xs), min(ys), max(xs), max(ys))
        return Line(**fields, box=box, polygon=corners if self.angle else None)

    def _point(self, x: float, y: float) -> Point:
        if self.angle == 90:
            x, y = 1 - y, x
        elif self.angle == 180:
            x, y = 1 - x, 1 - y
        elif self.angle == 270:
            x, y = y, 1 - x
        return Point(round(self.box.left + x * self.box.width, 2), round(self.box.top + y * self.box.height, 2))


def pixels(bbox: Sequence[float], size: tuple[int, int]) -> Box:
    """Convert a box in shares of a page to pixels."""
    width, height = size
    return Box(*(round(value, 2) for value in (bbox[0] * width, bbox[1] * height, bbox[2] * width, bbox[3] * height)))


def share_inside(inner: Sequence[float], outer: Sequence[float]) -> float:
    """Return the share of the area of ``inner`` that lies in ``outer``."""
    width = min(inner[2], outer[2]) - max(inner[0], outer[0])
    height = min(inner[3], outer[3]) - max(inner[1], outer[1])
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return width * height / area if width > 0 and height > 0 and area > 0 else 0.0


def cut_of(scored: Any) -> CutReason | None:
    """Return the reason if an answer was truncated, else None."""
    reason: CutReason | Literal["stop"] = getattr(scored, "finish_reason", "stop")
    return None if reason == "stop" else reason
