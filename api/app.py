"""The HTTP application: look-ups of published predictions, read-only, with RFC 9457 errors."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer

from api import jobs, predictions, problems
from api.access import Gate, reader_of
from api.edge import Edge, Parts, RequestIds
from api.examples import FAULTS
from api.exports import Exports
from api.hot import CACHE_ENTRIES, HotRoute
from api.metrics import CONTENT_TYPE, Metrics
from api.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from api.exports import Form
    from storage.database import Database


def create_app(
    database: Database,
    *,
    keyless: bool = False,
    cache_entries: int = CACHE_ENTRIES,
    access_log: bool = True,
    origins: Sequence[str] = (),
    exports: Mapping[str, Form] | None = None,
) -> FastAPI:
    """Make the application over one database.

    Every path under /v1 wants `Authorization: Bearer KEY`. With `keyless` it does so only from the moment the
    first key is made; the caller of this function then sees to it that only this machine can connect.
    `cache_entries` answers are remembered for each job; with 0 every one is looked up.
    `access_log` writes a line for each request to the logger batchpred.access.
    `origins` are those whose pages a browser lets read; none may by themselves.
    `exports` are forms beside CSV and NDJSON, by media type: those that need libraries which may be absent.
    """
    service = Service(database)
    gate = Gate(service.find_key, service.has_keys if keyless else lambda: True)
    metrics = Metrics(access_log=access_log)
    parts = Parts(gate, metrics, RequestIds())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.pool.open()
        parts.hot = hot = HotRoute(database, cache_entries=cache_entries)
        hot.pointers.start()
        yield
        await hot.close()
        service.pool.close()

    app = FastAPI(
        title="batchpred read API",
        version="1",
        lifespan=lifespan,
        # Its pages load their scripts from other people's servers; nothing here makes a reader's browser do that.
        docs_url=None,
        redoc_url=None,
        # A redirect would name http:// and the host that the client says, and take a key there in the clear.
        redirect_slashes=False,
    )
    problems.add_to(app)
    app.state.parts = parts
    app.add_middleware(Edge, parts=parts)
    if origins:
        # Outermost: a browser asks first whether it may ask, without a key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match", "X-Request-Id"],
            expose_headers=["ETag", "Age", "Batchpred-Run", "Batchpred-Stale", "Retry-After", "X-Request-Id"],
        )

    @app.get("/healthz", summary="The process is alive", tags=["operation"])
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="The server can answer",
        description="It read the database within the last second.",
        responses={503: FAULTS[503]},
        tags=["operation"],
    )
    def readyz() -> Response:
        if parts.hot is not None and parts.hot.pointers.are_trusted(time.monotonic()):
            return JSONResponse({"status": "ready"})
        return problems.away()

    @app.get(
        "/metrics",
        summary="Prometheus metrics of this server process",
        description="Wants a key that opens every job: job names are labels.",
        response_class=PlainTextResponse,
        responses={404: FAULTS[404]},
        tags=["operation"],
    )
    def metrics_page(request: Request) -> Response:
        if reader_of(request).jobs is not None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        hot = parts.hot
        pointers = hot.known if hot else []
        page = metrics.page(pointers, ready=bool(hot and hot.pointers.are_trusted(time.monotonic())))
        return Response(page, media_type=CONTENT_TYPE)

    bearer = HTTPBearer(auto_error=False, description="A key made by `batchpred keys create`")
    # The edge has checked the key by then; this is for the OpenAPI document alone.
    documented = [Security(bearer)]
    app.include_router(jobs.routes(service), dependencies=documented)
    app.include_router(predictions.routes(service, Exports(service, exports or {})), dependencies=documented)
    return app
