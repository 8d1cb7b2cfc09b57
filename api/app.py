"""The HTTP application: look-ups of published predictions, read-only, with RFC 9457 errors."""

from __future__ import annotations

import hmac
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api import jobs, predictions, problems
from api.edge import Edge
from api.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.database import Database


def create_app(database: Database, *, api_key: str | None = None) -> FastAPI:
    """Make the application over one database.

    With `api_key`, every path under /v1 wants `Authorization: Bearer KEY`; without, the caller of this
    function sees to it that only this machine can connect.
    """
    service = Service(database)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.pool.open()
        yield
        service.pool.close()

    app = FastAPI(title="batchpred read API", version="1", lifespan=lifespan, redoc_url=None)
    problems.add_to(app)
    guard = [Depends(_key_guard(api_key))] if api_key else []

    @app.get("/healthz", summary="The process is alive", tags=["operation"])
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.add_middleware(Edge)
    app.include_router(jobs.routes(service), dependencies=guard)
    app.include_router(predictions.routes(service), dependencies=guard)
    return app


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
