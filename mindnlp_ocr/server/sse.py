"""Server-sent events: their format, and a response that always releases its resources."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS = 15.0  # proxies close connections that are silent for a minute
KEEP_ALIVE = ": waiting\n\n"


def event_text(data: str, name: str | None = None) -> str:
    """Return an event in the wire format."""
    return (f"event: {name}\n" if name else "") + f"data: {data}\n\n"


def event_json(value: Any, name: str | None = None) -> str:
    """Return an event with a JSON value."""
    return event_text(json.dumps(value, ensure_ascii=False), name)


class EventStream(Response):
    """A response that sends events as they arrive.

    Args:
        events: texts of events. The iterator must end when the client disconnects.
        close: awaited at the end, also after an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[str], close: Callable[[], Awaitable[None]], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(None, 200, {**(headers or {}), "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.background: BackgroundTask | None = None
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # the client has disconnected
            pass
        finally:
            await asyncio.shield(self._close())
