"""The plan of a farm: documents are grouped into chunks, and chunks are divided into tasks, which read ranges of pages.

Chunks and plans are written once and never changed. A task and its files are identified by the number of the chunk and the
number of the task within it. The files in the output folder therefore show which tasks are finished, and files sorted by
name are in the order of the inputs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import islice

from mindnlp_ocr.cluster.on_ray import absolute
from mindnlp_ocr.documents.files import OutputNames
from mindnlp_ocr.documents.selection import PageSelection, none_selected
from mindnlp_ocr.documents.writers import FORMATS
from mindnlp_ocr.errors import PageError, SetupError, described
from mindnlp_ocr.farm.settings import FOLDER, FarmSettings
from mindnlp_ocr.farm.store import Store

CHUNK = 200  # documents that are planned together
_DOCUMENTS, _PLANS = f"{FOLDER}/documents", f"{FOLDER}/plan"


@dataclass(frozen=True)
class Document:
    """A document of a chunk.

    Attributes:
        name: name as given by the user.
        place: absolute path or URI, valid in every process of the farm.
        output: name of its output file; None for Parquet output.
        pages: number of pages.
        error: reason why it cannot be opened or has no selected page, else None.
        error_code: identifier of this error.
    """

    name: str
    place: str
    output: str | None = None
    pages: int = 0
    error: str | None = None
    error_code: str | None = None


@dataclass(frozen=True)
class Range:
    """A range of the selected pages of a document: from ``start`` up to ``stop``, exclusive, counted from 0. A document that
    cannot be opened has one empty range."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """The plan of a chunk: its documents, and the ranges of pages of every task."""

    documents: tuple[Document, ...]
    tasks: tuple[tuple[Range, ...], ...]

    def tasks_of(self, document: int) -> list[int]:
        """Return the numbers of the tasks with pages of a document."""
        return [number for number, ranges in enumerate(self.tasks) if any(item.document == document for item in ranges)]

    def encode(self) -> bytes:
        tasks = [[(item.document, item.start, item.stop) for item in ranges] for ranges in self.tasks]
        return json.dumps({"documents": [asdict(document) for document in self.documents], "tasks": tasks}).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Plan":
        plan = json.loads(content)
        documents = tuple(Document(**document) for document in plan["documents"])
        return cls(documents, tuple(tuple(Range(*item) for item in ranges) for ranges in plan["tasks"]))


# Chunks


def add_documents(store: Store, names: Iterable[str], settings: FarmSettings) -> int:
    """Add new documents to the output, in chunks. Returns the total number of chunks.

    Raises:
        SetupError: two documents would be written to one file.
    """
    chunks = len(store.names(_DOCUMENTS))
    known, outputs = set[bytes](), dict[str, str]()
    for number in range(chunks):
        for document in chunk(store, number):
            known.add(_digest(document.place))
            if document.output is not None:
                outputs[document.output] = document.place
    new = _unknown(_named(names, settings, outputs), known)
    while documents := list(islice(new, CHUNK)):
        store.write(f"{_DOCUMENTS}/{chunks:06}.json", json.dumps([asdict(document) for document in documents]).encode())
        chunks += 1
    return chunks


def chunk(store: Store, number: int) -> list[Document]:
    """Return the documents of a chunk. They have not been opened."""
    return [Document(**document) for document in json.loads(store.read(f"{_DOCUMENTS}/{number:06}.json"))]


def _named(names: Iterable[str], settings: FarmSettings, outputs: dict[str, str]) -> Iterator[Document]:
    if settings.format is None:
        for name in names:
            yield Document(name, absolute(name))
        return
    names = list(dict.fromkeys(names))  # names of output files depend on the names of all documents
    found = OutputNames(FORMATS[settings.format].suffix, list(map(_without_options, names)))
    for name in names:
        output = found.of(_without_options(name))
        document = Document(name, absolute(name), output)
        if outputs.get(output, document.place) != document.place:
            raise SetupError(
                f"{output} contains the text of {outputs[output]}, but {name} would be written to it: use another --output",
                code="output_names_collide",
            )
        yield document


def _without_options(name: str) -> str:
    """Return a name without the file system options that may follow a URI."""
    return name.partition("?")[0] if "://" in name else name


def _unknown(documents: Iterable[Document], known: set[bytes]) -> Iterator[Document]:
    for document in documents:
        if (digest := _digest(document.place)) not in known:
            known.add(digest)
            yield document


def _digest(place: str) -> bytes:
    return blake2b(place.encode(errors="surrogatepass"), digest_size=12).digest()


# Plans

Count = Callable[
    [Sequence[Document]], Iterable[int | PageError]
]  # numbers of pages, or the error of a document that cannot be opened


def plan_of(store: Store, number: int, settings: FarmSettings, count: Count) -> Plan:
    """Return the plan of a chunk. If there is none yet, it is made and stored."""
    name = f"{_PLANS}/{number:06}.json"
    if store.exists(name):
        return read_plan(store, number)
    plan = make_plan(chunk(store, number), settings, count)
    store.write(name, plan.encode())
    return plan


def read_plan(store: Store, number: int) -> Plan:
    """Read the stored plan of a chunk."""
    return Plan.decode(store.read(f"{_PLANS}/{number:06}.json"))


def make_plan(documents: Sequence[Document], settings: FarmSettings, count: Count) -> Plan:
    """Divide documents into tasks of at most ``pages_per_task`` pages: large documents are split, small ones combined."""
    selection, most = PageSelection(settings.arguments["pages"]), settings.arguments["pages_per_task"]
    opened: list[Document] = []
    tasks: list[list[Range]] = []
    room = 0
    for index, (document, found) in enumerate(zip(documents, count(documents), strict=True)):
        pages, error = (0, found) if isinstance(found, PageError) else (found, None)
        wanted = len(list(selection.of(pages)))
        if error is None and not wanted:
            error = none_selected(pages)
        opened.append(replace(document, pages=pages, **described(error)))
        start = 0
        while start < wanted or (start == 0 and not wanted):
            if room == 0:
                tasks.append([])
                room = most
            stop = min(wanted, start + room)
            tasks[-1].append(Range(index, start, stop))
            room -= max(1, stop - start)
            start = max(1, stop)
    return Plan(tuple(opened), tuple(map(tuple, tasks)))


def part_name(settings: FarmSettings, number: int, task: int) -> str:
    """Return the name of the result file of a task."""
    return f"{settings.parts}/{number:06}/{task:06}.parquet"


def parts_there(store: Store, settings: FarmSettings, number: int) -> set[int]:
    """Return the numbers of the finished tasks of a chunk."""
    return {int(name.partition(".")[0]) for name in store.names(f"{settings.parts}/{number:06}")}


def indices(plan: Plan, item: Range, settings: FarmSettings) -> list[int]:
    """Return the indices of the pages of a range, from 0."""
    wanted = list(PageSelection(settings.arguments["pages"]).of(plan.documents[item.document].pages))
    return wanted[item.start : item.stop]
