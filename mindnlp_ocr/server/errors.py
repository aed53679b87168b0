"""What a request is told when it cannot be answered, in the form that OpenAI's clients read."""

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
    """A request that is refused.

    Attributes:
        status: of HTTP.
        param: the field that is at fault, where it is one.
        code: a word that programs may compare.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})


class BusyError(ApiError):
    """The answer to who comes when nothing more can be queued.

    Args:
        seconds: after which to try again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message, 429, None, "queue_full", {"Retry-After": str(max(1, round(seconds)))})


def of_engine(error: PageError) -> ApiError:
    """The engine's own errors: of this request (400), a full queue (429), a deadline (504), a step that failed (500)."""
    from mindnlp_ocr.engine.scheduler import DeadlineError, EngineError, QueueFullError  # the front of replicas needs none

    if isinstance(error, QueueFullError):
        return BusyError(str(error), error.retry_after)
    status = 504 if isinstance(error, DeadlineError) else 500 if isinstance(error, EngineError) else 400
    return ApiError(str(error), status)


def body(error: ApiError) -> dict[str, Any]:
    """The error as JSON."""
    kind = KINDS.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def answer(error: ApiError) -> JSONResponse:
    """The error as an answer."""
    return JSONResponse(body(error), error.status, headers=error.headers)
