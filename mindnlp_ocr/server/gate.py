"""ASGI middleware: request ids, API keys, checks of Host and Origin, size limits, and the request log."""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindnlp_ocr.server.config import MAX_HEADER_BYTES, ServerConfig
from mindnlp_ocr.server.errors import ApiError, answer
from mindnlp_ocr.server.logs import REQUEST_ID, event

OPEN = ("/health", "/", "/web/")  # paths that need no key; the web page asks the user for one
_ID = re.compile(r"[\w.:-]{1,128}")


class Gate:
    """The middleware. It is pure ASGI, so that the application notices when a client disconnects.

    Args:
        app: the wrapped application.
        observe: called with method, path template, status and seconds of every request.
        draining: returns whether the server is shutting down.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        observe: Callable[[str, str, int, float], None],
        draining: Callable[[], bool],
    ) -> None:
        self._app, self._config, self._observe, self._draining = app, config, observe, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        token = REQUEST_ID.set(request_id)
        scope.setdefault("state", {}).update(request_id=request_id, owner=None)
        start, status, started = time.perf_counter(), 500, False

        async def sent(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", []), *self._headers(request_id)]
            await send(message)

        try:
            try:
                scope["state"]["owner"] = owner_of(scope, headers, self._config)
                self._check_draining(scope)
                await self._app(scope, self._bounded(receive), sent)
            except ApiError as error:
                await answer(error)(scope, receive, sent)
        except Exception as error:
            event("failed", 40, error, path=scope["path"])
            if not started:
                message = f"this request failed (id {request_id}): look up the id in the server's log"
                await answer(ApiError(message, 500, code="internal_error"))(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "")
            self._observe(scope["method"], route, status, seconds)
            level = 10 if scope["path"] in ("/health", "/metrics") else 20
            fields: dict[str, Any] = {"status": status, "ms": round(seconds * 1e3, 1)}
            if owner := scope["state"].get("owner"):
                fields["key"] = owner
            event("request", level, method=scope["method"], path=scope["path"], **fields)
            REQUEST_ID.reset(token)

    @staticmethod
    def _headers(request_id: str) -> list[tuple[bytes, bytes]]:
        return [
            (b"x-request-id", request_id.encode("latin-1")),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    def _check_draining(self, scope: Scope) -> None:
        if self._draining() and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            raise ApiError(
                "this server is shutting down and accepts no new work: use another server, or try again later",
                503,
                headers={"Retry-After": "10"},
                code="shutting_down",
            )

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._config.max_body_bytes:
                raise _too_long(self._config.max_body_bytes)
            return message

        return bounded


def owner_of(scope: Scope, headers: dict[str, str], config: ServerConfig) -> str | None:
    """Check the headers of a request. Returns the name of its API key, or None if no key is required.

    Raises:
        ApiError: the request is not allowed.
    """
    if (size := sum(len(name) + len(value) for name, value in scope["headers"])) > MAX_HEADER_BYTES:
        raise ApiError(
            f"the headers of the request take {size} bytes: send at most {MAX_HEADER_BYTES}", 431, code="headers_too_large"
        )
    _check_host(headers, config)
    path, owner = scope["path"], None
    if config.keys and path not in OPEN[:2] and not path.startswith(OPEN[2]):
        scheme, _, key = headers.get("authorization", "").partition(" ")
        owner = config.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            raise ApiError(
                "the API key is missing or wrong: send Authorization: Bearer KEY with a key that this server knows",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > config.max_body_bytes:
        raise _too_long(config.max_body_bytes)
    return owner


def _check_host(headers: dict[str, str], config: ServerConfig) -> None:
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname if _plain_host(host) else None
    if config.hosts and name not in config.hosts:
        raise ApiError(
            f"the Host header names {host[:80]!r}, which is not a name of this server: use "
            f"{config.hosts[0]}, or start it with --allowed-host NAME",
            403,
            code="host_not_allowed",
        )
    origin = headers.get("origin")
    if origin is None or origin in config.cors_origins or "*" in config.cors_origins:
        return
    if not _plain_host(origin.partition("://")[2]) or urlsplit(origin).netloc != host:
        raise ApiError(
            f"a web page of {origin[:80]!r} may not call this server: start it with --cors-origin {origin[:80]}",
            403,
            code="origin_not_allowed",
        )


def _plain_host(text: str) -> bool:
    """Return whether a text is a host name or an address, with or without a port, that ``urlsplit`` can parse."""
    return re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", text, re.ASCII) is not None


def _too_long(limit: int) -> ApiError:
    return ApiError(
        f"the body of the request is longer than {limit} bytes: send less, or start the server with a higher --max-body-mb",
        413,
        code="request_too_large",
    )
