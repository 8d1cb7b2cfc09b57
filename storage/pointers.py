"""Which run is the newest of each job, remembered: told by PostgreSQL at a publish, and looked up besides.

A publish notifies, and what is remembered follows in milliseconds. A notification can be lost with its
connection, and behind a pooler nobody can listen: so every CHECK_SECONDS the pointers are read anyway. What was
read counts for STALE_SECONDS from the moment the reading began; after that it is not trusted, and whoever needs it
must ask the database itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import dict_row

from storage.database import DatabaseError, DatabaseUnreachableError
from storage.queries import load
from storage.served import ServedJob, ServedRun, job_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.database import Database

_SQL = load("reads")
# Twice in the time an answer may be stale, so that one slow reading does not end the trust in all of them.
CHECK_SECONDS = 0.4
STALE_SECONDS = 1.0
_STATEMENT_TIMEOUT_MS = 1_000
# A peer that is silent for so long is given up, and another connection made.
_SILENT_SECONDS = 2.0
_logger = logging.getLogger("batchpred.api")


@dataclass(frozen=True)
class Pointer:
    """A job and the run that readers see of it."""

    job: ServedJob
    run: ServedRun


class Pointers:
    """The remembered pointers of all jobs. `on_read` is called after every reading with all of them."""

    def __init__(self, database: Database, on_read: Callable[[dict[str, Pointer]], None]) -> None:
        self._database = database
        self._on_read = on_read
        self._read_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def are_trusted(self, now: float) -> bool:
        """Say whether the last reading is young enough to answer from, by the monotonic clock."""
        return now - self._read_at < STALE_SECONDS

    def start(self) -> None:
        """Begin to listen and look, in the running event loop."""
        self._task = asyncio.create_task(self._keep(), name="batchpred-pointers")

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        while True:
            # Whatever ended it: until it works again nothing is trusted, so nobody is answered wrongly.
            try:
                await self._listen()
            except (psycopg.Error, DatabaseError, DatabaseUnreachableError, TimeoutError):
                pass
            except Exception:  # such as a schema that was upgraded beyond this server
                _logger.exception("the newest runs could not be read")
            await asyncio.sleep(CHECK_SECONDS)

    async def _listen(self) -> None:
        async with asyncio.timeout(_SILENT_SECONDS):
            connection = await self._database.reader(
                purpose="api pointers", statement_timeout_ms=_STATEMENT_TIMEOUT_MS
            )
        try:
            connection.row_factory = dict_row
            if not connection.is_lent:
                async with asyncio.timeout(_SILENT_SECONDS):
                    await connection.execute(_SQL["listen"])
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    await self._read(connection)
                if connection.is_lent:
                    await asyncio.sleep(CHECK_SECONDS)
                    continue
                async for _ in connection.notifies(timeout=CHECK_SECONDS, stop_after=1):
                    pass
        finally:
            await connection.close()

    async def _read(self, connection: psycopg.AsyncConnection[dict[str, object]]) -> None:
        began = time.monotonic()
        # Runs first: a publish between the two may change the job (a new output, its first canary). What a later
        # job says can be read of an earlier run, but not the other way round.
        runs = await (await connection.execute(_SQL["newest_runs"])).fetchall()
        jobs = await (await connection.execute(_SQL["served_jobs"])).fetchall()
        newest = {run.job: run for run in (ServedRun(**row) for row in runs)}  # type: ignore[arg-type]  # as selected
        found = {job.name: job for job in map(job_of, jobs)}
        self._on_read({name: Pointer(found[name], run) for name, run in newest.items() if name in found})
        self._read_at = began
