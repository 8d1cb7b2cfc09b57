"""Look-ups of one moment, gathered: all the keys asked for while the database was busy go in one statement.

Each statement names one run and says besides which run is the newest at its own moment; where that is another
one, the asker is told (`MovedError`) and asks anew. So an answer is of the newest run by the very statement that
found it, however old the asker's knowledge was.

Measured on 2 cores with 48 keys a statement, for one statement with psycopg's binary results under uvloop:
225 µs, 75 µs of them this process; asyncpg 221 and 65. One driver is kept.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from storage import reads
from storage.database import DatabaseError, DatabaseUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import psycopg

    from storage.database import Database
    from storage.pointers import Pointer

# While one statement runs the next one gathers; a second lane uses what a single one would wait.
LANES = 2
MAX_KEYS = 256
MAX_WAITING = 20_000
STATEMENT_TIMEOUT_MS = 2_000
# A peer that is silent for so long is given up: those who wait are answered 503.
SILENT_SECONDS = 3.0
_MAX_ABANDONED = 8
_logger = logging.getLogger("batchpred.api")


# Who asked is called with the row (key columns, outputs, run_id), None where the run does not have the key, or the
# error. A future for each took a tenth of a look-up's time.
Done: TypeAlias = "Callable[[tuple[Any, ...] | Exception | None], None]"
Asked: TypeAlias = "dict[tuple[Any, ...], list[Done]]"


class MovedError(Exception):
    """Another run is the newest by now."""


class Target:
    """One run to look keys up in: its statement, and who waits for which key."""

    def __init__(self, pointer: Pointer) -> None:
        self.job, self.run = pointer.job, pointer.run
        self.statement = reads.look_up_newest(self.job, self.run.run_id).as_bytes()
        self.waiting: Asked = {}


class Lookups:
    """The lanes to the database, and what waits for them. Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._idle: list[psycopg.AsyncConnection[Any] | None] = [None] * LANES
        self._queue: dict[Target, None] = {}
        self._waiting = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, target: Target, key: tuple[Any, ...], done: Done) -> None:
        """Look a key up; errors are MovedError and DatabaseError. `done` is called later, never at once."""
        others = target.waiting.get(key)
        if others is not None:
            others.append(done)
            return
        if self._waiting >= MAX_WAITING or len(self._tasks) > _MAX_ABANDONED:
            self._loop.call_soon(done, DatabaseUnreachableError("too many look-ups wait for the database"))
            return
        target.waiting[key] = [done]
        self._waiting += 1
        self._queue[target] = None
        if self._idle and not self._scheduled:
            # At the end of this turn of the loop: what else arrived in it goes along.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    async def close(self) -> None:
        """Close the lanes; what is under way is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._idle:
            if connection is not None:
                await connection.close()

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._idle and self._queue:
            target = next(iter(self._queue))
            keys = list(target.waiting)[:MAX_KEYS]
            asked = {key: target.waiting.pop(key) for key in keys}
            self._waiting -= len(asked)
            del self._queue[target]
            if target.waiting:
                self._queue[target] = None
            task = self._loop.create_task(self._run(self._idle.pop(), target, asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(
        self,
        connection: psycopg.AsyncConnection[Any] | None,
        target: Target,
        asked: Asked,
    ) -> None:
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            _settle(asked, DatabaseUnreachableError("the database is silent"))
            self._free(None)

        alarm = self._loop.call_later(SILENT_SECONDS, give_up)
        try:
            with self._database.errors("look-up"):
                if connection is None:
                    connection = await self._database.reader(
                        purpose="api look-ups", statement_timeout_ms=STATEMENT_TIMEOUT_MS
                    )
                cursor = connection.cursor(binary=True)
                await cursor.execute(
                    target.statement, reads.key_arrays(target.job, list(asked)), prepare=True
                )
                rows = await cursor.fetchall()
        except (DatabaseError, DatabaseUnreachableError) as error:
            if not given_up:
                _settle(asked, error)
            if connection is not None:
                with suppress(Exception):  # it is broken already; what matters is that it is not used again
                    await connection.close()
            connection = None
        else:
            if not given_up:
                _answer(target, asked, rows)
        finally:
            alarm.cancel()
            if not given_up:
                self._free(connection)
        if given_up and connection is not None:
            await connection.close()

    def _free(self, connection: psycopg.AsyncConnection[Any] | None) -> None:
        self._idle.append(connection)
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)


def _answer(target: Target, asked: Asked, rows: list[tuple[Any, ...]]) -> None:
    if rows[0][0] != target.run.run_id:
        _settle(asked, MovedError())
        return
    width = len(target.job.key)
    found = {row[1 : 1 + width]: row[1:] for row in rows}
    for key, waiting in asked.items():
        _tell(waiting, found.get(key))


def _settle(asked: Asked, error: Exception) -> None:
    for waiting in asked.values():
        _tell(waiting, error)


def _tell(waiting: list[Done], outcome: tuple[Any, ...] | Exception | None) -> None:
    for done in waiting:
        try:
            done(outcome)
        except Exception:  # one who asked must not keep the others from their answers
            _logger.exception("an answer could not be given")
