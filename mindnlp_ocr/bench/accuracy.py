"""Accuracy of reading: data sets with ground truth, and error rates of characters, words and lines."""

import codecs
import os
import re
import unicodedata
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from rapidfuzz.distance import LCSseq, Levenshtein

from mindnlp_ocr.bench.results import Row
from mindnlp_ocr.bench.tool import checkout
from mindnlp_ocr.bench.truth import TrueLine, Truth, truth_of, truths_of_folder, truths_of_json
from mindnlp_ocr.documents.source import SUFFIXES
from mindnlp_ocr.errors import SetupError

# Chinese characters and kana with their punctuation, but without the space U+3000.
CJK = "\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
WORD = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
CHINESE = 0.2  # minimum share of CJK characters of a Chinese page: one says as much as several Latin letters
ABOUT = (
    "CER: insertions, deletions and substitutions of characters (Levenshtein distance), divided by the characters of the "
    "ground truth. WER: the same for words, which are separated by white space; each CJK character is a word. Exact lines: "
    "lines of the ground truth that were read without an error, in the same order; empty lines do not count. Errors are "
    "summed over pages before the division. A page that could not be read counts as all wrong."
)
WORDS = (
    "Word recall, precision and F1 compare the words of both texts without their order; a word counts as often as it occurs."
    " Reading order considers only words that occur exactly once in both texts: it is the share of pairs of such words that "
    "have the same order in both, from 0 (reversed) to 1, and the mean over pages is weighted by the number of such words."
)
BY_LINE = "Lines were read at the boxes of the ground truth: errors are counted line by line, and no order is compared."
STRICT = "Only line ends and trailing white space are normalised."
LOOSE = "Loose: both texts are in NFKC, and characters and lines are compared without white space."
IGNORE_CASE = "Upper and lower case are not distinguished."
OWN = ("tests/pages", "examples")  # the project's own test set, drawn by tests/reference/make_pages.py


@dataclass(frozen=True)
class Page:
    """An image with its ground truth: the text and, if known, the lines."""

    image: str
    truth: str
    lines: tuple[TrueLine, ...] = ()

    @classmethod
    def of(cls, image: Path, truth: Truth) -> "Page":
        return cls(str(image), truth.text, truth.lines)

    @property
    def language(self) -> str:
        """Return zh or en, by the share of CJK characters, or blank if there is no text."""
        letters = "".join(self.truth.split())
        chinese = len(re.findall(f"[{CJK}]", letters))
        return ("zh" if chinese >= CHINESE * len(letters) else "en") if letters else "blank"


@dataclass(frozen=True)
class Score:
    """Counts of the ground truth and of the errors. The scores of pages can be added."""

    characters: int = 0
    character_errors: int = 0
    words: int = 0
    word_errors: int = 0
    lines: int = 0
    exact_lines: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cer_percent(self) -> float:
        """Return the error rate. It may exceed 100. An empty ground truth counts as one character."""
        return 100 * self.character_errors / max(1, self.characters)

    @property
    def wer_percent(self) -> float:
        return 100 * self.word_errors / max(1, self.words)

    @property
    def exact_percent(self) -> float:
        return 100 * self.exact_lines / self.lines if self.lines else 100.0

    def row(self) -> Row:
        """Return the columns of a benchmark's results."""
        return {
            "characters": self.characters,
            "character_errors": self.character_errors,
            "cer_percent": self.cer_percent,
            "words": self.words,
            "word_errors": self.word_errors,
            "wer_percent": self.wer_percent,
            "lines": self.lines,
            "exact_lines": self.exact_lines,
            "exact_percent": self.exact_percent,
        }


