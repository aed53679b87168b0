"""Documents of the server: reading in background threads, storage within a quota, and expiry."""

import asyncio
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from mindnlp_ocr.documents.result import Page
from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.documents.settings import LayoutChoice, PresetName
from mindnlp_ocr.documents.source import Source
from mindnlp_ocr.documents.stream import Begun, DocumentStream, Ended, PageRead, TextLayer
from mindnlp_ocr.documents.writers import FORMATS, PagePicture
from mindnlp_ocr.errors import OCRError, SetupError, described
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError, BusyError
from mindnlp_ocr.server.logs import event
from mindnlp_ocr.server.metrics import Metrics

State = Literal["waiting", "reading", "done", "failed", "cancelled"]
FOLDER = re.compile(r"doc-[0-9a-f]{32}")  # folders of replicas never match: they are temporary
RETRY_SECONDS = 10.0


@dataclass(frozen=True)
class Reading:
    """Settings for reading a document."""

    pages: str | None = None
    layout: LayoutChoice = "auto"
    dpi: float = 200.0
    password: str | None = None
    text_layer: TextLayer = "ignore"
    preset: PresetName | None = None
    skip_furniture: bool = False


@dataclass(eq=False)
class Job:
    """A document and its state.

    Attributes:
        name: name given by the client; never used as a path.
        owner: name of the API key that sent it; other keys cannot access it.
        numbers: numbers of the pages that were read, in order.
    """

    id: str
    name: str
    folder: Path
    owner: str | None
    how: Reading
    size: int
    created: float
    state: State = "waiting"
    total: int | None = None
    error: str | None = None
    error_code: str | None = None
    ended: float | None = None
    numbers: list[int] = field(default_factory=list)
    unwanted: bool = False
    listeners: list[Callable[[], None]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def page(self, number: int) -> Page:
        """Return the result of a page."""
        return Page.model_validate_json((self.folder / f"{number}.json").read_bytes())

    def tell(self) -> None:
        """Notify all listeners. May be called from any thread."""
        for listener in list(self.listeners):
            listener()


class Jobs:
    """All documents of a server. Methods are called in the event loop unless stated otherwise.

    Args:
        model: a Qwen2VLModel within its ``serving()`` context.
    """

    def __init__(self, model: Any, config: ServerConfig, metrics: Callable[[], Metrics]) -> None:
        self._model, self._config, self._metrics = model, config, metrics
        self._jobs: dict[str, Job] = {}
        self._readers = threading.local()
        self._pool = ThreadPoolExecutor(config.documents_at_once, "mindnlp-ocr-documents")
        self._temporary = config.documents is None
        self._root = self._folder()

    def _folder(self) -> Path:
        if self._config.documents is None:
            return Path(tempfile.mkdtemp(prefix="mindnlp-ocr-"))
        root = self._config.documents
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in root.iterdir():  # left by an earlier process: their ids are lost
                if FOLDER.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
        except OSError as error:
            raise SetupError(
                f"--documents-dir {root} cannot be used ({error.strerror}): name another folder",
                code="documents_dir_unusable",
            ) from error
        return root

    def states(self) -> dict[str, int]:
        """Return the number of documents in each state."""
        counts = dict.fromkeys(("waiting", "reading", "done", "failed", "cancelled"), 0)
        for job in list(self._jobs.values()):
            counts[job.state] += 1
        return counts

    def get(self, job_id: str, owner: str | None) -> Job:
        """Return a document of an owner.

        Raises:
            ApiError: there is no such document, or no longer (404).
        """
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise ApiError(
                f"the document {job_id[:80]!r} does not exist: documents are deleted "
                f"{self._config.document_keep_seconds:g} s "
                "after they were read",
                404,
                code="document_not_found",
            )
        return job

    def check_room(self) -> None:
        """Check that another document may wait.

        Raises:
            BusyError: the queue is full (429).
        """
        waiting = self.states()["waiting"]
        if waiting >= self._config.documents_waiting:
            raise BusyError(
                f"{waiting} documents are waiting, but this server accepts at most {self._config.documents_waiting}: "
                "try again later",
                RETRY_SECONDS,
            )

    def add(self, content: bytes, name: str, how: Reading, owner: str | None) -> Job:
        """Store a document and queue it. Runs in a thread of a pool, because it writes a file.

        Raises:
            ApiError: the quota is exceeded.
        """
        self._make_room(len(content))
        replica = f"{self._config.replica}-" if self._config.replica else ""
        job_id = f"doc-{replica}{secrets.token_hex(16)}"
        folder = self._root / job_id
        folder.mkdir(mode=0o700)
        job = Job(job_id, name, folder, owner, how, len(content), time.time())
        job.source.write_bytes(content)
        self._jobs[job_id] = job
        self._pool.submit(self._read, job)
        event("document queued", document=job_id, bytes=len(content))
        return job

    def _make_room(self, size: int, but: Job | None = None) -> None:
        quota = self._config.document_quota_bytes
        if size > quota:
            raise ApiError(
                f"the document has {size} bytes, but this server keeps at most {quota}: send a smaller one, or start it "
                "with a higher "
                "--documents-quota-mb",
                413,
                code="request_too_large",
            )
        ended = [job for job in list(self._jobs.values()) if job.over and job is not but]
        ended.sort(key=lambda job: job.ended or 0.0)
        while sum(job.size for job in list(self._jobs.values())) + size > quota:
            if not ended:
                raise BusyError(
                    f"documents that are being read occupy all {quota} bytes of the quota: try again later, or "
                    "start it with a higher --documents-quota-mb",
                    RETRY_SECONDS,
                )
            self.remove(ended.pop(0))

    def cancel(self, job: Job) -> None:
        """Stop reading a document, at the latest after the current page. Finished pages stay available."""
        job.unwanted = True
        if job.state == "waiting":
            self._end(job, "cancelled")

    def remove(self, job: Job) -> None:
        """Remove a document and delete its files."""
        self.cancel(job)
        self._jobs.pop(job.id, None)
        if job.over:
            shutil.rmtree(job.folder, ignore_errors=True)  # a document that is being read is deleted after its current page

    async def expire(self) -> None:
        """Remove expired documents periodically. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(30.0, self._config.document_keep_seconds / 4))
            oldest = time.time() - self._config.document_keep_seconds
            for job in list(self._jobs.values()):
                if job.ended is not None and job.ended < oldest:
                    self.remove(job)

    def close(self, seconds: float) -> None:
        """Finish documents for up to ``seconds``, cancel the others, and delete all files. Runs in a thread."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(job.state in ("waiting", "reading") for job in list(self._jobs.values())):
            time.sleep(0.05)
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._pool.shutdown()
        for job in list(self._jobs.values()):
            shutil.rmtree(job.folder, ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self._root, ignore_errors=True)

    # In the reading threads

    def _reader(self, how: Reading) -> Any:
        """Return the reader of this thread, since line detectors are not shared. The server's preset is the default."""
        from mindnlp_ocr.documents.reader import DocumentReader

        readers: dict[Any, DocumentReader] = self._readers.__dict__.setdefault("made", {})
        preset = how.preset or self._config.preset
        key = how.layout, preset, how.skip_furniture
        if key not in readers:
            readers[key] = DocumentReader(self._model, how.layout, preset=preset, skip_furniture=how.skip_furniture)
        return readers[key]

    def _read(self, job: Job) -> None:
        try:
            if job.unwanted:
                return
            job.state = "reading"
            job.tell()
            self._read_pages(job)
        except OCRError as error:
            self._end(job, "failed", **described(error))
        except Exception as error:
            event("document failed", 40, error, document=job.id)
            self._end(job, "failed", "the document could not be read: look up its id in the server's log", "internal_error")
        finally:
            if job.id not in self._jobs:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _read_pages(self, job: Job) -> None:
        how, started = job.how, time.monotonic()
        stream = DocumentStream(self._reader(how), PageSelection(how.pages), how.dpi, how.password, how.text_layer)
        events = stream.read([str(job.source)])
        try:
            for happened in events:
                if job.unwanted:
                    self._end(job, "cancelled")
                    return
                if isinstance(happened, Begun):
                    self._begin(job, happened.pages)
                elif isinstance(happened, PageRead):
                    self._keep(job, happened.page)
                elif isinstance(happened, Ended):
                    error = happened.error and happened.error.replace(str(job.source), job.name)
                    self._end(job, "failed" if error else "done", error, happened.error_code)
                    return
                if time.monotonic() - started > self._config.document_seconds:
                    raise ApiError(
                        f"the document was not read in {self._config.document_seconds:g} s: send fewer pages, or start the "
                        "server with a higher --document-seconds",
                        code="document_timeout",
                    )
        finally:
            with suppress(AttributeError):
                events.close()  # type: ignore[attr-defined]

    def _begin(self, job: Job, pages: int) -> None:
        job.total = pages
        if pages > self._config.document_pages:
            raise ApiError(
                f"the document has {pages} pages, but this server reads at most {self._config.document_pages} per "
                "document: choose some with "
                "pages, or start it with a higher --document-pages",
                code="too_many_pages",
            )
        job.tell()

    def _keep(self, job: Job, page: Page) -> None:
        if page.error:
            page = page.model_copy(update={"error": page.error.replace(str(job.source), job.name)})
        text = page.model_dump_json().encode()
        self._make_room(len(text), job)
        (job.folder / f"{page.number}.json").write_bytes(text)
        job.size += len(text)
        job.numbers.append(page.number)
        self._metrics().page(page.confidence, page.error is not None)
        job.tell()

    def _end(self, job: Job, state: State, error: str | None = None, error_code: str | None = None) -> None:
        if job.over:
            return
        job.error, job.error_code, job.ended, job.state = error, error_code, time.time(), state
        event("document ended", document=job.id, state=state, pages=len(job.numbers))
        job.tell()

    # In threads of a pool

    def written(self, job: Job, format_name: str) -> Path:
        """Write a finished document in a format, unless this was done before. Returns the file.

        Raises:
            ApiError: the quota is exceeded.
        """
        kind = FORMATS[format_name]
        path = job.folder / f"written{kind.suffix}"
        if path.exists():
            return path
        part = path.with_name(f"{secrets.token_hex(8)}.part")
        source = Source(str(job.source), job.how.dpi, job.how.password) if job.numbers else None
        try:
            with part.open("wb") as stream, kind(stream) as writer:
                writer.begin(job.name)
                for number in job.numbers:
                    assert source is not None
                    page = job.page(number)
                    writer.page(page, _picture(source, number, page.dpi, job.how.password))
                writer.end(job.error, job.error_code)
            size = part.stat().st_size
            self._make_room(size, job)
            part.replace(path)
            job.size += size
        finally:
            part.unlink(missing_ok=True)
            if source is not None:
                source.close()
        return path


def _picture(source: Source, number: int, dpi: float | None, password: str | None) -> PagePicture:
    index = number - 1
    return PagePicture(
        lambda: source.page(index).image, dpi, source.content, index if source.pdf is not None else None, password
    )


def picture(job: Job, number: int) -> bytes:
    """Return a page as a JPEG file, in the resolution to which the positions of its lines refer. Runs in a thread of a
    pool."""
    source, file = Source(str(job.source), job.how.dpi, job.how.password), BytesIO()
    try:
        source.page(number - 1).image.save(file, "JPEG", quality=85)
    finally:
        source.close()
    return file.getvalue()
