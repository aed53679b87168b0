"""The ASGI application: the paths of the server and their handlers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from mindnlp_ocr import __version__
from mindnlp_ocr.errors import PageError
from mindnlp_ocr.server import protocol
from mindnlp_ocr.server.chat import IGNORED_HEADER, Chat, parsed
from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.documents import DocumentRequest, Documents, DocumentState
from mindnlp_ocr.server.errors import ApiError, answer, of_engine
from mindnlp_ocr.server.fetch import Fetcher
from mindnlp_ocr.server.gate import Gate
from mindnlp_ocr.server.jobs import Jobs
from mindnlp_ocr.server.logs import event
from mindnlp_ocr.server.metrics import Metrics
from mindnlp_ocr.server.running import Admission
from mindnlp_ocr.server.tokens import Tokens

WEB = Path(__file__).parent / "web"
ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Server:
    """A model served over HTTP.

    Attributes:
        app: the ASGI application. It runs the engine during its lifespan.
        draining: whether new work is rejected because the server is shutting down.

    Args:
        model: a Qwen2VLModel.
    """

    def __init__(self, model: Any, config: ServerConfig) -> None:
        self._model, self._config = model, config
        info = model.get_model_info()
        self.name = config.model_name or Path(str(info["model_name"])).name
        self.longest = int(info["max_length"])
        self.draining = False
        self._pool = ThreadPoolExecutor(config.workers, "mindnlp-ocr-images")
        with model.files() as folder:
            self._tokens = Tokens(folder)
            self._created = int(folder.stat().st_mtime)
        self._jobs = Jobs(model, config, lambda: self.metrics)
        self.metrics = Metrics(self.name, self._now, self._jobs.states)
        self._documents = Documents(self._jobs, config, self._pool)
        self.admission = Admission(model.slots + config.max_waiting)
        fetch = Fetcher(config.url_hosts, config.max_body_bytes) if config.url_hosts else None
        self._chat = Chat(
            model, config, self._pool, self._tokens, self.metrics, self.admission, self.name, self.longest, fetch
        )
        self.app = self._application()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs. Valid during the application's lifespan."""
        return bool(self._model.scheduler.alive)

    def _application(self) -> FastAPI:
        app = FastAPI(
            title="mindnlp-ocr",
            version=__version__,
            description="Document reading with vision-language models: OpenAI's chat API, and whole documents.",
            docs_url=None,  # FastAPI's page loads scripts from other servers
            redoc_url=None,
            lifespan=self._lifespan,
        )
        app.add_middleware(Gate, config=self._config, observe=self.metrics.http, draining=lambda: self.draining)
        if self._config.cors_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=self._config.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "x-request-id"],
                expose_headers=["x-request-id", IGNORED_HEADER, "retry-after"],
            )
        app.add_exception_handler(ApiError, _api_error)
        app.add_exception_handler(PageError, _page_error)
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(RequestValidationError, _validation_error)
        self._routes(app)
        app.openapi = lambda: _described(app)  # type: ignore[method-assign]
        return app

    def _routes(self, app: FastAPI) -> None:
        app.get("/health", summary="Return whether the server is ready")(self.health)
        app.get("/version", summary="Return the version of the server")(self.version)
        app.get("/metrics", summary="Return metrics for Prometheus", response_class=Response)(self.prometheus)
        app.get("/v1/models", summary="List the model of this server")(self.models)
        app.get("/v1/models/{name:path}", summary="Return the model with this name")(self.one_model)
        app.post(
            "/v1/chat/completions",
            summary="Read images, or answer a conversation",
            response_model=protocol.ChatCompletion,
            openapi_extra=_body(protocol.ChatRequest),
        )(self._chat.complete)
        app.post(
            "/tokenize",
            summary="Convert a text into token ids",
            response_model=protocol.Tokenized,
            openapi_extra=_body(protocol.TokenizeRequest),
        )(self.tokenize)
        app.post(
            "/detokenize",
            summary="Convert token ids into a text",
            response_model=protocol.Detokenized,
            openapi_extra=_body(protocol.DetokenizeRequest),
        )(self.detokenize)

        self._document_routes(app)

        app.get("/", include_in_schema=False)(self.page)
        app.get("/web/{name}", include_in_schema=False)(self.asset)

    def _document_routes(self, app: FastAPI) -> None:
        documents, path = self._documents, "/v1/documents/{document_id}"
        app.post(
            "/v1/documents",
            summary="Read a PDF or an image",
            response_model=DocumentState,
            status_code=202,
            openapi_extra=_body(DocumentRequest),
        )(documents.create)
        app.get(path, summary="Return the state of a document, or its content in a format", response_model=DocumentState)(
            documents.get
        )
        app.delete(path, summary="Cancel reading a document and delete it", status_code=204)(documents.delete)
        app.post(f"{path}/cancel", summary="Cancel reading a document", response_model=DocumentState)(documents.cancel)
        app.get(f"{path}/events", summary="Stream the pages of a document", response_class=Response)(documents.events)
        app.get(f"{path}/pages/{{number}}", summary="Return the result of a page")(documents.page)
        app.get(f"{path}/pages/{{number}}/image", summary="Return the image of a page", response_class=Response)(
            documents.image
        )

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        with self._model.serving():
            event("ready", model=self.name, slots=self._model.slots, max_length=self.longest)
            expiry = asyncio.create_task(self._jobs.expire())
            try:
                yield
            finally:
                self.draining = True
                expiry.cancel()
                await asyncio.to_thread(self._jobs.close, self._config.shutdown_seconds)
                self._pool.shutdown(wait=False, cancel_futures=True)
        event("stopped")

    def _now(self) -> Mapping[str, float]:
        """Return the current figures of the engine and its cache, for the metrics."""
        cache = self._model.get_cache_stats()
        queue = self._model.scheduler.stats()
        slots = self._model.slots
        numbers = {name: value for name, value in {**cache, **queue}.items() if isinstance(value, int | float)}
        return {
            **numbers,
            "usage": min(1.0, queue["running"] / slots),
            "slots": slots,
            "cached": cache.get("slots", {}).get("cached", 0),
            "compilations": self._model.get_model_info()["compilations"],
        }

    # Other endpoints

    async def health(self) -> JSONResponse:
        if self.draining:
            raise ApiError(
                "this server is shutting down: use another server", 503, headers={"Retry-After": "10"}, code="shutting_down"
            )
        return JSONResponse({"status": "ok"})

    async def version(self) -> JSONResponse:
        return JSONResponse({"version": __version__})

    async def prometheus(self) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def page(self) -> Response:
        return self._asset("index.html")

    async def asset(self, name: str) -> Response:
        return self._asset(name)

    def _asset(self, name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
        return FileResponse(WEB / name, media_type=ASSETS[name], headers=headers)

    async def models(self) -> protocol.ModelList:
        return protocol.ModelList(data=[self._card()])

    async def one_model(self, name: str) -> protocol.ModelCard:
        self._chat.check_model(name)
        return self._card()

    def _card(self) -> protocol.ModelCard:
        return protocol.ModelCard(id=self.name, created=self._created, root=self.name, max_model_len=self.longest)

    async def tokenize(self, request: Request) -> protocol.Tokenized:
        asked = await parsed(request, protocol.TokenizeRequest, self._pool)
        self._chat.check_model(asked.model)
        ids = self._tokens.encode(asked.prompt)
        texts = [self._tokens.text_of(token_id) for token_id in ids] if asked.return_token_strs else None
        return protocol.Tokenized(count=len(ids), max_model_len=self.longest, tokens=ids, token_strs=texts)

    async def detokenize(self, request: Request) -> protocol.Detokenized:
        asked = await parsed(request, protocol.DetokenizeRequest, self._pool)
        self._chat.check_model(asked.model)
        return protocol.Detokenized(prompt=self._tokens.decode(asked.tokens))


def create_app(model: Any, config: ServerConfig | None = None) -> FastAPI:
    """Return the ASGI application of a model, to be run with any ASGI server."""
    return Server(model, config or ServerConfig()).app


BODIES = (protocol.ChatRequest, protocol.TokenizeRequest, protocol.DetokenizeRequest, DocumentRequest)


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the handler itself parses, after it has checked the queue."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, including the bodies that handlers parse themselves."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        _, bodies = models_json_schema(
            [(kind, "validation") for kind in BODIES], ref_template="#/components/schemas/{model}"
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
        app.openapi_schema = schema
    return app.openapi_schema


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answer(error)


async def _page_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PageError)
    return answer(of_engine(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = str(first["loc"][-1])
    return answer(
        ApiError(
            f"{where} cannot be used ({first['msg']}): see the API description in /openapi.json",
            param=where,
            code="field_invalid",
        )
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer(
            ApiError(f"{request.url.path[:80]} is not a path of this server: see /openapi.json", 404, code="path_not_found")
        )
    if error.status_code == 405:
        return answer(
            ApiError(
                f"the method {request.method} is not allowed for {request.url.path[:80]}: see /openapi.json",
                405,
                headers=error.headers,
                code="method_not_allowed",
            )
        )
    return answer(
        ApiError(
            f"the request cannot be used ({error.detail}): see /openapi.json", error.status_code, code="request_invalid"
        )
    )
