"""Documents in chunks, and chunks in tasks: ranges of pages that are read together.

Both are written once and then never changed. A task is known by the number of its chunk and its number in that, and so are
its files: whoever looks into the output folder sees what has been read, and files sorted by their names are in the order of
the inputs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import islice

from mindnlp_ocr.cluster.on_ray import absolute
from mindnlp_ocr.documents.files import OutputNames
from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.documents.writers import FORMATS
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.farm.settings import FOLDER, FarmSettings
from mindnlp_ocr.farm.store import Store

CHUNK = 200  # documents that are planned together
_DOCUMENTS, _PLANS = f"{FOLDER}/documents", f"{FOLDER}/plan"


@dataclass(frozen=True)
class Document:
    """One document of a chunk.

    Attributes:
        name: as it was given.
        place: where every process of the farm finds it, an absolute path or a URI.
        output: the name of its file; None where pages go to Parquet.
        pages: how many it has.
        error: why it cannot be opened, or has nothing to be read.
    """

    name: str
    place: str
    output: str | None = None
    pages: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Range:
    """Some of the wanted pages of a document: those from ``start`` up to ``stop``, counted from 0. None of a document
    that cannot be opened, which has one empty range."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """A chunk: its documents, and the ranges of every task."""

    documents: tuple[Document, ...]
    tasks: tuple[tuple[Range, ...], ...]

    def tasks_of(self, document: int) -> list[int]:
        """The numbers of the tasks that hold pages of a document."""
        return [number for number, ranges in enumerate(self.tasks) if any(item.document == document for item in ranges)]

    def encode(self) -> bytes:
        tasks = [[(item.document, item.start, item.stop) for item in ranges] for ranges in self.tasks]
        return json.dumps({"documents": [asdict(document) for document in self.documents], "tasks": tasks}).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Plan":
        plan = json.loads(content)
        documents = tuple(Document(**document) for document in plan["documents"])
        return cls(documents, tuple(tuple(Range(*item) for item in ranges) for ranges in plan["tasks"]))


# Which documents there are


def add_documents(store: Store, names: Iterable[str], settings: FarmSettings) -> int:
    """Note the documents that are not known yet, in chunks. Returns how many chunks there are.

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
    """The documents of a chunk, not opened yet."""
    return [Document(**document) for document in json.loads(store.read(f"{_DOCUMENTS}/{number:06}.json"))]


def _named(names: Iterable[str], settings: FarmSettings, outputs: dict[str, str]) -> Iterator[Document]:
    if settings.format is None:
        for name in names:
            yield Document(name, absolute(name))
        return
    names = list(dict.fromkeys(names))  # a file name depends on those of all others
    found = OutputNames(FORMATS[settings.format].suffix, list(map(_without_options, names)))
    for name in names:
        output = found.of(_without_options(name))
        document = Document(name, absolute(name), output)
        if outputs.get(output, document.place) != document.place:
            raise SetupError(
                f"{output} holds the text of {outputs[output]}, and {name} would be written to it: give another --output"
            )
        yield document


def _without_options(name: str) -> str:
    """A name without the options of a file system that may follow a URI."""
    return name.partition("?")[0] if "://" in name else name


def _unknown(documents: Iterable[Document], known: set[bytes]) -> Iterator[Document]:
    for document in documents:
        if (digest := _digest(document.place)) not in known:
            known.add(digest)
            yield document


def _digest(place: str) -> bytes:
    return blake2b(place.encode(errors="surrogatepass"), digest_size=12).digest()


# What is to be read of them

Count = Callable[[Sequence[Document]], Iterable[int | str]]  # pages of documents, or why one cannot be opened


def plan_of(store: Store, number: int, settings: FarmSettings, count: Count) -> Plan:
    """The plan of a chunk; made, and kept, where there is none yet."""
    name = f"{_PLANS}/{number:06}.json"
    if store.exists(name):
        return read_plan(store, number)
    plan = make_plan(chunk(store, number), settings, count)
    store.write(name, plan.encode())
    return plan


def read_plan(store: Store, number: int) -> Plan:
    """The plan of a chunk, which is there."""
    return Plan.decode(store.read(f"{_PLANS}/{number:06}.json"))


def make_plan(documents: Sequence[Document], settings: FarmSettings, count: Count) -> Plan:
    """Tasks of no more than ``pages_per_task`` pages: parts of large documents, several small ones together."""
    selection, most = PageSelection(settings.arguments["pages"]), settings.arguments["pages_per_task"]
    opened: list[Document] = []
    tasks: list[list[Range]] = []
    room = 0
    for index, (document, found) in enumerate(zip(documents, count(documents), strict=True)):
        pages, error = (0, found) if isinstance(found, str) else (found, None)
        wanted = len(list(selection.of(pages)))
        if error is None and not wanted:
            error = f"it has {pages} pages, none of which is selected: change --pages"
        opened.append(replace(document, pages=pages, error=error))
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
    """The file of what was read of a task."""
    return f"{settings.parts}/{number:06}/{task:06}.parquet"


def parts_there(store: Store, settings: FarmSettings, number: int) -> set[int]:
    """The tasks of a chunk that have been read."""
    return {int(name.partition(".")[0]) for name in store.names(f"{settings.parts}/{number:06}")}


def indices(plan: Plan, item: Range, settings: FarmSettings) -> list[int]:
    """The pages of a range, from 0."""
    wanted = list(PageSelection(settings.arguments["pages"]).of(plan.documents[item.document].pages))
    return wanted[item.start : item.stop]
