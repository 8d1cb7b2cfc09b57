"""How every fault is answered: RFC 9457 problem documents that say nothing of what is inside."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from api.cursor import CursorError
from storage.database import DatabaseError, DatabaseUnreachableError
from storage.keytext import KeyFormatError
from storage.reads import PredictionNotFoundError
from storage.served import NothingPublishedError, RunGoneError, UnknownJobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
AWAY = "the database does not answer just now"
_logger = logging.getLogger("batchpred.api")

# Classes of SQLSTATE that pass by themselves: connection lost, resources, operator's doing, or no state at all.
_PASSING = ("08", "53", "55", "57")
_STATUSES: dict[type[Exception], HTTPStatus] = {
    UnknownJobError: HTTPStatus.NOT_FOUND,
    NothingPublishedError: HTTPStatus.NOT_FOUND,
    PredictionNotFoundError: HTTPStatus.NOT_FOUND,
    RunGoneError: HTTPStatus.GONE,
    CursorError: HTTPStatus.BAD_REQUEST,
    KeyFormatError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


def document(status: HTTPStatus, detail: str) -> bytes:
    """Write the problem's document."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    # A text from a client may hold half a surrogate pair; escaped it can be written.
    return json.dumps(body).encode()


def response(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response of a problem."""
    return Response(document(status, detail), status, headers, media_type=MEDIA_TYPE)


def away() -> Response:
    """Make the response while the database does not answer."""
    again = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return response(HTTPStatus.SERVICE_UNAVAILABLE, AWAY, again)


def add_to(app: FastAPI) -> None:
    """Answer every error the application or its routes raise."""
    for error_class in _STATUSES:
        app.add_exception_handler(error_class, _expected)
    app.add_exception_handler(DatabaseError, _database)
    app.add_exception_handler(DatabaseUnreachableError, _database)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


def of_error(error: Exception) -> tuple[HTTPStatus, str, dict[str, str]]:
    """Say what an error of the storage is answered with: status, detail and headers."""
    if isinstance(error, UnknownJobError):
        # One text for a job that is not there and one this reader may not see.
        return HTTPStatus.NOT_FOUND, "no such job is served here", {}
    for error_class, status in _STATUSES.items():
        if isinstance(error, error_class):
            return status, str(error), {}
    state = getattr(error.__cause__, "sqlstate", None)
    if isinstance(error, DatabaseUnreachableError) or not state or state[:2] in _PASSING:
        return HTTPStatus.SERVICE_UNAVAILABLE, AWAY, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    _logger.error("a statement was refused", extra={"sqlstate": state, "reason": str(error)})
    return HTTPStatus.INTERNAL_SERVER_ERROR, "the server could not answer; its log says why", {}


def _expected(_request: Request, error: Exception) -> Response:
    return response(*of_error(error))


_database = _expected


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    return response(HTTPStatus(error.status_code), str(error.detail), error.headers)


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # what it is registered for
    faults = [f"{_where(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:5]]
    return response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(faults))


def _where(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location if part not in ("query", "path")) or "request"
