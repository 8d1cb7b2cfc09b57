"""Whole runs, streamed in the form the client accepts."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from api import answers, problems
from api.service import job_for
from storage import export, served

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from datetime import date
    from typing import TypeAlias

    from starlette.types import Receive, Scope, Send

    from api.service import Service
    from storage.database import Connection, Database
    from storage.served import ServedJob

    Form: TypeAlias = Callable[[Database, Connection, ServedJob, int | None], Generator[bytes]]

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
# Each holds a connection of the pool for as long as its client reads; look-ups need the others.
MAX_EXPORTS = 2
# As long as PostgreSQL gives an export (storage/sql/reads.sql). Its own clock stands while it waits for a client
# that stopped reading, so this one ends that.
EXPORT_SECONDS = 600.0

_logger = logging.getLogger("batchpred.api")

PLAIN_FORMS: dict[str, Form] = {
    "text/csv": lambda _, connection, job, run_id: export.csv(connection, job, run_id),
    "application/x-ndjson": lambda _, connection, job, run_id: export.ndjson(connection, job, run_id),
}


class Exports:
    """The forms this server can write, and how many exports it lets run at once."""

    def __init__(self, service: Service, more: Mapping[str, Form]) -> None:
        self._service = service
        self._forms = {**PLAIN_FORMS, **more}
        self._free = threading.BoundedSemaphore(MAX_EXPORTS)

    @property
    def media_types(self) -> list[str]:
        """What can be asked for."""
        return [JSON, *self._forms]

    def wanted(self, accept: str | None) -> str:
        """Choose the form a client accepts best, of two alike the first it names. Answers 406 for none."""
        ranked = sorted(_accepted(accept or "*/*"), key=lambda each: -each[1])
        for media_type, quality in ranked:
            if quality <= 0:
                continue
            if media_type in ("*/*", "application/*"):
                return JSON
            if media_type == "text/*":
                return "text/csv"
            if media_type in self.media_types:
                return media_type
        raise HTTPException(
            HTTPStatus.NOT_ACCEPTABLE, f"predictions come as {', '.join(self.media_types)} here"
        )

    def answer(self, request: Request, name: str, as_of: date | None, media_type: str) -> Response:
        """Stream a whole run, or what an incremental job shows now, read at one moment."""
        if not self._free.acquire(blocking=False):
            again = {"Retry-After": str(problems.RETRY_AFTER_SECONDS)}
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_EXPORTS} exports are under way; try again", again
            )
        stack = ExitStack()
        stack.callback(self._free.release)
        try:
            connection = stack.enter_context(self._service.reading())
            job = job_for(connection, request, name)
            newest = served.run_to_read(connection, job, None)
            run = None
            if job.mode == "snapshot" or as_of is not None:
                run = served.run_to_read(connection, job, as_of)
                headers = answers.run_headers(run, newest)
            else:
                tag = f'"{served.state(connection, job)[1]}"'
                headers = {"ETag": tag, **answers.freshness(newest, datetime.now(UTC))}
            form = media_type.rpartition("/")[2].rpartition(".")[2].removeprefix("x-")
            headers["ETag"] = answers.form_etag(answers.list_etag(job, headers["ETag"]), form)
            if answers.matches(request.headers.get("if-none-match"), headers["ETag"]):
                stack.close()
                return Response(status_code=304, headers=headers)
            export.allow_time(connection)
            rows = self._forms[media_type](
                self._service.database, connection, job, run.run_id if run else None
            )
            stack.callback(rows.close)
            # The first piece tells whether it works, while a fault can still be said.
            first = next(rows, b"")
        except BaseException:
            stack.close()
            raise
        return _Export(stack, chain([first], rows), headers, media_type)


class _Export(StreamingResponse):
    """A stream that gives its connection back however it ends: read whole, left by its client, or never begun."""

    def __init__(
        self, stack: ExitStack, pieces: Iterator[bytes], headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(pieces, headers=headers, media_type=media_type)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(EXPORT_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # the server closes a connection whose answer is not complete
            _logger.warning("an export took too long and was ended", extra={"seconds": EXPORT_SECONDS})
        finally:
            await asyncio.shield(asyncio.to_thread(self._stack.close))


def _accepted(accept: str) -> list[tuple[str, float]]:
    found = []
    for each in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in each.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            found.append((media_type, float(quality)))
        except ValueError:
            continue
    return found
