"""The HTTP application: look-ups of published predictions, read-only, with RFC 9457 errors."""

from __future__ import annotations

import hmac
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from storage import reads
from storage.database import DatabaseError, DatabaseUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.database import Database

# Long enough for a look-up on a busy server, short enough that a caller with a deadline gets an answer.
STATEMENT_TIMEOUT_MS = 5_000
# How long a look-up waits for a connection before it answers 503.
POOL_TIMEOUT_SECONDS = 3.0
RETRY_AFTER_SECONDS = 5
MAX_KEY_CHARACTERS = 255

_PREDICTION_EXAMPLE = {
    "job": "tips",
    "key": {"ride_id": 42},
    "prediction": {"score": 2.15},
    "run_id": 7,
    "model": {"name": "tips", "version": 3},
    "interval_start": "2019-03-20T04:00:00Z",
    "as_of_date": "2019-03-20",
    "scored_at": "2019-03-21T07:00:12Z",
}


def create_app(database: Database, *, api_key: str | None = None) -> FastAPI:
    """Make the application over one database.

    With `api_key`, every path under /v1 wants `Authorization: Bearer KEY`; without, the caller of this
    function sees to it that only this machine can connect.
    """
    pool = database.pool(purpose="api", size=8, statement_timeout_ms=STATEMENT_TIMEOUT_MS)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pool.open()
        yield
        pool.close()

    app = FastAPI(title="batchpred read API", version="1", lifespan=lifespan, redoc_url=None)
    _add_errors(app)
    guard = [Depends(_key_guard(api_key))] if api_key else []

    @app.get("/healthz", summary="The process is alive", tags=["operation"])
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/v1/jobs/{job}/predictions/{key:path}",
        summary="The current prediction of a key",
        description="A composite key is given as one path part for each of its columns, in their order.",
        responses={200: {"content": {"application/json": {"example": _PREDICTION_EXAMPLE}}}},
        dependencies=guard,
        tags=["predictions"],
    )
    def prediction(job: str, key: str, request: Request) -> JSONResponse:
        del key  # decoded already, so a slash inside a part could not be told from one between parts
        with database.errors("look-up"), pool.connection(timeout=POOL_TIMEOUT_SECONDS) as connection:
            served = reads.served_job(connection, job)
            parts = _key_parts(request)
            row = reads.current_prediction(connection, served, reads.parse_key(served, parts))
        if row is None:
            raise reads.PredictionNotFoundError(served, parts)
        return JSONResponse(_answer(served, row))

    return app


def _answer(served: reads.ServedJob, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": served.name,
        "key": {name: _plain(row[name]) for name, _ in served.key},
        "prediction": {name: _plain(row[name]) for name in served.outputs},
        "run_id": row["run_id"],
        "model": {"name": row["model_name"], "version": row["model_version"]},
        "interval_start": _plain(row["interval_start"]),
        "as_of_date": _plain(row["as_of_date"]),
        "scored_at": _plain(row["scored_at"]),
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else value.isoformat()


def _key_parts(request: Request) -> list[str]:
    """Take the key's parts from the path as it was sent, then decode each."""
    raw: bytes = request.scope["raw_path"]
    _, _, encoded = raw.partition(b"/predictions/")
    if len(encoded) > 3 * MAX_KEY_CHARACTERS:
        raise HTTPException(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"a key has {MAX_KEY_CHARACTERS} characters at most"
        )
    try:
        return [unquote_to_bytes(part).decode("utf-8") for part in encoded.split(b"/")]
    except UnicodeDecodeError:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the key is not UTF-8") from None


def _key_guard(api_key: str) -> Any:
    bearer = HTTPBearer(auto_error=False)
    expected = api_key.encode()

    def guard(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008  # FastAPI's way
        # Compared as bytes: a text with other than ASCII would make compare_digest raise.
        if given is None or not hmac.compare_digest(given.credentials.encode(), expected):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED, "a valid API key is needed", headers={"WWW-Authenticate": "Bearer"}
            )

    return guard


def _add_errors(app: FastAPI) -> None:
    """Answer every error as application/problem+json, without what is inside."""
    statuses = {
        reads.UnknownJobError: HTTPStatus.NOT_FOUND,
        reads.PredictionNotFoundError: HTTPStatus.NOT_FOUND,
        reads.KeyFormatError: HTTPStatus.UNPROCESSABLE_ENTITY,
    }
    for error_class, status in statuses.items():

        def say(_request: Request, error: Exception, status: HTTPStatus = status) -> JSONResponse:
            return _problem(status, str(error))

        app.add_exception_handler(error_class, say)

    def away(_request: Request, _error: Exception) -> JSONResponse:
        again = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer just now", again)

    def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)  # noqa: S101  # what it is registered for
        return _problem(HTTPStatus(error.status_code), str(error.detail), dict(error.headers or {}))

    app.add_exception_handler(DatabaseError, away)
    app.add_exception_handler(DatabaseUnreachableError, away)
    app.add_exception_handler(StarletteHTTPException, http)


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
