"""GitHub Flavored Markdown: headings, lists, tables, and paragraphs as running text."""

import re
import unicodedata
from collections.abc import Sequence

from mindnlp_ocr.documents.result import Block, Line, Page
from mindnlp_ocr.documents.tables import cells_of, has_spans
from mindnlp_ocr.documents.writers.base import PagePicture, Writer, encodable, printable

_HYPHENS = "-\u2010\u00ad"
_SIGN = re.compile(r"\s*(?:[•·‣◦▪■●○∙]|[*–-](?!\S)|(?P<number>\d{1,9})(?:[.)](?!\S)|、))")
_FORMULA = re.compile(r"\\\((.+?)\\\)")
_ESCAPES = (
    (re.compile(r"\\(?=[!-/:-@\[-`{-~])"), r"\\\\"),
    (re.compile(r"([`*])"), r"\\\1"),
    (re.compile(r"(?<![^\W_])_|_(?![^\W_])"), r"\\_"),  # not markup inside a word
    (re.compile(r"<(?=[A-Za-z/!?])"), r"\\<"),
    (re.compile(r"&(?=#?\w+;)"), r"\\&"),
    (re.compile(r"(?<=\])(?=[\[(:])"), r"\\"),  # would turn brackets into a link
    (re.compile(r"~(?=~)"), r"\\~"),
)
_AT_THE_BEGINNING = (
    (re.compile(r"^(#{1,6}(?!\S)|[-+](?!\S)|>|[-_](?=(?:\s*[-_]){2,}\s*$)|={1,}\s*$)"), r"\\\1"),
    (re.compile(r"^(\d{1,9})([.)](?!\S))"), r"\1\\\2"),
)


class MarkdownWriter(Writer):
    """Writes blocks in reading order. The lines of a paragraph and hyphenated words are joined, also across blocks.

    The lines of a page that was read as plain text in one request are kept, because its paragraphs are unknown. Formulas are
    written between $$, code in a fence, and tables with merged cells as HTML. Figures without text are omitted.

    Comments, which are not rendered, mark the beginning of pages, doubtful lines with their confidence, and errors. With
    several documents in one file, each has its name as a heading.
    """

    suffix = ".md"

    def _begin(self) -> None:
        self._first = self.documents == 1
        if self.heads:
            self._part(f"# {escape(self.source)}")

    def _page(self, page: Page, picture: PagePicture | None) -> None:
        if self.pages > 1:
            self._part(f"<!-- page {page.number} -->")
        if page.error is not None:
            self._part(_comment(page.error))
        for block in _joined(page.blocks):
            for paragraph in _paragraphs(block) if _unparted(page, block) else [self._block(block)]:
                if paragraph:
                    self._part(paragraph)

    def _end(self, error: str | None) -> None:
        if error is not None:
            self._part(_comment(error))

    def _part(self, text: str) -> None:
        self.write(f"{text}\n" if self._first else f"\n{text}\n")
        self._first = False

    def _block(self, block: Block) -> str:
        if block.markdown is not None:
            return encodable(block.markdown)
        if block.latex is not None:
            return f"$$\n{encodable(block.latex).strip()}\n$$"
        if block.kind == "code":
            return code(block)
        if block.html is not None and has_spans(cells_of(block.html)):
            return encodable(block.html)
        if block.kind == "table":
            return table(block)
        if block.kind == "list":
            return items(block)
        text = running(block.rows)
        level = min(6, (block.level or 1) + (1 if self.heads else 0))
        return f"{'#' * level} {text}" if block.kind == "title" and text else at_the_beginning(text)


