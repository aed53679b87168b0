"""Reading of pages: detection of lines or blocks, batched requests to the model, and reading order."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from PIL import Image

from mindnlp_ocr.documents import presets
from mindnlp_ocr.documents.ahead import added, ahead, since
from mindnlp_ocr.documents.confidence import page_confidence
from mindnlp_ocr.documents.detector import LineDetector
from mindnlp_ocr.documents.line_pages import FoundLines, LinePages
from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.readings import Part, Readings
from mindnlp_ocr.documents.regions import blocks_of, blocks_of_lines
from mindnlp_ocr.documents.result import FURNITURE, Block, Box, Layout, Line, Page, Rotation
from mindnlp_ocr.documents.settings import LayoutChoice
from mindnlp_ocr.documents.source import SourcePage
from mindnlp_ocr.documents.two_steps import TwoSteps, inserted, uncovered
from mindnlp_ocr.documents.whole_pages import WholePages
from mindnlp_ocr.engine.generate import Reading
from mindnlp_ocr.errors import PageError, SetupError, described
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel
from mindnlp_ocr.models.requests import Request

AHEAD = 2  # number of pages that are prepared on the host while an NPU reads others; not used on a CPU
PAGES_AT_ONCE = 2  # number of pages whose blocks are read concurrently, since the last blocks of a page leave slots free

Given = SourcePage | Page | Callable[[], SourcePage | Page]


@dataclass
class _Prepared:
    """A page that is being read, with its requests and their outcomes."""

    source: SourcePage
    lines: FoundLines = field(default_factory=FoundLines)
    whole: Reading | PageError | None = None  # outcome, if the page is read in one request
    layout: Layout = "lines"
    open_requests: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)


class DocumentReader:
    """Reads pages with a model, as its checkpoint, a preset or the caller specifies.

    Args:
        model: the model; the pages of all callers share its slots.
        layout: "lines": detect the lines and read each line; "page": read a page in one request; "model": the model detects
            the blocks of a page, and then each block or each line is read, as the settings say; "auto": the layout of the
            settings.
        prompt: prompt for a whole page or for every line; by default, the prompt of the settings.
        batch_size: number of concurrent requests; by default, the number of slots.
        max_new_tokens: maximum number of new tokens of a request.
        min_confidence: lines with a lower confidence are doubtful; by default, the threshold of the settings.
        threads: number of CPU threads of the line detector.
        preset: name or YAML file of the settings; by default, what the checkpoint declares, or the preset for its name.
        skip_furniture: whether to omit page headers, footers, page numbers and marginal text.

    Attributes:
        settings: how the checkpoint, or the preset, has pages read.
        finds_blocks: whether the model finds the blocks of pages, in requests that come from several threads.

    Raises:
        SetupError: the settings cannot be used or do not support the requested layout, or a package is missing.
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
        preset: str | None = None,
        skip_furniture: bool = False,
    ) -> None:
        self._model = model
        with model.files() as folder:
            self.settings = presets.settings_of(folder, model.checkpoint_path, preset)
        if layout == "lines" and self.settings.lines is None:
            raise SetupError(
                "--layout lines was requested, but the checkpoint does not declare how it reads lines: use --layout page, "
                "or add document_config.json to its folder",
                code="lines_unsupported",
            )
        if layout == "model" and self.settings.model_layout is None:
            raise SetupError(
                "--layout model was requested, but the checkpoint does not declare that it finds blocks: use --preset "
                "mineru for a checkpoint that was trained as MinerU2.5, or another --layout",
                code="blocks_unsupported",
            )
        self._batch_size = batch_size or model.slots
        self._max_new_tokens, self._layout = max_new_tokens, layout
        self._skip_furniture = skip_furniture
        confidence = self.settings.confidence
        threshold = min_confidence if min_confidence is not None else confidence.threshold if confidence else 0.0
        self._readings = Readings(model, self.settings, threshold)
        self._whole_pages = WholePages(model, self.settings, self._readings, prompt, max_new_tokens)
        self._detector = LineDetector(threads)
        self._line_pages = self.settings.lines and LinePages(
            model, self.settings.lines, self._readings, self._detector, prompt, max_new_tokens, self._batch_size
        )
        self.finds_blocks = "model" in (layout, self.settings.layout if layout == "auto" else None)
        if self.finds_blocks:
            self._two_steps(lambda: True)  # raises errors before a page is opened

    def layout_of(self, width: int, height: int) -> Layout:
        """Return the layout for a page of this size: "lines", "page" or "model"."""
        if self._layout != "auto":
            return self._layout
        small = width * height <= self.settings.page_max_pixels
        return "page" if small else self.settings.layout

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
            dpi: resolution of the image, if it is known.
            on_text: called with each piece of text while a page is read in one request. With other layouts, and if the page
                may be read again by lines, it is called once.
        """
        source = SourcePage(number, image, dpi)
        whole = self.layout_of(*image.size) == "page" and self._whole_pages.streams and not self._reads_again
        if on_text is not None and whole:
            prepared = _Prepared(source, layout="page")
            try:
                request = self._whole_pages.request(image)
                prepared.whole = self._model.generate(request.messages, request.max_new_tokens, on_text)
            except PageError as error:
                prepared.whole = error
            return self._page(prepared)
        (page,) = self.read_pages([source])
        if on_text is not None:
            on_text(page.text)
        return page

    @property
    def _reads_again(self) -> bool:
        """Whether pages that are read whole with a low confidence are read again by lines."""
        return self._layout == "auto" and self._line_pages is not None and self.settings.page_min_confidence > 0

    def read_lines(self, image: Image.Image, boxes: Sequence[Box], margin: float | None = None) -> list[Line]:
        """Read lines at known positions, without line detection.

        Args:
            image: the RGB page.
            boxes: upright rectangles around the lines.
            margin: margin around each box, as a share of its height; by default, the margin of the settings.

        Returns:
            One line for each box, in order. The text of a line is empty if nothing was read.

        Raises:
            SetupError: the checkpoint does not read lines.
            PageError: a line cannot be read.
        """
        if not self._line_pages:
            raise SetupError(
                "lines at known positions were requested, but the checkpoint does not declare how it reads lines: add "
                "document_config.json to its folder",
                code="lines_unsupported",
            )
        quads = []
        for box in boxes:
            left, right = (min(max(0.0, x), image.width) for x in (box.left, box.right))
            top, bottom = (min(max(0.0, y), image.height) for y in (box.top, box.bottom))
            quads.append(np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64))
        return self._line_pages.read_at(image, quads, margin)

    def read_pages(self, pages: Iterable[Given]) -> Iterator[Page]:
        """Read many pages, in order. Requests of the following pages fill slots that become free at the end of a page.

        Args:
            pages: opened pages, or functions that open them when they are needed. A ``Page`` needs no reading and is passed
                through.
        """
        return self._read_in_two_steps(pages) if self.finds_blocks else self._read_together(pages)

    def _read_together(self, pages: Iterable[Given], layout: Layout | None = None) -> Iterator[Page]:
        """Read pages whose requests do not depend on answers. ``layout`` replaces the chosen layout."""
        waiting: deque[_Prepared | Page] = deque()
        owners: dict[int, tuple[_Prepared, Part | None]] = {}

        def prepare(page: Given) -> _Prepared | Page:
            return self._prepare(page, layout)

        def requests() -> Iterator[Request]:
            count = 0
            for prepared in ahead(pages, prepare, AHEAD if self._model.device.leaves_host_free else 0):
                waiting.append(prepared)
                if isinstance(prepared, Page):
                    continue
                if prepared.layout == "page":
                    owners[count] = prepared, None
                    prepared.open_requests = 1
                    count += 1
                    yield self._whole_pages.request(prepared.source.image)
                prepared.open_requests += len(prepared.lines.parts)
                for part in prepared.lines.parts:
                    assert self._line_pages
                    owners[count] = prepared, part
                    count += 1
                    yield self._line_pages.request(part.image)

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

    # Layout "model": detect the blocks, then read them

    def _two_steps(self, wanted: Callable[[], bool]) -> TwoSteps:
        settings = self.settings.model_layout
        assert settings is not None
        return TwoSteps(self._model, settings, self._batch_size, self._max_new_tokens, wanted)

    def _read_in_two_steps(self, pages: Iterable[Given]) -> Iterator[Page]:
        """Read pages whose requests depend on earlier answers: each page in its own thread, which waits for the engine."""
        stopped = Event()
        steps = self._two_steps(lambda: not stopped.is_set())

        def opened() -> Iterator[tuple[SourcePage | Page, float | None]]:
            for page in pages:
                start = time.perf_counter()
                yield (page(), since(start)) if callable(page) else (page, None)

        def read(entry: tuple[SourcePage | Page, float | None]) -> Page:
            page, opening = entry
            if isinstance(page, Page):
                return page
            if self.layout_of(*page.image.size) != "model":
                return next(self._read_together([page]))
            by_lines = self.settings.model_layout is not None and self.settings.model_layout.read_by == "lines"
            page_of = self._page_of_lines if by_lines else self._page_of_blocks
            try:
                return page_of(page, steps, {} if opening is None else {"open": opening})
            except PageError as error:
                return self._finished(page, "model", error=error)

        read_pages = ahead(opened(), read, PAGES_AT_ONCE - 1, PAGES_AT_ONCE)
        try:
            for page in read_pages:  # noqa: UP028 - with `yield from`, closing this generator would wait for all pages
                yield page
        finally:
            stopped.set()
            read_pages.close()

    def _page_of_blocks(self, source: SourcePage, steps: TwoSteps, timings: dict[str, float]) -> Page:
        """Read a page whose blocks the model detects.

        Lines outside all blocks are read separately. If there are no blocks, the page is read by its lines or as a whole.
        """
        image, lines, settings = source.image, self._line_pages, self.settings.model_layout
        found = steps.read(image)
        blocks, warnings = blocks_of(found.blocks, image.size, self._readings.estimate), list(found.warnings)
        if not any(block.lines for block in blocks) and (not lines or not found.blocks):
            page = next(self._read_together([source], "lines" if lines else "page"))
            if page.lines or page.error:
                how = "line by line" if lines else "in one request"
                warnings.append(f"The model found no block with text; the page was read {how} instead.")
            return page.model_copy(update={"warnings": (*warnings, *page.warnings)})
        if lines and settings is not None and settings.fill_gaps:
            start = time.perf_counter()
            lines_of_page = self._detector.detect(image)
            timings = {**timings, "detect": since(start)}
            sure = [quad for quad, sure in zip(*lines_of_page, strict=True) if sure]
            gaps = uncovered(sure, found.covered, image.size)
            more = arranged([line for line in lines.read_at(image, gaps) if line.text])
            if more:
                count = sum(len(block.lines) for block in more)
                warnings.append(f"{count} lines outside the model's blocks were read separately.")
                blocks = inserted(blocks, more)
        timings = {**timings, **found.timings_ms}
        return self._finished(source, "model", blocks, 0, warnings, timings)

    def _page_of_lines(self, source: SourcePage, steps: TwoSteps, timings: dict[str, float]) -> Page:
        """Read a page by its lines, which are put into the blocks that the model detects."""
        assert self._line_pages and self.settings.model_layout
        image = source.image
        lines = self._line_pages.read(image)
        blocks, reading, warnings = self._line_pages.blocks(lines, image.size)
        timings = added([{**timings, **lines.timings_ms}, reading])
        if lines.rotation:
            warnings.append("The page is rotated; its blocks were composed from its lines instead.")
            return self._finished(source, "model", blocks, lines.rotation, warnings, timings)
        try:
            found = steps.detect(image)
        except PageError as error:
            warnings.append(f"The blocks of the page were composed from its lines instead: {error}")
            return self._finished(source, "model", blocks, 0, warnings, timings)
        of_model, outside = blocks_of_lines(found.blocks, [line for block in blocks for line in block.lines], image.size)
        if self.settings.model_layout.table_structure:
            of_model = steps.add_cells(image, found, of_model)
        warnings += found.warnings
        if of_model:
            blocks = inserted(of_model, arranged(outside)) if self.settings.model_layout.fill_gaps else of_model
        elif blocks:
            warnings.append("The model found no block with text; the blocks were composed from the lines instead.")
        return self._finished(source, "model", blocks, 0, warnings, added([timings, found.timings_ms]))

    # Preparing pages

    def _prepare(self, page: Given, layout: Layout | None) -> _Prepared | Page:
        start = time.perf_counter()
        opened = page() if callable(page) else page
        if isinstance(opened, Page):
            return opened
        prepared = _Prepared(opened, layout=layout or self.layout_of(*opened.image.size))
        if callable(page):
            prepared.timings_ms["open"] = since(start)
        if prepared.layout != "page":
            assert self._line_pages
            prepared.lines = self._line_pages.find(opened.image)
        return prepared

    # Assembling results

    def _page(self, prepared: _Prepared | Page) -> Page:
        if isinstance(prepared, Page):
            return prepared
        source = prepared.source
        if isinstance(prepared.whole, PageError):
            return self._finished(source, prepared.layout, error=prepared.whole)
        if self._line_pages:
            self._line_pages.read_again(prepared.lines.parts)
        start = time.perf_counter()
        if prepared.whole is not None:
            whole = self._whole_pages.read(prepared.whole, source.image)
            blocks, rotation, timings, warnings = whole.blocks, whole.rotation, whole.timings_ms, list(whole.warnings)
        else:
            assert self._line_pages
            rotation = prepared.lines.rotation
            blocks, timings, warnings = self._line_pages.blocks(prepared.lines, source.image.size)
        timings = {**prepared.timings_ms, **prepared.lines.timings_ms, **timings, "order": since(start)}
        page = self._finished(source, prepared.layout, blocks, rotation, warnings, timings)
        if prepared.whole is not None and self._reads_again and _confidence(page) < self.settings.page_min_confidence:
            by_lines = next(self._read_together([source], "lines"))
            if by_lines.confidence is not None and by_lines.confidence > _confidence(page):
                return by_lines.model_copy(update={"timings_ms": added([page.timings_ms, by_lines.timings_ms])})
        return page

    def _finished(
        self,
        source: SourcePage,
        layout: Layout,
        blocks: tuple[Block, ...] = (),
        rotation: Rotation = 0,
        warnings: Sequence[str] = (),
        timings: dict[str, float] | None = None,
        error: PageError | None = None,
    ) -> Page:
        """Create the result of a page."""
        if self._skip_furniture:
            blocks = tuple(block for block in blocks if block.kind not in FURNITURE)
        lines = [line for block in blocks for line in block.lines]
        confidence = page_confidence(lines)
        doubtful = confidence is not None and confidence < self._readings.threshold
        said = [*source.warnings, *warnings]
        if doubtful:
            said.append(f"The text of this page is doubtful: its confidence is {confidence:.2f}.")
        if any(line.cut == "repetition" for line in lines):
            said.append("The model began to repeat itself; the text was truncated at that point.")
        return Page(
            number=source.number,
            width=source.image.width,
            height=source.image.height,
            dpi=source.dpi,
            layout=layout,
            rotation=rotation,
            blocks=blocks,
            confidence=confidence,
            doubtful=doubtful,
            warnings=tuple(said),
            timings_ms={name: round(value, 3) for name, value in (timings or {}).items()},
            **described(error),
        )


def _confidence(page: Page) -> float:
    """Return the confidence of a page; a page without text is certain to have none."""
    return 1.0 if page.confidence is None else page.confidence
