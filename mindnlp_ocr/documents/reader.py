"""Pages to text: lines are found, cut, read many at a time in the slots of the model, and put in order."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mindnlp_ocr.documents.confidence import line_confidence, page_confidence, repetition_start
from mindnlp_ocr.documents.crops import crops_of, split_cells
from mindnlp_ocr.documents.detector import Detection, LineDetector, Quad, width
from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.placing import placed, placed_back, turned
from mindnlp_ocr.documents.result import Block, Box, CutReason, Line, Page, Rotation
from mindnlp_ocr.documents.settings import DocumentSettings, LayoutChoice
from mindnlp_ocr.documents.source import SourcePage
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request

AHEAD = 2  # pages that are opened and searched for lines while an NPU reads others; a CPU does one thing at a time
ROTATION_LINES = 5  # that are read both ways where it is not clear which way is up


@dataclass
class _Part:
    """One line, or one part of a long line, and what came of it."""

    line: int
    image: Image.Image
    blank_before: bool
    outcome: Reading | PageError | None = None


@dataclass
class _Prepared:
    """A page that is being read: what its requests are, and what came of them."""

    source: SourcePage
    rotation: Rotation = 0
    quads: list[Quad] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    whole: Reading | PageError | None = None  # where the page is read in one request
    layout: str = "lines"
    open_requests: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)


class DocumentReader:
    """Reads pages with a model, in the way that its checkpoint declares or the caller chooses.

    Args:
        model: the model; pages of all callers share its slots.
        layout: "lines": find the lines, read each by itself; "page": read a page in one request; "auto": as the checkpoint
            declares in ``document_config.json``.
        prompt: the question to ask of a whole page, or of every line; by default the checkpoint's own.
        batch_size: requests at a time; by default as many as there are slots.
        max_new_tokens: longest answer of a request.
        min_confidence: lines below it are doubtful; by default the checkpoint's own threshold.
        threads: CPU threads of the line detector.

    Raises:
        SetupError: the checkpoint does not read lines, though they are asked for.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        layout: LayoutChoice = "auto",
        prompt: str | None = None,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        min_confidence: float | None = None,
        threads: int | None = None,
    ) -> None:
        self._model = model
        with model.files() as folder:
            self.settings = DocumentSettings.from_folder(folder)
        if layout == "lines" and self.settings.lines is None:
            raise SetupError(
                "--layout lines was requested, but the checkpoint does not declare how it reads lines: use --layout page, "
                "or add document_config.json to its folder"
            )
        self._layout, self._prompt, self._max_new_tokens = layout, prompt, max_new_tokens
        self._batch_size = batch_size or model.slots
        confidence = self.settings.confidence
        self._threshold = min_confidence if min_confidence is not None else confidence.threshold if confidence else 0.0
        self._detector = LineDetector(threads)

    def layout_of(self, width: int, height: int) -> str:
        """How a picture of this size is read: "lines" or "page"."""
        if self._layout != "auto":
            return self._layout
        small = width * height <= self.settings.page_max_pixels
        return "page" if self.settings.layout == "page" or small else "lines"

    def read_image(
        self,
        image: Image.Image,
        number: int = 1,
        dpi: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Page:
        """Read one RGB page.

        Args:
            number: the page's number in its document, from 1.
            dpi: pixels an inch, where they are known.
            on_text: called with each piece of text while a whole page is read in one request; with lines, once.
        """
        source = SourcePage(number, image, dpi)
        if on_text is not None and self.layout_of(*image.size) == "page":
            prepared = _Prepared(source, layout="page")
            try:
                request = self._page_request(image)
                prepared.whole = self._model.generate(request.messages, request.max_new_tokens, on_text)
            except PageError as error:
                prepared.whole = error
            return self._page(prepared)
        (page,) = self.read_pages([source])
        if on_text is not None:
            on_text(page.text)
        return page

    def read_lines(self, image: Image.Image, boxes: Sequence[Box], margin: float | None = None) -> list[Line]:
        """Read lines at known places, without looking for lines: one for each box, in the order of the boxes. The text of a
        line is empty where nothing was read.

        Args:
            image: the RGB page.
            boxes: upright rectangles around the lines.
            margin: share of a line's height that is added around its box; by default as the checkpoint has it.

        Raises:
            SetupError: the checkpoint does not read lines.
            PageError: a line cannot be read.
        """
        settings = self.settings.lines
        if settings is None:
            raise SetupError(
                "lines at known places were requested, but the checkpoint does not declare how it reads lines: add "
                "document_config.json to its folder"
            )
        if margin is not None:
            settings = settings.model_copy(update={"margin": margin})
        quads, parts = [], list[_Part]()
        for number, box in enumerate(boxes):
            left, right = (min(max(0.0, x), image.width) for x in (box.left, box.right))
            top, bottom = (min(max(0.0, y), image.height) for y in (box.top, box.bottom))
            quads.append(np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64))
            if left < right and top < bottom:
                crops = crops_of(image, quads[-1], settings)
                parts += [_Part(number, crop.image, crop.blank_before) for crop in crops]
        requests = (self._line_request(part.image) for part in parts)
        for number, outcome in self._model.generate_batch(requests, batch_size=self._batch_size):
            if isinstance(outcome, PageError):
                raise outcome
            parts[number].outcome = outcome
        return [self._line(quad, [part for part in parts if part.line == number]) for number, quad in enumerate(quads)]

    def read_pages(self, pages: Iterable[SourcePage | Page | Callable[[], SourcePage | Page]]) -> Iterator[Page]:
        """Read many pages, in their order. The lines of following pages fill slots that the last lines of a page leave free.

        Args:
            pages: opened pages, or functions that open them when their turn comes. A ``Page`` stands for one that needs no
                reading and is handed on.
        """
        waiting: deque[_Prepared | Page] = deque()
        owners: dict[int, tuple[_Prepared, _Part | None]] = {}

        def requests() -> Iterator[Request]:
            count = 0
            for prepared in _ahead(pages, self._prepare, AHEAD if self._model.device.leaves_host_free else 0):
                waiting.append(prepared)
                if isinstance(prepared, Page):
                    continue
                if prepared.layout == "page":
                    owners[count] = prepared, None
                    prepared.open_requests = 1
                    count += 1
                    yield self._page_request(prepared.source.image)
                prepared.open_requests += len(prepared.parts)
                for part in prepared.parts:
                    owners[count] = prepared, part
                    count += 1
                    yield self._line_request(part.image)

        for number, outcome in self._model.generate_batch(requests(), batch_size=self._batch_size):
            prepared, part = owners.pop(number)
            prepared.open_requests -= 1
            if part is None:
                prepared.whole = outcome
            else:
                part.outcome = outcome
            while waiting and (isinstance(waiting[0], Page) or waiting[0].open_requests == 0):
                yield self._page(waiting.popleft())
        while waiting:
            yield self._page(waiting.popleft())

    # What a page needs before it is read

    def _prepare(self, page: SourcePage | Page | Callable[[], SourcePage | Page]) -> _Prepared | Page:
        start = time.perf_counter()
        opened = page() if callable(page) else page
        if isinstance(opened, Page):
            return opened
        prepared = _Prepared(opened, layout=self.layout_of(*opened.image.size))
        if callable(page):
            prepared.timings_ms["open"] = _since(start)
        if prepared.layout == "page":
            return prepared
        start = time.perf_counter()
        image = opened.image
        found = self._detector.detect(image)
        prepared.rotation = self._rotation(image, found)
        image, found = turned(image, found, prepared.rotation)
        prepared.timings_ms["detect"] = _since(start)
        start = time.perf_counter()
        settings = self.settings.lines
        assert settings is not None
        for quad in found.quads:
            for cell in split_cells(image, quad):
                prepared.parts += [
                    _Part(len(prepared.quads), crop.image, crop.blank_before) for crop in crops_of(image, cell, settings)
                ]
                prepared.quads.append(cell)
        prepared.timings_ms["crop"] = _since(start)
        return prepared

    def _rotation(self, image: Image.Image, found: Detection) -> Rotation:
        """How the page has to be turned. Where that is not clear, some lines are read both ways: the surer one wins."""
        candidates = self._detector.rotations(image, found)
        if len(candidates) == 1:
            return candidates[0]
        settings = self.settings.lines
        assert settings is not None
        sure: dict[Rotation, float] = {}
        for rotation in candidates:
            page, lines = turned(image, found, rotation)
            longest = sorted(lines.quads, key=lambda quad: -width(quad))[: 3 * ROTATION_LINES : 3]
            values = []
            for quad in longest:
                request = self._line_request(crops_of(page, quad, settings)[0].image)
                try:
                    values += self._model.generate(request.messages, request.max_new_tokens).logprobs
                except PageError:
                    continue
            sure[rotation] = sum(values) / len(values) if values else -math.inf
        return max(candidates, key=lambda rotation: sure[rotation])

    def _page_request(self, image: Image.Image) -> Request:
        return Request(_messages(image, self._prompt or self.settings.page_prompt), self._max_new_tokens)

    def _line_request(self, image: Image.Image) -> Request:
        settings = self.settings.lines
        assert settings is not None
        return Request(_messages(image, self._prompt or settings.prompt), self._max_new_tokens or settings.max_new_tokens)

    # What came of it

    def _page(self, prepared: _Prepared | Page) -> Page:
        if isinstance(prepared, Page):
            return prepared
        source, warnings = prepared.source, list(prepared.source.warnings)
        common: dict[str, Any] = {
            "number": source.number,
            "width": source.image.width,
            "height": source.image.height,
            "dpi": source.dpi,
            "layout": prepared.layout,
        }
        if isinstance(prepared.whole, PageError):
            return Page(**common, error=str(prepared.whole), warnings=tuple(warnings))
        start = time.perf_counter()
        if prepared.whole is not None:
            blocks = self._whole(prepared.whole, source.image.size)
            timings = prepared.whole.timings_ms
        else:
            failed = [part.outcome for part in prepared.parts if isinstance(part.outcome, PageError)]
            if failed:
                warnings.append(f"{len(failed)} of {len(prepared.parts)} parts could not be read: {failed[0]}")
            blocks = placed_back(arranged(self._lines(prepared)), prepared.rotation, source.image.size)
            timings = _sum(part.outcome.timings_ms for part in prepared.parts if isinstance(part.outcome, Reading))
        timings = {**prepared.timings_ms, **timings, "order": _since(start)}
        lines = [line for block in blocks for line in block.lines]
        confidence = page_confidence(lines)
        doubtful = confidence is not None and confidence < self._threshold
        if doubtful:
            warnings.append(f"Little of this page can be trusted: its confidence is {confidence:.2f}.")
        if any(line.cut == "repetition" for line in lines):
            warnings.append("The model began to repeat itself; the text was cut where that began.")
        return Page(
            **common,
            rotation=prepared.rotation,
            blocks=blocks,
            confidence=confidence,
            doubtful=doubtful,
            warnings=tuple(warnings),
            timings_ms={name: round(value, 3) for name, value in timings.items()},
        )

    def _lines(self, prepared: _Prepared) -> list[Line]:
        """The lines that hold text, upright, in pixels of the page as it was read."""
        lines = []
        for number, quad in enumerate(prepared.quads):
            line = self._line(quad, [part for part in prepared.parts if part.line == number])
            if line.text:
                lines.append(line)
        return lines

    def _line(self, quad: Quad, parts: Iterable[_Part]) -> Line:
        """One line, of what was read of its parts."""
        text, cut, logprobs = "", None, list[float]()
        for part in parts:
            if isinstance(part.outcome, Reading):
                piece, why = self._text(part.outcome)
                text += (" " if part.blank_before and text and piece else "") + piece.strip()
                cut = cut or why
                logprobs += part.outcome.logprobs
        text = " ".join(text.split())
        confidence = line_confidence(logprobs, self.settings.confidence) if text else None
        box, polygon = placed(quad)
        doubtful = confidence is not None and confidence < self._threshold
        return Line(text=text, box=box, polygon=polygon, confidence=confidence, doubtful=doubtful, cut=cut)

    def _text(self, reading: Reading) -> tuple[str, CutReason | None]:
        """What was read, without what the model repeated, and why it ends early."""
        if reading.finish_reason == "stop":
            return reading.text, None
        if reading.finish_reason == "repetition":  # the engine has cut it
            return reading.text, "repetition"
        keep = repetition_start(reading.token_ids)
        if keep is None:
            return reading.text, "length"
        return self._model.decode(reading.token_ids[:keep]), "repetition"

    def _whole(self, reading: Reading, size: tuple[int, int]) -> tuple[Block, ...]:
        """A page that was read in one request, as one block: where its lines stand is not known."""
        text, cut = self._text(reading)
        if not text.strip():
            return ()
        texts = text.split("\n")
        logprobs: list[list[float]] = [[] for _ in texts]
        number = 0
        for piece, value in zip(self._model.pieces(reading.token_ids), reading.logprobs, strict=True):
            logprobs[min(number, len(texts) - 1)].append(value)
            number += piece.count("\n")
        box = Box(0, 0, *size)
        lines = []
        for row, (line, values) in enumerate(zip(texts, logprobs, strict=True)):
            confidence = line_confidence(values, self.settings.confidence) if line else None
            doubtful = confidence is not None and confidence < self._threshold
            last = cut if row == len(texts) - 1 else None
            lines.append(Line(text=line, box=box, confidence=confidence, doubtful=doubtful, row=row, cut=last))
        return (Block(box=box, lines=tuple(lines)),)


def _messages(image: Image.Image, prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]


def _ahead(pages: Iterable[Any], prepare: Callable[[Any], _Prepared | Page], depth: int) -> Iterator[_Prepared | Page]:
    """Pages prepared in another thread, ``depth`` of them before they are needed; 0: in this thread, when they are."""
    if depth == 0:
        yield from map(prepare, pages)
        return
    with ThreadPoolExecutor(1, "pages") as pool:
        ready: deque[Future[_Prepared | Page]] = deque()
        try:
            for page in pages:
                ready.append(pool.submit(prepare, page))
                if len(ready) > depth:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()
        finally:
            for future in ready:
                future.cancel()


def _sum(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in timings:
        for name, value in one.items():
            if name != "total":  # from the request to its end: the waiting of one line is the reading of another
                total[name] = total.get(name, 0.0) + value
    return total


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