def _unparted(page: Page, block: Block) -> bool:
    """Return whether the paragraphs of a block are unknown."""
    return page.layout == "page" and block.label is None


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Merge blocks that continue a paragraph into the block with its beginning."""
    joined: list[Block] = []
    for block in blocks:
        before = [place for place, other in enumerate(joined) if other.kind == "text"]
        if not (block.continues and before):
            joined.append(block)
            continue
        begun = joined[before[-1]]
        first = 1 + max(line.row for line in begun.lines)
        more = (line.model_copy(update={"row": first + line.row}) for line in block.lines)
        joined[before[-1]] = begun.model_copy(update={"lines": (*begun.lines, *more)})
    return joined


def _paragraphs(block: Block) -> list[str]:
    """Split a block at empty lines, and keep its lines."""
    paragraphs: list[list[str]] = [[]]
    for row in block.rows:
        if text := at_the_beginning(running([row])):
            paragraphs[-1].append(text)
        else:
            paragraphs.append([])
    return ["\\\n".join(lines) for lines in paragraphs]


def escape(text: str) -> str:
    """Escape characters that Markdown would interpret as markup anywhere in a line."""
    text = printable(text).strip()
    for pattern, replacement in _ESCAPES:
        text = pattern.sub(replacement, text)
    return text


def with_formulas(text: str) -> str:
    """Escape text except for formulas, which a model writes between \\( and \\)."""
    parts = _FORMULA.split(printable(text).strip())
    return "".join(f"${part.strip()}$" if number % 2 else _escaped_part(part) for number, part in enumerate(parts))


def _escaped_part(text: str) -> str:
    """Escape a part of a line, and keep the spaces at its ends."""
    inner = text.strip()
    return text.replace(inner, escape(inner)) if inner else text


def code(block: Block) -> str:
    """Write code in a fence that is longer than any fence in the code. Detected lines are indented by their positions."""
    text = encodable("\n".join(_indented(block)))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}" if text.strip() else ""


def _indented(block: Block) -> list[str]:
    """Return the rows of a block, each line of a row in the column in which it begins, in characters of the mean width."""
    characters = sum(len(line.text) for line in block.lines)
    width = 0.0 if block.angle else sum(line.box.width for line in block.lines) / max(1, characters)
    rows = []
    for row in block.rows:
        text = ""
        for line in row:
            column = round((line.box.left - block.box.left) / width) if width else 0
            text = text.ljust(max(column, len(text) + bool(text))) + line.text
        rows.append(text)
    return rows


def at_the_beginning(text: str) -> str:
    """Escape characters that Markdown would interpret as markup at the beginning of a line."""
    for pattern, replacement in _AT_THE_BEGINNING:
        text = pattern.sub(replacement, text)
    return text


def running(rows: Sequence[Sequence[Line]]) -> str:
    """Join lines to one escaped line."""
    text = ""
    for row in rows:
        added = " ".join(filter(None, map(_marked, row)))
        text = join(text, added)
    return text


def join(text: str, following: str) -> str:
    """Join two lines of a paragraph.

    A hyphen at the end is removed if it splits a word, that is between lower-case letters if the word has no other hyphen.
    Between other letters or digits, the hyphen stays, without a space. No spaces are added for scripts without spaces.
    """
    if not text or not following:
        return text or following
    before, last, first = text[-2:-1], text[-1], following[0]
    if last in _HYPHENS and before.isalnum() and first.isalnum():
        word = text.rsplit(None, 1)[-1][:-1].lstrip("([{\"'“‘\\*_")
        whole = word.isalpha() and before.islower() and first.islower()
        return text[:-1] + following if whole or last == "\u00ad" else text + following
    return text + following if _unspaced(last) or _unspaced(first) else f"{text} {following}"


def _unspaced(character: str) -> bool:
    """Return whether a character belongs to a script without spaces between words: Chinese or Japanese, but not Korean."""
    wide = unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] in "LNP"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")


def _marked(line: Line) -> str:
    text = with_formulas(line.text)
    if not text or not line.doubtful:
        return text
    return f"{text} <!-- doubtful{'' if line.confidence is None else f' {line.confidence:.2f}'} -->"


def items(block: Block) -> str:
    """Write a list. A line without a bullet or number continues the previous item."""
    found: list[tuple[str, str]] = []
    for first, *others in block.rows:
        sign = _SIGN.match(first.text)
        text = running([[first.model_copy(update={"text": first.text[sign.end() :]}) if sign else first, *others]])
        if sign:
            found.append((f"{sign['number']}." if sign["number"] else "-", text))
        elif found:
            found[-1] = (found[-1][0], join(found[-1][1], text))
        elif text:
            found.append(("-", text))
    return "\n".join(f"{sign} {at_the_beginning(item)}".rstrip() for sign, item in found)


def table(block: Block) -> str:
    """Write a pipe table with the first row as its header, from the cells of its HTML or else from its lines."""
    rows = [row for row in _rows_of_cells(block) or _rows_of_lines(block) if any(row)]
    if not rows:
        return ""
    written = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|" + " --- |" * len(rows[0])
    return "\n".join([written[0], rule, *written[1:]])


def _rows_of_cells(block: Block) -> list[list[str]]:
    """Return the cells of the HTML; none if there is no HTML. A cell is marked if it is the same as a doubtful line."""
    cells = cells_of(block.html or "")
    if not cells:
        return []
    width, height = 1 + max(cell.column for cell in cells), 1 + max(cell.row for cell in cells)
    doubtful = {line.text: line for line in block.lines if line.doubtful}
    rows = [[""] * width for _ in range(height)]
    for cell in cells:
        line = doubtful.get(cell.text)
        rows[cell.row][cell.column] = _marked(line) if line else with_formulas(cell.text)
    return rows


def _rows_of_lines(block: Block) -> list[list[str]]:
    """Return the lines of each row. In incomplete rows, they are aligned by their positions."""
    found = [row for row in block.rows if any(line.text.strip() for line in row)]
    centres = [(line.box.left + line.box.right) / 2 for line in max(found, key=len, default=())]
    rows = []
    for row in found:
        cells = [""] * len(centres)
        for place, line in zip(_columns(row, centres), row, strict=True):
            cells[place] = _marked(line)
        rows.append(cells)
    return rows


def _columns(row: Sequence[Line], centres: Sequence[float]) -> list[int]:
    """Return the column of every cell of a row: the nearest one that preserves the order of the cells."""
    places: list[int] = []
    for number, line in enumerate(row):
        free = range(places[-1] + 1 if places else 0, len(centres) - (len(row) - number) + 1)
        centre = (line.box.left + line.box.right) / 2
        places.append(min(free, key=lambda place: abs(centres[place] - centre)))
    return places


def _comment(error: str) -> str:
    return f"<!-- {printable(error).replace('--', '- -')} -->"
