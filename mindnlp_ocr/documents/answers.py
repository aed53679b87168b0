"""Parsers for the answers of models to a whole page: Markdown, and olmOCR's JSON or front matter with Markdown."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mindnlp_ocr.documents.result import Block, BlockKind, Box, CutReason, Line, Rotation
from mindnlp_ocr.documents.tables import cells_of, to_html

_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])\s+\S")
_RULE = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")
_INLINE = (
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)([*_])(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"</?(?:img|watermark|page_number|signature)>"), ""),  # Nanonets-OCR's
)
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)^---[ \t]*(?:\n(.*))?", re.DOTALL | re.MULTILINE)


class OlmOcrAnswer(BaseModel):
    """The answer of olmOCR: the JSON of olmOCR-7B-0225, or the front matter of olmOCR-2 and the text that follows it.

    Attributes:
        natural_text: the page in Markdown; null if there is nothing to read.
        is_rotation_valid: whether the page is upright.
        rotation_correction: degrees by which the page must be rotated clockwise if it is not upright.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    natural_text: str | None = None
    primary_language: str | None = None
    is_rotation_valid: bool = True
    rotation_correction: Literal[0, 90, 180, 270] = 0
    is_table: bool = False
    is_diagram: bool = False

    @property
    def turn(self) -> Rotation:
        """Degrees by which the page must be rotated clockwise."""
        return 0 if self.is_rotation_valid else self.rotation_correction


def olmocr_answer(text: str) -> tuple[OlmOcrAnswer, str | None]:
    """Parse an answer. If it is not valid JSON, use what can be extracted, and return a warning as the second value."""
    try:
        return OlmOcrAnswer.model_validate_json(text.strip()), None
    except ValidationError:
        pass
    start = re.search(r'"natural_text"\s*:\s*"', text)
    if start is None:
        return OlmOcrAnswer(natural_text=text), "The model did not answer in JSON; its whole answer was used as the text."
    rest = text[start.end() :]
    end = re.match(r'(?:[^"\\]|\\.)*', rest, re.DOTALL)
    assert end is not None
    body = re.sub(r"\\(?:u[0-9a-fA-F]{0,3})?$", "", end[0])  # a truncated escape sequence
    try:
        natural = json.loads(f'"{body}"', strict=False)
    except ValueError:
        natural = body
    return OlmOcrAnswer(
        natural_text=natural
    ), "The model's JSON is malformed or truncated; the text that it contains was used."


def front_matter_answer(text: str) -> tuple[OlmOcrAnswer, str | None]:
    """Parse an answer of olmOCR-2: Markdown after a front matter in YAML. See :func:`olmocr_answer`."""
    import yaml  # needed only for such answers

    said = "The model's answer has no front matter that can be read; all of it was taken as the text."
    if (match := _FRONT_MATTER.fullmatch(text)) is None:
        return OlmOcrAnswer(natural_text=text), said
    try:
        about = {**yaml.safe_load(match[1]), "primary_language": None}  # unused, and "no" means false in YAML
        return OlmOcrAnswer(**{**about, "natural_text": (match[2] or "").strip() or None}), None
    except (yaml.YAMLError, TypeError, ValidationError):
        return OlmOcrAnswer(natural_text=text), said


def markdown_blocks(text: str, box: Box, **about: Any) -> tuple[Block, ...]:
    """Return the blocks of a page in Markdown. Their positions are unknown, so each has the box of the whole page.

    Args:
        about: fields to set in every line, such as its confidence.
    """
    return tuple(
        Block(
            kind=kind,
            box=box,
            lines=tuple(Line(text=line, box=box, row=row, **about) for row, line in lines),
            label=kind,
            level=level,
            html=html,
            latex=latex,
            markdown=source,
        )
        for kind, lines, level, html, latex, source in map(_block, _chunks(text))
    )


def marked_cut(blocks: tuple[Block, ...], cut: CutReason | None) -> tuple[Block, ...]:
    """Return the blocks with the reason of the truncation set in the last line."""
    if cut is None or not blocks or not blocks[-1].lines:
        return blocks
    *lines, last = blocks[-1].lines
    return (*blocks[:-1], blocks[-1].model_copy(update={"lines": (*lines, last.model_copy(update={"cut": cut}))}))


_Rows = list[tuple[int, str]]
_Parsed = tuple[BlockKind, _Rows, int | None, str | None, str | None, str]


def _chunks(text: str) -> list[list[str]]:
    """Split text into the lines of blocks at empty lines, headings and fences. Tables and fences keep their empty lines."""
    chunks: list[list[str]] = [[]]
    until: Callable[[str], bool] | None = None
    for line in text.split("\n"):
        if until is not None:
            chunks[-1].append(line)
            if until(line):
                until = None
                chunks.append([])
            continue
        stripped = line.strip()
        opened = _opened(stripped)
        if not stripped or opened is not None or _HEADING.match(stripped):
            chunks.append([])
        if stripped:
            chunks[-1].append(line)
        if opened is not None:
            until = opened if not (len(stripped) > 3 and opened(stripped[2:])) else None
        if until is None and (opened is not None or _HEADING.match(stripped)):
            chunks.append([])
    return [chunk for chunk in chunks if any(line.strip() for line in chunk)]


def _opened(line: str) -> Callable[[str], bool] | None:
    """Return the test for the last line of the block that a line opens, or None if an empty line ends the block."""
    ends = {"```": "```", "$$": "$$", "\\[": "\\]"}
    for start, end in ends.items():
        if line.startswith(start):
            return lambda line: line.rstrip().endswith(end)
    return (lambda line: "</table>" in line.lower()) if line.lower().startswith("<table") else None


def _block(lines: Sequence[str]) -> _Parsed:
    source = "\n".join(lines)
    text = source.strip()
    if heading := _HEADING.match(text):
        return "title", [(0, plain(heading[2]))], len(heading[1]), None, None, source
    if text.startswith("```"):
        return "code", list(enumerate(line for line in lines if not line.startswith("```"))), None, None, None, source
    if text.startswith(("$$", "\\[")):
        latex = text[2:].removesuffix("$$").removesuffix("\\]").strip()
        return "formula", list(enumerate(latex.split("\n"))), None, None, latex, source
    if text.lower().startswith("<table") and (cells := cells_of(text)):
        return "table", [(cell.row, cell.text) for cell in cells], None, to_html(cells), None, to_html(cells)
    if len(lines) > 1 and _RULE.match(lines[1]) and "|" in lines[0]:
        rows = [line for number, line in enumerate(lines) if number != 1]
        found = [(row, plain(cell)) for row, line in enumerate(rows) for cell in _pipe_cells(line)]
        return "table", found, None, None, None, source
    kind: BlockKind = "list" if all(_ITEM.match(line) for line in lines) else "text"
    return kind, [(row, plain(line.strip())) for row, line in enumerate(lines)], None, None, None, source


def _pipe_cells(line: str) -> list[str]:
    stripped = line.strip().removeprefix("|")
    stripped = stripped[:-1] if stripped.endswith("|") and not stripped.endswith("\\|") else stripped
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", stripped)]


def plain(text: str) -> str:
    """Return the text of a line of Markdown without emphasis and links."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text
