"""Error responses in the format of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from mindnlp_ocr.errors import OCRError, PageError

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
    507: "overloaded_error",
}


class ApiError(OCRError):
    """An error that is returned to the client.

    Attributes:
        status: HTTP status code.
        param: the field of the request that caused the error, if any.
        code: see :class:`OCRError`; clients receive it as ``error.code``.
        headers: headers of the response.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code)
        self.status, self.param, self.headers = status, param, dict(headers or {})


class BusyError(ApiError):
    """A queue is full (429).

    Args:
        seconds: value of the Retry-After header.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message, 429, code="queue_full", headers={"Retry-After": str(max(1, round(seconds)))})


def of_engine(error: PageError) -> ApiError:
    """Convert an error of the engine: an invalid request (400), a full queue (429), a deadline (504), a failed step
    (500)."""
    from mindnlp_ocr.engine.scheduler import (
        DeadlineError,
        EngineError,
        QueueFullError,
    )  # not needed by the front of replicas

    if isinstance(error, QueueFullError):
        return BusyError(str(error), error.retry_after)
    status = 504 if isinstance(error, DeadlineError) else 500 if isinstance(error, EngineError) else 400
    return ApiError(str(error), status, code=error.code)


def body(error: ApiError) -> dict[str, Any]:
    """Return the JSON body of an error."""
    kind = KINDS.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code or None}}


def answer(error: ApiError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(body(error), error.status, headers=error.headers)
