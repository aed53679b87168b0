"""Assembly of a document's output file from the results of its tasks."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, BinaryIO, cast

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.source import Source
from mindnlp_ocr.documents.writers import FORMATS, PagePicture
from mindnlp_ocr.farm.opening import opened
from mindnlp_ocr.farm.parts import decode
from mindnlp_ocr.farm.plan import Document, Plan, part_name, parts_there
from mindnlp_ocr.farm.settings import FarmSettings
from mindnlp_ocr.farm.store import Store

IN_MEMORY = 16 << 20  # bytes; larger files are assembled on the disk


def wanting(store: Store, settings: FarmSettings, number: int, plan: Plan) -> list[int]:
    """Return the indices of documents of a chunk whose pages have all been read, but whose file does not exist."""
    if settings.format is None:
        return []
    there = parts_there(store, settings, number)
    return [
        index
        for index, document in enumerate(plan.documents)
        if document.error is None and there.issuperset(plan.tasks_of(index)) and not store.exists(document.output or "")
    ]


def assemble(store: Store, settings: FarmSettings, number: int, plan: Plan, index: int) -> None:
    """Write the output file of a document, with the same content as ``mindnlp-ocr --output-dir``."""
    document = plan.documents[index]
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file, ExitStack() as sources:
        writer = FORMATS[settings.format or ""](cast(BinaryIO, file))
        source: Source | None = None
        writer.begin(document.name)
        for page in _pages(store, settings, number, plan, index):
            if settings.format == "pdf" and source is None:  # only PDF output contains the image of the page
                source = sources.enter_context(opened(document.name, document.place, settings))
            writer.page(page, None if source is None else _picture(source, page, settings))
        writer.end(None)
        writer.close()
        store.copy_in(_output(document), cast(BinaryIO, file))


def _pages(store: Store, settings: FarmSettings, number: int, plan: Plan, index: int) -> Iterator[Page]:
    for task in plan.tasks_of(index):
        rows = decode(store.read(part_name(settings, number, task)))
        for item in plan.tasks[task]:
            own = islice(rows, max(1, item.stop - item.start))
            yield from (row.page for row in own if item.document == index and row.page is not None)


def _output(document: Document) -> str:
    assert document.output is not None
    return document.output


def _picture(source: Source, page: Page, settings: FarmSettings) -> PagePicture:
    index = page.number - 1
    pdf_index = index if source.pdf is not None else None
    password: Any = settings.arguments["password"]
    return PagePicture(lambda: source.page(index).image, page.dpi, source.content, pdf_index, password)
