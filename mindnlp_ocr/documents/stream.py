"""Reading of many documents with one reader: their pages share slots, and an error affects only its own document."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mindnlp_ocr.documents.order import arranged
from mindnlp_ocr.documents.pdf import DEFAULT_DPI
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Document, Page
from mindnlp_ocr.documents.selection import PageSelection, none_selected
from mindnlp_ocr.documents.source import STANDARD_INPUT, Source, SourcePage
from mindnlp_ocr.errors import PageError, described

TextLayer = Literal["ignore", "prefer", "only"]


@dataclass(frozen=True)
class Begun:
    """A document was opened, of which ``pages`` pages follow."""

    name: str
    pages: int


@dataclass(frozen=True)
class PageRead:
    """A page was read or has an error; ``source`` stays open until the document ends."""

    name: str
    source: Source
    page: Page


@dataclass(frozen=True)
class Ended:
    """A document ended after its last page, or could not be opened; ``error`` contains the reason, and ``error_code`` its
    identifier."""

    name: str
    error: str | None = None
    error_code: str | None = None


Event = Begun | PageRead | Ended


class DocumentStream:
    """Opens documents, and reads their pages in order.

    Args:
        reader: the reader of the pages.
        pages: the selected pages of every document.
        dpi: resolution at which the pages of a PDF are rendered.
        password: password of encrypted PDFs.
        text_layer: "ignore" the text layer of PDFs, "prefer" it if a page has one, or use "only" the text layer.
    """

    def __init__(
        self,
        reader: DocumentReader,
        pages: PageSelection | None = None,
        dpi: float = DEFAULT_DPI,
        password: str | None = None,
        text_layer: TextLayer = "ignore",
    ) -> None:
        self._reader, self._selection = reader, pages or PageSelection()
        self._dpi, self._password, self._text_layer = dpi, password, text_layer

    def read(self, names: Iterable[str]) -> Iterator[Event]:
        """Read documents in order, and yield the events of each: its beginning, its pages and its end."""
        plan: deque[Begun | Ended | tuple[str, Source]] = deque()
        open_sources: list[Source] = []

        def pages() -> Iterator[Callable[[], SourcePage | Page]]:
            for name in names:
                try:
                    source = Source(name, self._dpi, self._password)
                except PageError as error:
                    plan.extend((Begun(name, 0), Ended(name, **described(error))))
                    continue
                open_sources.append(source)
                wanted = list(self._selection.of(source.pages))
                plan.append(Begun(name, len(wanted)))
                for index in wanted:
                    plan.append((name, source))
                    yield self._opener(source, index)
                plan.append(Ended(name, **described(None if wanted else none_selected(source.pages))))

        def until_page() -> Iterator[Event]:
            while plan and isinstance(event := plan[0], Begun | Ended):
                plan.popleft()
                if isinstance(event, Ended) and open_sources and open_sources[0].name == event.name:
                    open_sources.pop(0).close()
                yield event

        try:
            for page in self._reader.read_pages(pages()):
                yield from until_page()
                name, source = plan.popleft()  # type: ignore[misc]
                yield PageRead(name, source, page)
                yield from until_page()
            yield from until_page()
        finally:
            for source in open_sources:
                source.close()

    def whole_page(self, name: str) -> SourcePage | None:
        """Open the only page of an image that is read in one request; return None for all other documents."""
        if name == STANDARD_INPUT:
            return None
        try:
            source = Source(name, self._dpi, self._password)
            if source.pdf is not None or source.pages != 1 or list(self._selection.of(1)) != [0]:
                source.close()
                return None
            return source.page(0) if self._reader.layout_of(*source.size) == "page" else None
        except PageError:
            return None  # the error occurs again in ``read``, which reports it

    def document(self, name: str) -> Document:
        """Read one document."""
        pages, end = [], Ended(name)
        for event in self.read([name]):
            if isinstance(event, PageRead):
                pages.append(event.page)
            elif isinstance(event, Ended):
                end = event
        return Document(source=name, pages=tuple(pages), error=end.error, error_code=end.error_code)

    def _opener(self, source: Source, index: int) -> Callable[[], SourcePage | Page]:
        return partial(open_page, source, index, self._text_layer)


def open_page(source: Source, index: int, text_layer: TextLayer = "ignore") -> SourcePage | Page:
    """Open a page, or return its result if it cannot be opened or its text layer is used.

    Args:
        index: index of the page, from 0.
    """
    try:
        page = source.page(index, text_layer != "ignore")
    except PageError as error:
        return Page(number=index + 1, **described(error))
    if text_layer == "ignore" or (text_layer == "prefer" and not page.text_layer):
        return page
    return Page(
        number=page.number,
        width=page.image.width,
        height=page.image.height,
        dpi=page.dpi,
        layout="text-layer",
        blocks=arranged(page.text_layer),
        warnings=page.warnings if page.text_layer else (*page.warnings, "The page has no text layer."),
    )
