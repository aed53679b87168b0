"""The deployments of Ray Serve: replicas, each with a model, and a front that distributes requests among them."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mindnlp_ocr.server.config import ServerConfig
from mindnlp_ocr.server.errors import ApiError, BusyError, answer
from mindnlp_ocr.server.gate import owner_of
from mindnlp_ocr.server.logs import set_up
from mindnlp_ocr.server.routing import session_of

SCOPE = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "client",
    "server",
)
TRIES = 3  # attempts for a request whose replica exits before it answers
RETRY_SECONDS = 5.0


class Reader:
    """A replica: a model with the application of ``mindnlp-ocr serve``, called through Ray.

    Args:
        arguments: the parsed command-line options.
    """

    async def __init__(self, arguments: argparse.Namespace, config: ServerConfig) -> None:  # type: ignore[misc]
        from mindnlp_ocr.server.loading import open_server  # the front needs no MindSpore

        set_up(config.log_level, config.log_format)
        name = serve.get_replica_context().replica_id.unique_id
        self._server = open_server(arguments, replace(config, replica=name))
        self._running: set[asyncio.Task[None]] = set()
        self._open = AsyncExitStack()
        await self._open.enter_async_context(self._server.app.router.lifespan_context(self._server.app))

    async def __call__(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Yield the ASGI messages that answer a request. If the consumer stops reading, the request is cancelled."""
        messages: asyncio.Queue[Any] = asyncio.Queue()
        taken, gone = False, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal taken
            if not taken:
                taken = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(self._server.app(scope, receive, messages.put))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield message
        finally:
            gone.set()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises an error here."""
        if not self._server.alive:
            raise RuntimeError("the thread of the engine has ended: see the replica's log")

    async def __del__(self) -> None:
        """Shut down. Ray has waited for all requests; documents that are still being read are cancelled."""
        if hasattr(self, "_open"):  # __init__ has succeeded
            self._server.draining = True
            await self._open.aclose()


class Front:
    """Accepts HTTP requests and forwards each to the replica that has read its image before. It has no model.

    Args:
        readers: the Ray Serve handle of the replicas.
    """

    def __init__(self, readers: Any, config: ServerConfig) -> None:
        self._readers, self._config = readers.options(stream=True), config

    async def __call__(self, request: Request) -> Response:
        """Answer a request with the response of a replica."""
        body = await self._body(request)
        scope = {name: request.scope[name] for name in SCOPE if name in request.scope}
        readers = self._readers.options(session_id=session_of(request.url.path, body))
        for _ in range(TRIES):
            try:
                messages = readers.remote(scope, body)
                start = await anext(messages)
                return _response(start, messages)
            except BackPressureError:
                error: ApiError = BusyError(
                    f"all replicas are busy, and {self._config.max_waiting} requests are waiting: try again later, or "
                    "start the server with more --replicas",
                    RETRY_SECONDS,
                )
                return answer(error)
            except (RayActorError, RayServeException, TaskCancelledError, StopAsyncIteration):
                continue  # the replica exited before it answered: try another
        return answer(
            ApiError(
                f"{TRIES} replicas ended before they answered this request: send it again, and see the logs of the replicas",
                503,
                headers={"Retry-After": str(int(RETRY_SECONDS))},
                code="replicas_ended",
            )
        )

    async def _body(self, request: Request) -> bytes:
        """Return the body of a request, cut off once it is longer than a replica accepts."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            owner_of(request.scope, headers, self._config)
        except ApiError:
            return b""
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._config.max_body_bytes:
                break
        return bytes(body)


def _response(start: dict[str, Any], messages: AsyncIterator[dict[str, Any]]) -> Response:
    async def content() -> AsyncIterator[bytes]:
        async for message in messages:
            yield message.get("body", b"")

    response = StreamingResponse(content(), start["status"])
    # Ray Serve names the request in its own answer, by the same id.
    response.raw_headers = [(name, value) for name, value in start["headers"] if name.lower() != b"x-request-id"]
    return response
