"""Batches of one shape each, drawn without end by the loader's processes: lines, small pages, windows, layouts, tables."""

import io
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from training.fonts import Mask, Store
from training.layouts import draw_layout
from training.lines import draw_line
from training.pages import Columns, draw_page
from training.real import Page, RealPages, blocks, crops, resized, rows_of, shuffled, window
from training.regions import places_of
from training.tables import draw_table

log = logging.getLogger("training")
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
TEXT_PROMPT, LAYOUT_PROMPT, TABLE_PROMPT = "\nText Recognition:", "\nLayout Detection:", "\nTable Recognition:"
PROMPTS = (
    "Extract all text from this image.",
    "OCR",
    "Read all the text in the image.",
    "Extract all text from this invoice.",
    "识别图中的文字。",
    "Text:",
    "What does the image say?",
    "请识别图片中的所有文字。",
    "Recognize the text.",
    "Transcribe this page.",
    "Please output all text content in the image.",
    "提取图中文字",
)
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 21, 24, 28, 32, 37, 42, 48, 55, 60)  # image tokens of a line
SMALL_PAGES = ((2, 14), (2, 28), (3, 20), (4, 14), (7, 8), (8, 12), (6, 16), (12, 8))  # rows and columns of image tokens
MEDIUM_PAGES = ((12, 16), (16, 12), (8, 24), (24, 16), (16, 24), (20, 19), (3, 40), (4, 34), (6, 44), (10, 36))
LARGE_PAGES = ((24, 20), (20, 26), (28, 20), (22, 28))
PAGES = (*SMALL_PAGES, *MEDIUM_PAGES, *LARGE_PAGES)
LARGEST_PAGE = 625  # image tokens of a page that is read as text: page_max_pixels of the checkpoint's document_config.json
ANY_GRID = 0.4  # share of pages whose numbers of rows and columns are drawn at random
WINDOWS = 4  # of one rendering of a page
LAYOUT_ROOM = {22: 620, 37: 1000}  # tokens after a square page of so many image tokens a side
TABLE_ROOM = 640  # tokens after a table
BLOCKS = 48  # paragraphs of PDFs that are kept for layouts
LARGE_SHARE = 0.75  # of the layouts: the larger square
PDF_SHUFFLED, SCANS_SHUFFLED = 0.4, 0.7  # share of real pages whose lines are composed of their words in random order
READ_HEIGHT = 40  # the reader scales a crop to this height, and the image processor rounds it down to 28
STRETCHED = 0.86  # the share of lines that are read so
SHARES = {
    "drawn_lines": 0.33,
    "pdf_lines": 0.08,
    "scan_lines": 0.03,
    "drawn_pages": 0.13,
    "windows": 0.07,
    "layouts": 0.18,
    "tables": 0.18,
}
RESAMPLING = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.LANCZOS,
)


def prompt_tail(prompt: str) -> str:
    """What stands between the picture and the answer."""
    return f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"


def text_room(rows: int, columns: int) -> int:
    """Tokens after the picture, prompt and answer together."""
    if rows == columns and rows in LAYOUT_ROOM:
        return LAYOUT_ROOM[rows]
    return int(18 + 3 * columns) if rows == 1 else min(420, int(24 + 1.45 * rows * columns))