@dataclass(frozen=True)
class WordScore:
    """Scores of the words of pages without their order, and of the order alone. The scores of pages can be added.

    Attributes:
        words: number of words of the ground truth.
        read: number of words of the reading.
        found: number of words of the ground truth that are in the reading, each as often as it is in both.
        placed: number of words whose order was compared.
        ordered: the sum over pages of ``placed`` times the share of pairs in the right order.
    """

    words: int = 0
    read: int = 0
    found: int = 0
    placed: int = 0
    ordered: float = 0.0

    def __add__(self, other: "WordScore") -> "WordScore":
        return WordScore(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def recall_percent(self) -> float:
        return 100 * self.found / self.words if self.words else 100.0

    @property
    def precision_percent(self) -> float:
        return 100 * self.found / self.read if self.read else 100.0

    @property
    def f1_percent(self) -> float:
        return 200 * self.found / (self.words + self.read) if self.words + self.read else 100.0

    @property
    def order(self) -> float | None:
        """Return the reading order; None if no page has two words to compare."""
        return self.ordered / self.placed if self.placed else None

    def row(self) -> Row:
        """Return the columns of a benchmark's results."""
        return {
            "read_words": self.read,
            "found_words": self.found,
            "word_recall_percent": self.recall_percent,
            "word_precision_percent": self.precision_percent,
            "word_f1_percent": self.f1_percent,
            "ordered_words": self.placed,
            "reading_order": self.order,
        }


def score(truth: str, reading: str | None, loose: bool = False, ignore_case: bool = False) -> Score:
    """Return the score of one page; ``reading`` is None if it could not be read, and then all of it counts as wrong."""
    right, read = normal(truth, loose, ignore_case), normal(reading or "", loose, ignore_case)
    characters, words, lines = compared(right, loose), WORD.findall(right), _lines(right, loose)
    if reading is None:
        return Score(len(characters), len(characters), len(words), len(words), len(lines), 0)
    return Score(
        len(characters),
        Levenshtein.distance(characters, compared(read, loose)),
        len(words),
        Levenshtein.distance(words, WORD.findall(read)),
        len(lines),
        LCSseq.similarity(lines, _lines(read, loose)),
    )


def word_score(truth: str, reading: str | None, loose: bool = False, ignore_case: bool = False) -> WordScore:
    """Return the word score of one page; ``reading`` is None if it could not be read."""
    right, read = (WORD.findall(normal(text or "", loose, ignore_case)) for text in (truth, reading))
    there, found = Counter(right), Counter(read)
    places = {word: place for place, word in enumerate(read)}
    order = order_of([places[word] for word in right if there[word] == found[word] == 1])
    placed = sum(1 for word in there if there[word] == found[word] == 1) if order is not None else 0
    return WordScore(len(right), len(read), (there & found).total(), placed, placed * (order or 0.0))


def order_of(places: Sequence[int]) -> float | None:
    """Return the share of pairs in ascending order, from 0 to 1; None if there are fewer than two places."""
    seen: list[int] = []
    inversions = 0
    for place in places:
        inversions += len(seen) - bisect_right(seen, place)
        insort(seen, place)
    pairs = len(places) * (len(places) - 1) // 2
    return 1 - inversions / pairs if pairs else None


def normal(text: str, loose: bool = False, ignore_case: bool = False) -> str:
    r"""Return a text with \n at line ends, without trailing white space and trailing empty lines; if loose, in NFKC."""
    lines = re.split(r"\r\n?|\n", unicodedata.normalize("NFKC", text) if loose else text)
    kept = "\n".join(line.rstrip() for line in lines).rstrip("\n")
    return kept.casefold() if ignore_case else kept


def compared(text: str, loose: bool) -> str:
    """Return the characters of a normalised text that are compared."""
    return "".join(text.split()) if loose else text


def _lines(text: str, loose: bool) -> list[str]:
    return [compared(line, loose) for line in text.split("\n") if line]


def difference(truth: str, reading: str) -> list[tuple[str, str]]:
    """Return pieces in order: ("same", text), ("missing", text of the ground truth) and ("extra", text of the reading)."""
    pieces = []
    for edit in Levenshtein.opcodes(truth, reading):
        missing, extra = truth[edit.src_start : edit.src_end], reading[edit.dest_start : edit.dest_end]
        pieces += [("same", missing)] if edit.tag == "equal" else [("missing", missing), ("extra", extra)]
    return [piece for piece in pieces if piece[1]]


class _Line(BaseModel):
    image: str
    text: str


def dataset(name: str) -> tuple[list[Page], list[str]]:
    """Return the pages of a folder, a .jsonl, a .json or one image, and the images without a ground truth.

    Raises:
        SetupError: it is none of these, cannot be read, or has no page with a text.
    """
    path = Path(name)
    if not path.exists():
        raise SetupError(
            f"{name} does not exist: pass a folder of images with their texts, a .jsonl or a .json", code="dataset_missing"
        )
    suffix = path.suffix.lower()
    without: list[str] = []
    if suffix == ".jsonl":
        pages = _listed(path)
    elif suffix == ".json":
        pages = [Page.of(path.parent / image, truth) for image, truth in truths_of_json(path).items()]
    elif path.is_dir() or suffix in SUFFIXES:
        images = [path]
        if path.is_dir():
            images = [image for image in sorted(path.iterdir()) if image.suffix.lower() in SUFFIXES]
        named = truths_of_folder(path if path.is_dir() else path.parent, images)
        truths = [(image, truth_of(image) or named.get(image.name)) for image in images]
        pages = [Page.of(image, truth) for image, truth in truths if truth is not None]
        without = [str(image) for image, truth in truths if truth is None]
    else:
        raise SetupError(
            f"{name} is not a data set: pass a folder of images with their texts, a .jsonl or a .json",
            code="dataset_unknown",
        )
    if not pages:
        raise SetupError(
            f"{name} has no page with its text: put page.txt next to page.png, or list both in a .jsonl",
            code="truth_missing",
        )
    return pages, without


def _listed(path: Path) -> list[Page]:
    try:
        rows = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}): pass a .jsonl", code="file_unreadable") from error
    pages = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            line = _Line.model_validate_json(row)
        except ValidationError as error:
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"]), first["msg"]])
            raise SetupError(
                f'{path}:{number} is not a page ({reason}): use {{"image": PATH, "text": TRUTH}}', code="truth_invalid"
            ) from error
        pages.append(Page(str(path.parent / line.image), line.text))
    return pages


def own_datasets() -> list[str]:
    """Return the project's own test set, as paths relative to the working directory, so that results do not contain absolute
    paths of this machine.

    Raises:
        SetupError: the package was installed without its repository, which contains the test set.
    """
    root = checkout("no DATASET is named")
    return [os.path.relpath(root / name) for name in OWN]


def datasets(names: Iterable[str]) -> tuple[list[Page], list[str]]:
    """Return the pages of all data sets, and their images without a ground truth, as :func:`dataset` does."""
    found = [dataset(name) for name in names]
    return [page for pages, _ in found for page in pages], [image for _, without in found for image in without]


def totals(pages: Sequence[Page], scores: Sequence[Score], words: Sequence[WordScore] = ()) -> list[Row]:
    """Return a row for all pages and one per language; with the columns of word scores, if these are passed."""
    languages = [page.language for page in pages]
    rows: list[Row] = []
    for name in ["all", *dict.fromkeys(languages)]:
        of = [number for number, language in enumerate(languages) if name in ("all", language)]
        row: Row = {"language": name, "pages": len(of), **sum((scores[number] for number in of), Score()).row()}
        if words:
            row |= sum((words[number] for number in of), WordScore()).row()
        rows.append(row)
    return rows
