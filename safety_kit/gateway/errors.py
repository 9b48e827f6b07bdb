"""Errors as OpenAI's clients read them, with a status that says whether to try again."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from safety_kit.chat import answers

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""Of a status; any other 4xx is an ``invalid_request_error`` and the rest a ``server_error``."""


class ApiError(Exception):
    """An answer that is an error. Its message holds nothing of the caller's texts.

    Attributes:
        status: HTTP status.
        message: One or two sentences with the remedy.
        code: For programs.
        param: The field of the request that is wrong, where one is.
        retry_after: Seconds until it is worth another try; None: it is not, or nobody knows.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.message, error_type(self.status), self.code, self.param)


def bad_request(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """The caller can mend it."""
    return ApiError(400, message, code, param=param)


def no_service(message: str, code: str, retry_after: float | None = 1) -> ApiError:
    """It is the gateway that cannot, for now."""
    return ApiError(503, message, code, retry_after=retry_after)


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """The body of an error; what cannot be written as UTF-8 is replaced."""
    return answers.error_body(
        _writable(message),
        None if code is None else _writable(code),
        _writable(type_),
        None if param is None else _writable(param),
    )


def error_response(
    status: int, message: str, code: str | None, *, param: str | None = None, retry_after: float | None = None
) -> JSONResponse:
    """An error as an answer; `retry_after`, in seconds, is rounded up to whole ones."""
    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(error_body(message, error_type(status), code, param), status, headers)


def error_type(status: int) -> str:
    """OpenAI's name for the kind of error that a status is."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