def choose_grid(r: Random, rows: int = 2, columns: int = 6) -> tuple[int, int]:
    """Rows and columns of image tokens of a page; the arguments are the least of those drawn at random."""
    if r.random() >= ANY_GRID:
        return r.choice([grid for grid in PAGES if grid[0] >= rows])
    rows = int(math.exp(r.uniform(math.log(rows), math.log(30))))
    return rows, int(math.exp(r.uniform(math.log(columns), math.log(min(44, LARGEST_PAGE // rows)))))


class Row(NamedTuple):
    picture: Mask
    prompt: list[int]
    answer: list[int]
    regions: tuple[tuple[int, ...], ...] = ()  # of a layout: kind, left, top, right, bottom


@dataclass
class Batch:
    """Pictures of one size and what follows them.

    Attributes:
        drawn: the pictures are ink masks; else grey pictures.
        pictures: uint8 [batch, height, width].
        after: token ids after the picture [batch, tokens].
        learnt: where the next token counts [batch, tokens].
        regions: for layouts, the kind and the edges (left, top, right, bottom; 0 to 999) of each region [batch, regions, 5];
            rows without a region have the kind -1. Other batches have no rows.
    """

    drawn: bool
    pictures: Tensor
    after: Tensor
    learnt: Tensor
    regions: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.drawn, *(tensor.to(device, non_blocking=True) for tensor in self._tensors))

    def pin_memory(self) -> "Batch":
        return Batch(self.drawn, *(tensor.pin_memory() for tensor in self._tensors))

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.pictures, self.after, self.learnt, self.regions

    @property
    def kind(self) -> str:
        height = self.pictures.shape[1]
        shape = "line" if height == 28 else "layout" if self.regions.shape[1] else "page"
        return f"{'drawn' if self.drawn else 'real'} {shape}"


class Batches(torch.utils.data.IterableDataset[Batch]):
    """Endless batches of about so many tokens."""

    def __init__(
        self,
        store: Store,
        real: RealPages | None,
        tokenizer: Path,
        seed: int = 0,
        tokens: int = 84000,
        shares: dict[str, float] | None = None,
    ) -> None:
        self._store, self._real, self._tokenizer_path = store, real, tokenizer
        self._seed, self._tokens = seed, tokens
        self._shares = dict(SHARES if shares is None else shares)
        if real is None or not real.typeset:
            for name in ("pdf_lines", "windows"):
                self._shares.pop(name, None)
        if real is None or not (real.receipts or real.books):
            self._shares.pop("scan_lines", None)

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        self._r = Random(self._seed * 1000 + (worker.id if worker else 0))
        tokenizer = Tokenizer.from_file(str(self._tokenizer_path))
        self._encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(text).ids
        self._end, self._pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
        self._tails = [self._encode(prompt_tail(prompt)) for prompt in PROMPTS]
        self._text_tail = self._encode(prompt_tail(TEXT_PROMPT))
        self._layout_tail, self._table_tail = (self._encode(prompt_tail(p)) for p in (LAYOUT_PROMPT, TABLE_PROMPT))
        self._blocks: list[Mask] = []
        self._pools: dict[tuple[bool, int], list[Row]] = defaultdict(list)
        makers = {name: getattr(self, f"_{name}") for name in self._shares}
        while True:
            name = self._r.choices(list(self._shares), list(self._shares.values()))[0]
            yield makers[name]()

    def _size(self, rows: int, columns: int, room: int) -> int:
        taken = rows * columns * 1.6 + room
        return max(8, min(2048, int(self._tokens / taken) // 8 * 8))

    def _row(self, picture: Mask, prompt: list[int], text: str, room: int) -> Row | None:
        answer = [*(self._encode(text) if text else []), self._end]
        return Row(picture, prompt, answer) if len(prompt) + len(answer) <= room else None

    def _prompt(self, new: float) -> list[int]:
        return self._text_tail if self._r.random() < new else self._r.choice(self._tails)

    def _pack(self, drawn: bool, room: int, rows: list[Row]) -> Batch:
        after = np.full((len(rows), room), self._pad, np.int64)
        learnt = np.zeros((len(rows), room), bool)
        for i, row in enumerate(rows):
            start, stop = len(row.prompt), len(row.prompt) + len(row.answer)
            after[i, :stop] = row.prompt + row.answer
            learnt[i, start - 1 : stop - 1] = True
        used = min(room, (int(learnt.any(0).nonzero()[0].max()) + 2 + 7) // 8 * 8)
        pictures = torch.from_numpy(np.stack([row.picture for row in rows]))
        regions = np.full((len(rows), max(len(row.regions) for row in rows), 5), -1, np.int64)
        for i, row in enumerate(rows):
            if row.regions:
                regions[i, : len(row.regions)] = row.regions
        tensors = (torch.from_numpy(array) for array in (after[:, :used], learnt[:, :used], regions))
        return Batch(drawn, pictures, *tensors)

    # Lines

    def _put_line(self, drawn: bool, crop: Mask, text: str, stretched: bool) -> Batch | None:
        """A line into the pool of its width, scaled as the reader scales it; a full pool is a batch."""
        r = self._r
        height, width = crop.shape
        if stretched:
            between = READ_HEIGHT if r.random() < 0.75 else r.randint(29, 41)
            wide = max(6, int(width * between / height * r.uniform(0.97, 1.03) + 0.5))
        else:
            between, wide = 28, max(6, int(width * 28 / height * r.uniform(0.93, 1.07) + 0.5))
        count = max(1, round(wide / 28))
        near = min(WIDTHS, key=lambda tokens: abs(math.log(tokens / count)))
        if count > 3 and abs(math.log(near * 28 / wide)) > 0.11:
            return None
        image = Image.fromarray(crop)
        if r.random() < 0.12 and height > 14:  # a coarse scan of it
            scale = r.uniform(9, 16) / height
            if scale < 0.9:
                size = (max(4, int(width * scale + 0.5)), max(8, int(height * scale + 0.5)))
                image = image.resize(size, r.choice((*RESAMPLING[:2], Image.Resampling.BOX, Image.Resampling.HAMMING)))
        if stretched:
            image = image.resize((wide, between), r.choice(RESAMPLING)).resize((near * 28, 28), Image.Resampling.BICUBIC)
        else:
            image = image.resize((near * 28, 28), r.choice(RESAMPLING))
        row = self._row(np.asarray(image), self._prompt(0.6), text, text_room(1, near))
        if row is None:
            return None
        pool = self._pools[drawn, near]
        pool.append(row)
        if len(pool) < self._size(1, near, text_room(1, near)):
            return None
        self._pools[drawn, near] = []
        return self._pack(drawn, text_room(1, near), pool)

    def _drawn_lines(self) -> Batch:
        r, widest = self._r, WIDTHS[-1]
        while True:
            count = math.exp(r.uniform(math.log(1.2), math.log(widest))) if r.random() < 0.62 else r.uniform(1.2, widest)
            stretched = r.random() < STRETCHED
            drawn = draw_line(self._store, r, int(28 * count / (READ_HEIGHT / 28 if stretched else 1.0)) + 4)
            if drawn and (batch := self._put_line(True, as_jpeg(r, drawn[0]), drawn[1], stretched)):
                return batch

    def _real_lines(self, draw: Callable[[Random], Page], new_order: float) -> Batch:
        while True:
            lines = crops(self._r, draw(self._r))
            for crop, text in shuffled(self._r, lines) if self._r.random() < new_order else lines:
                if batch := self._put_line(False, crop, text, self._r.random() < STRETCHED):
                    return batch

    def _pdf_lines(self) -> Batch:
        return self._real_lines(self._real.pdf, PDF_SHUFFLED)  # type: ignore[union-attr]

    def _scan_lines(self) -> Batch:
        return self._real_lines(self._real.scan, SCANS_SHUFFLED)  # type: ignore[union-attr]

    # Pages

    def _fill(self, drawn: bool, grid: tuple[int, int], make: Callable[[], Row | None], room: int | None = None) -> Batch:
        rows: list[Row] = []
        room = room or text_room(*grid)
        while len(rows) < self._size(*grid, room):
            row = make()
            if row is not None:
                rows.append(row)
        return self._pack(drawn, room, rows)

    def _drawn_pages(self) -> Batch:
        r = self._r
        grid = choose_grid(r)
        height, width, room = grid[0] * 28, grid[1] * 28, text_room(*grid)

        def make() -> Row | None:
            limit = int(room * r.uniform(0.7, 2.2))
            if r.random() < 0.015:
                return self._row(np.zeros((height, width), np.uint8), self._prompt(0.3), "", room)
            if grid[1] > 6 and r.random() < 0.45:
                page, text = Columns(self._store, r, height, width).draw(limit)
            else:
                page, text = draw_page(self._store, r, height, width, limit)
            return self._row(as_jpeg(r, page), self._prompt(0.3), text, room) if text else None

        return self._fill(True, grid, make)

    def _windows(self) -> Batch:
        """Windows of PDF pages, and of receipts and books, whose rows are joined."""
        r, real = self._r, self._real
        assert real is not None
        receipts = bool(real.receipts or real.books) and r.random() < 0.35
        grid = choose_grid(r, 3 if receipts else 2, 14)
        room = text_room(*grid)

        pages: list[tuple[Page, int]] = []  # a page is rendered for several windows

        def make() -> Row | None:
            if not pages:
                page, paper = (real.scan(r) if receipts else real.pdf(r)), 255
                if receipts:
                    heights = sorted(line.height for line in page.lines)
                    page = resized(page, r.uniform(12, 24) / max(4, heights[len(heights) // 2]))
                    paper = int(np.median(page.image))
                pages.extend([(page, paper)] * WINDOWS)
            page, paper = pages.pop()
            found = window(r, page, grid[0] * 28, grid[1] * 28, paper)
            if found is None or not (receipts or 9 < found[1][0].height < 40):
                return None
            text = rows_of(found[1]) if receipts else "\n".join(line.text for line in found[1])
            return self._row(found[0], self._prompt(0.5), text, room)

        return self._fill(False, grid, make)

    def _layouts(self) -> Batch:
        small, large = LAYOUT_ROOM
        side = large if self._r.random() < LARGE_SHARE else small

        def make() -> Row | None:
            try:
                picture, text = draw_layout(self._store, self._r, 28 * side, self._real_block)
            except (ValueError, IndexError, ZeroDivisionError):  # one page in ten thousand must not end a long run
                log.exception("a page could not be drawn")
                return None
            row = self._row(picture, self._layout_tail, text, LAYOUT_ROOM[side]) if text else None
            return row._replace(regions=places_of(text)) if row else None

        return self._fill(True, (side, side), make)

    def _tables(self) -> Batch:
        rows, columns = choose_grid(self._r, 3, 8)
        if rows == columns:
            columns += 1  # squares are layouts
        height, width = 28 * rows, 28 * columns

        def make() -> Row | None:
            scale = self._r.uniform(0.9, 1.25)  # of the page to the picture that the model sees
            picture, text = draw_table(self._store, self._r, int(height * scale), int(width * scale))
            image = Image.fromarray(picture).resize((width, height), self._r.choice(RESAMPLING))
            return self._row(as_jpeg(self._r, np.asarray(image)), self._table_tail, text, TABLE_ROOM) if text else None

        return self._fill(True, (rows, columns), make, TABLE_ROOM)

    def _real_block(self) -> Mask | None:
        """A paragraph of a PDF, from the last few pages that were rendered for it."""
        if self._real is None or not self._real.typeset:
            return None
        if len(self._blocks) < BLOCKS or self._r.random() < 0.1:
            self._blocks = [*self._blocks, *blocks(self._real.pdf(self._r))][-BLOCKS:]
        return self._r.choice(self._blocks) if self._blocks else None


def as_jpeg(r: Random, picture: Mask) -> Mask:
    """The picture after JPEG, now and then."""
    if r.random() >= 0.12:
        return picture
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=r.randint(25, 70))
    return np.asarray(Image.open(file))
