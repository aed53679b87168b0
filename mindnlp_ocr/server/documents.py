"""Handlers of ``/v1/documents``: upload, state, page events, and files in every output format."""

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
# Output files contain text of unknown origin: scripts in them must not run with the origin of this server.
INERT = {"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "no-store"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class DocumentRequest(BaseModel):
    """The body of ``POST /v1/documents`` as JSON. In a form, the field ``file`` contains the document.

    Attributes:
        document: the file in base64, or as a data URL.
        name: name of the file in responses.
        pages: pages to read, such as 1-3,7.
        preset: preset for reading pages; null: the server's default.
        skip_furniture: leave out page headers, footers, page numbers and marginal text if the layout identifies them.
        stream: respond with a stream of events, one for each page.
        format: respond with the document in this format after all pages have been read.
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
    """The state of a document.

    Attributes:
        pages: number of pages to read; null until the document has been opened.
        pages_read: number of pages with a result.
        error: reason why the document, or a part of it, could not be read.
        error_code: identifier of this error.
        expires_at: time at which it is deleted, in seconds since 1970; null until it has been read.
    """

    id: str
    object: Literal["document"] = "document"
    name: str
    status: Literal["waiting", "reading", "done", "failed", "cancelled"]
    pages: int | None
    pages_read: int
    error: str | None
    error_code: str | None
    created_at: int
    expires_at: int | None


class Documents:
    """The handlers of the endpoints."""

    def __init__(self, jobs: Jobs, config: ServerConfig, pool: ThreadPoolExecutor) -> None:
        self._jobs, self._config, self._pool = jobs, config, pool

    async def create(self, http: Request) -> Response:
        """Accept a document. Responds at once with its state (202), with its pages as events, or with the whole document in
        a format."""
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
        """Return the state of a document, or the finished document in a format."""
        job = self._job(http, document_id)
        if format is None:
            return JSONResponse(self.state(job).model_dump())
        if not job.over:
            raise ApiError(
                f"the document is not finished, only {len(job.numbers)} pages have been read: try again when its status "
                "is done",
                409,
                code="document_not_finished",
            )
        return await self._file(job, format)

    async def events(self, http: Request, document_id: str) -> Response:
        """Stream the pages of a document as events, beginning with those already read."""
        seen = http.headers.get("last-event-id", "")
        return self._stream(http, self._job(http, document_id), int(seen) if re.fullmatch(r"\d{1,6}", seen) else 0)

    async def page(self, http: Request, document_id: str, number: int) -> PageResult:
        """Return the result of a page."""
        job = self._job(http, document_id)
        return PageResult.of(await self._in_pool(job.page, self._number(job, number)))

    async def image(self, http: Request, document_id: str, number: int) -> Response:
        """Return the image of a page as JPEG."""
        job = self._job(http, document_id)
        content = await self._in_pool(picture, job, self._number(job, number))
        return Response(content, media_type="image/jpeg", headers=INERT)

    async def cancel(self, http: Request, document_id: str) -> Response:
        """Stop reading a document. Its finished pages stay available."""
        job = self._job(http, document_id)
        self._jobs.cancel(job)
        return JSONResponse(self.state(job).model_dump())

    async def delete(self, http: Request, document_id: str) -> Response:
        """Stop reading a document and delete all its files."""
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
            error_code=job.error_code,
            created_at=int(job.created),
            expires_at=int(job.ended + keep) if job.ended is not None else None,
        )

    # Requests

    async def _json(self, http: Request) -> tuple[DocumentRequest, bytes | None]:
        return await parsed(http, DocumentRequest, self._pool), None

    async def _form(self, http: Request) -> tuple[DocumentRequest, bytes]:
        async with http.form(max_files=1, max_fields=20, max_part_size=4096) as form:
            fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(
                    "the form has no file: send the document as the field file", param="file", code="form_without_file"
                )
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
                f"{where} cannot be used ({first['msg']}): see the API description in /openapi.json",
                param=where,
                code="field_invalid",
            ) from error

    def _take(self, asked: DocumentRequest, content: bytes | None, owner: str | None) -> Job:
        """Check and queue a document. Runs in a thread of the pool."""
        if content is None:
            content = _decoded(asked.document)
        if not content:
            raise ApiError("the document is empty: send a PDF or an image", param="document", code="document_empty")
        try:
            PageSelection(asked.pages)
            if b"%PDF-" not in content[:PDF_HEAD]:
                images.check_size(content, self._config)
        except SetupError as error:
            raise ApiError(str(error).removeprefix("--"), param="pages", code=error.code) from error
        except ApiError:
            raise
        except PageError as error:
            raise ApiError(f"{error}, or PDF", param="document", code=error.code) from error
        how = Reading(
            asked.pages, asked.layout, asked.dpi, asked.password, asked.text_layer, asked.preset, asked.skip_furniture
        )
        return self._jobs.add(content, _shown(asked.name), how, owner)

    # Responses

    def _job(self, http: Request, document_id: str) -> Job:
        return self._jobs.get(document_id, http.scope["state"].get("owner"))

    @staticmethod
    def _number(job: Job, number: int) -> int:
        if number not in job.numbers:
            raise ApiError(
                f"page {number} of the document was not read: see its events for those that were", 404, code="page_not_read"
            )
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
            raise ApiError(
                "the document was deleted during the request: send it again", 404, code="document_not_found"
            ) from error


class _Watch:
    """Waits for changes of a document, and for the client to disconnect.

    Args:
        jobs: given if the document is to be cancelled when the client disconnects, else None.
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
        """Wait for a change. Returns False if there was none for ``KEEP_ALIVE_SECONDS``."""
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
    except ValueError as error:  # binascii.Error, or non-ASCII characters
        raise ApiError(
            f"document is damaged base64 ({error}): encode the file again", param="document", code="document_base64_damaged"
        ) from error


def _shown(name: str) -> str:
    """Return a file name that is safe in responses and headers: its last component, without control characters."""
    last = re.split(r"[\\/]", name)[-1]
    return _CONTROL.sub("", last.encode("utf-8", "replace").decode()).strip(" .") or "document"
