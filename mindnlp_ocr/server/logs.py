"""Structured logging to standard error: one line per event, as text or JSON, with the id of the request."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

LOGGER = logging.getLogger("mindnlp_ocr.server")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def event(name: str, level: int = logging.INFO, exception: BaseException | None = None, **fields: Any) -> None:
    """Log an event with its fields. Never pass texts of users or API keys."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, name, extra={"fields": fields}, exc_info=exception)


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        fields = dict(getattr(record, "fields", {}))
        if (request := REQUEST_ID.get()) and "request_id" not in fields:
            fields["request_id"] = request
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        line = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if self._as_json:
            return json.dumps(line, ensure_ascii=False, default=str)
        rest = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if name != "exception")
        trace = f"\n{fields['exception']}" if "exception" in fields else ""
        return f"{stamp} {line['level']:7} {line['event']} {rest}".rstrip() + trace


class _StandardError(logging.StreamHandler[Any]):
    """A handler that looks up ``sys.stderr`` for every record, since it may be replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text


def set_up(level: str, form: str) -> None:
    """Send the events of the server and of uvicorn to standard error."""
    handler = _StandardError()
    handler.setFormatter(_Formatter(form == "json"))
    for name in ("mindnlp_ocr.server", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.setLevel(level.upper())
        logger.propagate = name == "uvicorn.error"
    logging.getLogger("uvicorn.access").disabled = True  # the gate logs requests together with their ids
