"""The ground truth of pages: plain text, hOCR, or boxes with their text in JSON."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from mindnlp_ocr.documents.result import Box
from mindnlp_ocr.errors import SetupError

LINE_CLASSES = {"ocr_line", "ocr_caption", "ocr_header", "ocr_footer", "ocr_textfloat"}
WITHOUT_END = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SUFFIXES = (".txt", ".hocr", ".html", ".json")  # the first that exists next to an image is its ground truth
FORM = "[[LEFT, TOP, RIGHT, BOTTOM, TEXT], ...]"


@dataclass(frozen=True)
class TrueLine:
    """A line and its axis-aligned bounding box, in pixels of the page."""

    box: Box
    text: str


@dataclass(frozen=True)
class Truth:
    """The ground truth of a page: its text and, if known, its lines with their boxes."""

    text: str
    lines: tuple[TrueLine, ...] = ()

    @classmethod
    def of_lines(cls, lines: Iterable[TrueLine]) -> "Truth":
        """Return the ground truth whose text consists of the given lines."""
        kept = tuple(lines)
        return cls("\n".join(line.text for line in kept), kept)


class _Text(BaseModel):
    text: str


_Boxes = list[tuple[float, float, float, float, str]]
_OF_PAGE: TypeAdapter[_Boxes | _Text] = TypeAdapter(_Boxes | _Text)
_OF_PAGES: TypeAdapter[dict[str, _Boxes | _Text]] = TypeAdapter(dict[str, _Boxes | _Text])


def truth_of(image: Path) -> Truth | None:
    """Return the ground truth next to an image, or None.

    Raises:
        SetupError: it cannot be read, or is something else.
    """
    path = next((path for suffix in SUFFIXES if (path := image.with_suffix(suffix)).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"{path} cannot be read ({error}): save the text of {image.name} in UTF-8", code="file_unreadable"
        ) from error
    if path.suffix == ".txt":
        return Truth(text)
    if path.suffix == ".json":
        try:
            return _truth(_OF_PAGE.validate_json(text))
        except ValidationError as error:
            raise SetupError(
                f'{path} is not a ground truth ({_reason(error)}): use {FORM} or {{"text": TEXT}} for {image.name}',
                code="truth_invalid",
            ) from error
    truth = of_hocr(text)
    if not truth.lines:
        raise SetupError(
            f"{path} is not hOCR: it has no element of the class ocr_line with a bbox in its title", code="truth_invalid"
        )
    return truth


def truths_of_json(path: Path) -> dict[str, Truth]:
    """Return the ground truth in a .json file, by the names of images.

    Raises:
        SetupError: it cannot be read, or is something else.
    """
    try:
        rows = _OF_PAGES.validate_json(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}): pass a .json", code="file_unreadable") from error
    except ValidationError as error:
        raise SetupError(
            f"{path} is not a list of pages ({_reason(error)}): "
            f'use {{"page.png": {FORM}}} or {{"page.png": {{"text": TEXT}}}}',
            code="truth_invalid",
        ) from error
    return {name: _truth(row) for name, row in rows.items()}


def truths_of_folder(folder: Path, images: Sequence[Path]) -> dict[str, Truth]:
    """Return the ground truth of the images that .json files of the folder name, by name. Other .json files are ignored."""
    names, stems = {image.name for image in images}, {image.stem for image in images}
    found: dict[str, Truth] = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem in stems:
            continue
        try:
            rows = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(rows, dict) and names & rows.keys():
            found |= truths_of_json(path)
    return found


def of_hocr(text: str) -> Truth:
    """Return the lines of hOCR in document order, with single spaces between words."""
    parser = _Hocr()
    parser.feed(text)
    parser.close()
    return Truth.of_lines(line for line in parser.lines if line.text)


class _Hocr(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[TrueLine] = []
        self._box: Box | None = None
        self._text: list[str] = []
        self._depth = 0  # number of open elements of the line, including the line itself

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in WITHOUT_END:
            self._text.append(" ")
            return
        if self._depth:
            self._depth += 1
            return
        given = dict(attrs)
        box = re.search(r"\bbbox((?:\s+-?[\d.]+){4})", given.get("title") or "")
        if box and LINE_CLASSES & set((given.get("class") or "").split()):
            self._box, self._text, self._depth = Box(*map(float, box[1].split())), [], 1

    def handle_endtag(self, tag: str) -> None:
        if not self._depth or tag in WITHOUT_END:
            return
        self._depth -= 1
        if self._depth == 0 and self._box is not None:
            self.lines.append(TrueLine(self._box, " ".join("".join(self._text).split())))

    def handle_data(self, data: str) -> None:
        if self._depth:
            self._text.append(data)


def _truth(row: _Boxes | _Text) -> Truth:
    if isinstance(row, _Text):
        return Truth(row.text)
    return Truth.of_lines(TrueLine(Box(*box), text) for *box, text in row)


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), first["msg"]])
