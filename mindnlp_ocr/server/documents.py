"""``/v1/documents``: whole documents, their pages as they are read, and files in every output format."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from mindnlp_ocr.documents.schema import PageResult
from mindnlp_ocr.documents.selection import PageSelection
from mindnlp_ocr.documents.settings import LayoutChoice, PresetName
from mindnlp_ocr.documents.stream import TextLayer
from mindnlp_ocr.documents.writers import FORMATS
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.server import images
from mindnlp_ocr.server.chat import drain, parsed
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError, of_engine
from mindnlp_ocr.server.jobs import Job, Jobs, Reading, picture
from mindnlp_ocr.server.sse import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, event_json, event_text

Format = Literal["text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "pdf"]
PDF_HEAD = 1024
TYPES = {
    "text": "text/plain; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "hocr": "text/html; charset=utf-8",
    "alto": "application/xml",
    "pdf": "application/pdf",
}
# A file that a document became is no page of ours: no script in it runs in our name.
INERT = {"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "no-store"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class DocumentRequest(BaseModel):
    """``POST /v1/documents``, as JSON; as a form, ``file`` holds the document.

    Attributes:
        document: the file in base64, or as a data URL.
        name: how the file is called in answers.
        pages: which pages to read, such as 1-3,7.
        preset: how pages are read; null: as the server was started.
        skip_furniture: leave out page headers, footers, page numbers and marginal text, where the layout tells them.
        stream: answer with events, a page each, as they are read.
        format: answer with the document in this format when it has been read.
    """

    model_config = ConfigDict(extra="forbid")

    document: str
    name: str = Field(default="document", max_length=255)
    pages: str | None = Field(default=None, max_length=200)
    layout: LayoutChoice = "auto"
    dpi: float = Field(default=200.0, ge=24, le=600)
    password: str | None = Field(default=None, max_length=255)
    text_layer: TextLayer = "ignore"
    preset: PresetName | None = None
    skip_furniture: bool = False
    stream: bool = False
    format: Format | None = None


class DocumentState(BaseModel):
    """How far a document has come.

    Attributes:
        pages: that are to be read; null as long as the document has not been opened.
        pages_read: of those, the ones whose results are there.
        error: why it could not be read, or not all of it.
        expires_at: when it is deleted, in seconds since 1970; null as long as it is being read.
    """

    id: str
    object: Literal["document"] = "document"
    name: str
    status: Literal["waiting", "reading", "done", "failed", "cancelled"]
    pages: int | None
    pages_read: int
    error: str | None
    created_at: int
    expires_at: int | None


class Documents:
    """The handlers."""

    def __init__(self, jobs: Jobs, config: ServerConfig, pool: ThreadPoolExecutor) -> None:
        self._jobs, self._config, self._pool = jobs, config, pool

    async def create(self, http: Request) -> Response:
        """Take a document. The answer is its state at once (202), its pages as events, or the whole in a format."""
        try:
            self._jobs.check_room()
        except ApiError:
            await drain(http)
            raise
        form = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        asked, content = await (self._form(http) if form == "multipart/form-data" else self._json(http))
        owner = http.scope["state"].get("owner")
        job = await self._in_pool(self._take, asked, content, owner)
        if asked.stream:
            return self._stream(http, job, 0, ours=True)
        if asked.format is not None:
            async with _Watch(http, job, self._jobs) as watch:
                while not (job.over or watch.gone):
                    await watch.step()
                return Response(status_code=499) if watch.gone else await self._file(job, asked.format)
        return JSONResponse(self.state(job).model_dump(), 202, {"Location": f"/v1/documents/{job.id}"})

    async def get(self, http: Request, document_id: str, format: Format | None = None) -> Response:
        """The state of a document, or the document in a format when it has been read."""
        job = self._job(http, document_id)
        if format is None:
            return JSONResponse(self.state(job).model_dump())
        if not job.over:
            raise ApiError(
                f"the document has {len(job.numbers)} of its pages read: ask for a format when its status is done", 409
            )
        return await self._file(job, format)

    async def events(self, http: Request, document_id: str) -> Response:
        """Its pages as events: those that were read, then those that are, then its end."""
        seen = http.headers.get("last-event-id", "")
        return self._stream(http, self._job(http, document_id), int(seen) if re.fullmatch(r"\d{1,6}", seen) else 0)

    async def page(self, http: Request, document_id: str, number: int) -> PageResult:
        """A page that was read."""
        job = self._job(http, document_id)
        return PageResult.of(await self._in_pool(job.page, self._number(job, number)))

    async def image(self, http: Request, document_id: str, number: int) -> Response:
        """The picture of a page that was read."""
        job = self._job(http, document_id)
        content = await self._in_pool(picture, job, self._number(job, number))
        return Response(content, media_type="image/jpeg", headers=INERT)

    async def cancel(self, http: Request, document_id: str) -> Response:
        """Stop reading; the pages that were read stay."""
        job = self._job(http, document_id)
        self._jobs.cancel(job)
        return JSONResponse(self.state(job).model_dump())

    async def delete(self, http: Request, document_id: str) -> Response:
        """Stop reading, and delete all that there is of it."""
        self._jobs.remove(self._job(http, document_id))
        return Response(status_code=204)

    def state(self, job: Job) -> DocumentState:
        keep = self._config.document_keep_seconds
        return DocumentState(
            id=job.id,
            name=job.name,
            status="cancelled" if job.unwanted and not job.over else job.state,
            pages=job.total,
            pages_read=len(job.numbers),
            error=job.error,
            created_at=int(job.created),
            expires_at=int(job.ended + keep) if job.ended is not None else None,
        )

    # What is sent

    async def _json(self, http: Request) -> tuple[DocumentRequest, bytes | None]:
        return await parsed(http, DocumentRequest, self._pool), None

    async def _form(self, http: Request) -> tuple[DocumentRequest, bytes]:
        async with http.form(max_files=1, max_fields=20, max_part_size=4096) as form:
            fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError("the form has no file: send the document as the field file", param="file")
            content = await file.read()
            fields = {name: value for name, value in fields.items() if value != ""}
            fields.setdefault("name", (file.filename or "document")[:255])
        fields["document"] = ""
        try:
            return DocumentRequest.model_validate(fields), content
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ApiError(
                f"{where} cannot be used ({first['msg']}): give what the API's description says", param=where
            ) from error

    def _take(self, asked: DocumentRequest, content: bytes | None, owner: str | None) -> Job:
        """In a thread of the pool."""
        if content is None:
            content = _decoded(asked.document)
        if not content:
            raise ApiError("the document is empty: send a PDF or an image", param="document")
        try:
            PageSelection(asked.pages)
            if b"%PDF-" not in content[:PDF_HEAD]:
                images.check_size(content, self._config)
        except SetupError as error:
            raise ApiError(str(error).removeprefix("--"), param="pages") from error
        except ApiError:
            raise
        except PageError as error:
            raise ApiError(f"{error}, or PDF", param="document") from error
        how = Reading(
            asked.pages, asked.layout, asked.dpi, asked.password, asked.text_layer, asked.preset, asked.skip_furniture
        )
        return self._jobs.add(content, _shown(asked.name), how, owner)

    # What is answered

    def _job(self, http: Request, document_id: str) -> Job:
        return self._jobs.get(document_id, http.scope["state"].get("owner"))

    @staticmethod
    def _number(job: Job, number: int) -> int:
        if number not in job.numbers:
            raise ApiError(f"page {number} of the document was not read: see its events for those that were", 404)
        return number

    async def _file(self, job: Job, name: str) -> Response:
        path: Path = await self._in_pool(self._jobs.written, job, name)
        stem = Path(job.name).stem[:100] or "document"
        return FileResponse(path, media_type=TYPES[name], filename=stem + FORMATS[name].suffix, headers=INERT)

    def _stream(self, http: Request, job: Job, sent: int, ours: bool = False) -> EventStream:
        watch = _Watch(http, job, self._jobs if ours else None)

        async def events() -> AsyncIterator[str]:
            await watch.__aenter__()
            yield event_json(self.state(job).model_dump(), "document")
            number = sent
            while not watch.gone:
                over = job.over  # before the pages, so that none is missed
                while number < len(job.numbers):
                    page = PageResult.of(await self._in_pool(job.page, job.numbers[number]))
                    number += 1
                    yield f"id: {number}\n" + event_text(page.model_dump_json(), "page")
                if over:
                    yield event_json(self.state(job).model_dump(), "end")
                    return
                if not await watch.step():
                    yield KEEP_ALIVE

        return EventStream(events(), watch.close)

    async def _in_pool(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        except ApiError:
            raise
        except PageError as error:
            raise of_engine(error) from error
        except FileNotFoundError as error:
            raise ApiError("the document has gone meanwhile: send it again", 404) from error


class _Watch:
    """Waits for news of a document, and for the client to hang up.

    Args:
        jobs: where the document is of no use to anybody else: it is cancelled when the client hangs up.
    """

    def __init__(self, http: Request, job: Job, jobs: Jobs | None) -> None:
        self._receive, self._job, self._jobs = http.receive, job, jobs
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._changed.set()
        self.gone = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "_Watch":
        self._job.listeners.append(self._tell)
        self._task = asyncio.create_task(self._until_gone())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(ValueError):
                self._job.listeners.remove(self._tell)
        if self._jobs is not None and not self._job.over:
            self._jobs.cancel(self._job)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._changed.set()

    async def step(self) -> bool:
        """Wait for news. False: there were none for a while."""
        try:
            await asyncio.wait_for(self._changed.wait(), KEEP_ALIVE_SECONDS)
        except asyncio.TimeoutError:
            return False
        self._changed.clear()
        return True


def _decoded(text: str) -> bytes:
    data = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:  # binascii.Error, or letters beyond ASCII
        raise ApiError(f"document is damaged base64 ({error}): encode the file again", param="document") from error


def _shown(name: str) -> str:
    """A name as it may stand in answers and headers: its last part, without control characters."""
    last = re.split(r"[\\/]", name)[-1]
    return _CONTROL.sub("", last.encode("utf-8", "replace").decode()).strip(" .") or "document"
