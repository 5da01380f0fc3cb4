"""Errors of the API in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, the field named.

What a client did wrong is told in full; of a defect of ours it learns nothing but that there is one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from arriero.common.errors import ArrieroError, BusyError, MissingExtraError, NotFoundError, StorageError

RETRY_AFTER_S = 1
"""What a client is told to wait when the queue is full."""

_UNION_BRANCH = re.compile(r"(str|int|float|bool|list|none|constrained-str)$|.*[\[(-]")
"""Parts of a validation error's place that name a type and no field."""


_NAME = 100
"""Most characters of an unknown field's name that are told."""


class ApiError(Exception):
    """A request that cannot be served."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}
"""For a route's `responses`."""


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": _one_line(message), "type": kind, "param": param and _one_line(param), "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    """An error as a response."""
    body = error_body(error.status, error.message, error.param, error.code)
    return JSONResponse(body, status_code=error.status, headers=dict(error.headers or {}))


def as_api_error(error: BaseException) -> ApiError:
    """Any error as what a client is told of it."""
    match error:
        case ApiError():
            return error
        case BusyError():
            return ApiError(503, str(error), code="queue_full", headers={"Retry-After": str(RETRY_AFTER_S)})
        case NotFoundError():
            return ApiError(404, str(error), code="not_found")
        case StorageError():
            return ApiError(507, str(error), code="storage")
        case MissingExtraError():
            return ApiError(501, str(error), code="not_installed")
        case ArrieroError():
            return ApiError(400, str(error))
        case TimeoutError():
            return ApiError(504, "the request took too long and was ended: ask for fewer tokens", code="timeout")
        case _:
            return ApiError(500, "a defect of the server: its log tells more", code="internal_error")


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """What pydantic found, as one error about the first field that is wrong."""
    same = [error for error in errors if error["loc"][:2] == errors[0]["loc"][:2]]
    first = max(same, key=lambda error: len(error["loc"]))  # of several kinds, the nearest
    place = first["loc"]
    where = place[0] if place else "body"
    param = name_field(place[1:])
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is no valid JSON: {first['ctx'].get('error', first['msg'])}", code="json_invalid"
        )
    if first["type"] == "extra_forbidden":
        param = ".".join(filter(None, (name_field(place[1:-1]), str(place[-1])[:_NAME])))
        return ApiError(400, f"unknown field {param}: leave it out", param, "unknown_parameter")
    if param is None and where == "body":
        return ApiError(400, "expected a JSON object as the body, with Content-Type: application/json")
    return ApiError(400, f"{param}: {first['msg'].removeprefix('Value error, ')}", param, "invalid_value")


def name_field(place: Sequence[str | int]) -> str | None:
    """`messages[0].content` for ('messages', 0, 'content'); names of types are left out."""
    name = ""
    for part in place:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not _UNION_BRANCH.match(part):
            name += f".{part}" if name else part
    return name or None


def install_handlers(app: FastAPI) -> None:
    """Have every error of the app answered in OpenAI's shape."""

    def answer(request: Request, error: Exception) -> JSONResponse:
        told = as_api_error(error)
        told.message = request.app.state.service.without_folders(told.message)
        return error_response(told)

    def answer_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(validation_error(error.errors()))

    def answer_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        path = f"{request.method} {request.url.path}"
        message = {404: f"there is no {path}", 405: f"{path} is not allowed"}.get(error.status_code, error.detail)
        return error_response(ApiError(error.status_code, message, headers=error.headers))

    for kind in (ApiError, ArrieroError, TimeoutError, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)


def _one_line(text: str) -> str:
    """Without line breaks and lone surrogates, which no UTF-8 can carry."""
    return " ".join(text.split()).encode("utf-8", "replace").decode()
