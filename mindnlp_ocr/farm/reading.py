"""The reader of an actor. It imports MindSpore, so this module is imported only when a model is loaded."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.source import Source, SourcePage
from mindnlp_ocr.documents.stream import open_page
from mindnlp_ocr.errors import PageError, described
from mindnlp_ocr.farm.opening import opened
from mindnlp_ocr.farm.settings import FarmSettings, Wanted


class PageReader:
    """Reads ranges of pages with one model. Lines of all pages are batched together.

    Raises:
        SetupError: the model or the device cannot be used.
    """

    def __init__(self, settings: FarmSettings) -> None:
        from mindnlp_ocr.opening import load_model, new_reader

        arguments = settings.namespace()
        self._settings = settings
        self._reader: Any = new_reader(load_model(arguments), arguments)

    @property
    def finds_blocks(self) -> bool:
        """Whether the model itself finds the blocks of pages, with requests from several threads."""
        return bool(self._reader.finds_blocks)

    def read(self, wanted: Sequence[Wanted]) -> Iterator[Page]:
        """Yield every page in the given order. Pages that cannot be read have an error."""
        owners: deque[_Document] = deque()  # the documents of outstanding pages

        def pages() -> Iterator[Callable[[], SourcePage | Page]]:
            for name, place, indices in wanted:
                document = _Document(name, place, self._settings)
                for index in indices:
                    owners.append(document)
                    yield document.opener(index)

        try:
            for page in self._reader.read_pages(pages()):
                document = owners.popleft()
                if not owners or owners[0] is not document:
                    document.close()
                yield page
        finally:
            for document in owners:
                document.close()


class _Document:
    """A document that is opened when its first page is needed."""

    def __init__(self, name: str, place: str, settings: FarmSettings) -> None:
        self._name, self._place, self._settings = name, place, settings
        self._open = ExitStack()
        self._source: Source | None = None
        self._error: PageError | None = None

    def opener(self, index: int) -> Callable[[], SourcePage | Page]:
        """Return a function that opens a page."""

        def page() -> SourcePage | Page:
            if self._source is None and self._error is None:
                try:
                    self._source = self._open.enter_context(opened(self._name, self._place, self._settings))
                except PageError as error:
                    self._error = error
            if self._source is None:
                return Page(number=index + 1, **described(self._error))
            return open_page(self._source, index, self._settings.arguments["text_layer"])

        return page

    def close(self) -> None:
        """Close the document. Opening a further page opens it again."""
        self._open.close()
        self._source = None
