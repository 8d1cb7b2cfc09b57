"""Look-ups of one moment, gathered: all the keys asked for while the database was busy go in one statement.

Each statement names one run and says besides which run is the newest at its own moment; where that is another
one, the asker is told (`MovedError`) and asks anew. So an answer is of the newest run by the very statement that
found it, however old the asker's knowledge was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

from storage import reads
from storage.database import DatabaseError, DatabaseUnreachableError
from storage.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from storage.database import Database
    from storage.lane import Rows
    from storage.pointers import Pointer

# While one statement runs the next one gathers; a second lane uses what a single one would wait.
LANES = 2
MAX_KEYS = 256
MAX_WAITING = 20_000
STATEMENT_TIMEOUT_MS = 2_000
# A peer that is silent for so long is given up: those who wait are answered 503.
SILENT_SECONDS = 3.0
# Amid a turn of the loop the lanes are attended to so often, and fewer keys wait for its end: a statement takes
# 90 µs in PostgreSQL for one key and 2.5 for each more. With 64 clients and 1 key of 8 not remembered, an answer
# was taken up 0.25 ms after its question so, and 0.97 ms at the end of the turn; 2 or 4 keys for a statement took
# a tenth to a half more of the processor, and a third lane changed nothing.
ATTEND_SECONDS = 0.0002
FEW_KEYS = 8
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
        for number in range(1, len(self.job.key) + 1):  # as PostgreSQL itself has them
            self.statement = self.statement.replace(b"%s", b"$%d" % number, 1)
        self.waiting: Asked = {}


class Lookups:
    """The lanes to the database, and what waits for them. Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        # None is a lane that must be opened first.
        self._idle: list[Lane | None] = [None] * LANES
        self._queue: dict[Target, None] = {}
        self._waiting = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[Lane] = set()
        self._is_attending = False
        self._attend_at = 0.0

    def find(self, target: Target, key: tuple[Any, ...], done: Done) -> None:
        """Look a key up; errors are MovedError and DatabaseError. `done` is called later, never at once."""
        others = target.waiting.get(key)
        if others is not None:
            others.append(done)
            return
        if self._waiting >= MAX_WAITING:
            self._loop.call_soon(done, DatabaseUnreachableError("too many look-ups wait for the database"))
            return
        target.waiting[key] = [done]
        self._waiting += 1
        self._queue[target] = None
        if self._idle:
            self._schedule()

    def attend(self, now: float) -> None:
        """Take what the lanes have by now, unless that was done just before; `now` is the monotonic clock's.

        For whoever is asked by many clients in one turn of the loop: by itself the loop comes to a lane only after
        all that was readable before it, and who waits there waits for all of them.
        """
        if self._is_attending or not self._busy or now < self._attend_at:
            return
        self._is_attending = True
        try:
            for lane in tuple(self._busy):
                lane.receive()
            if self._waiting >= FEW_KEYS:
                self._dispatch()
        finally:
            self._is_attending = False
            self._attend_at = time.monotonic() + ATTEND_SECONDS

    async def close(self) -> None:
        """Close the lanes; what is under way is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in (*self._busy, *self._idle):
            if lane is not None:
                lane.close()

    def _schedule(self) -> None:
        """Dispatch at the end of this turn of the loop: what else arrives in it goes along."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._idle and self._queue:
            target = next(iter(self._queue))
            asked = target.waiting
            if len(asked) > MAX_KEYS:
                asked = {key: target.waiting.pop(key) for key in list(asked)[:MAX_KEYS]}
            else:
                target.waiting = {}
                del self._queue[target]
            self._waiting -= len(asked)
            lane = self._idle.pop()
            if lane is not None and lane.is_open:
                self._ask(lane, target, asked)
            else:
                task = self._loop.create_task(self._open(target, asked))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _open(self, target: Target, asked: Asked) -> None:
        """Open a lane and ask there."""
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                with self._database.errors("look-up"):
                    connection = await self._database.reader(
                        purpose="api look-ups", statement_timeout_ms=STATEMENT_TIMEOUT_MS
                    )
        except TimeoutError:
            self._end(None, asked, DatabaseUnreachableError("the database is silent"))
        except (DatabaseError, DatabaseUnreachableError) as error:
            self._end(None, asked, error)
        except Exception:  # or this lane were lost, and who asked would wait for ever
            _logger.exception("no connection for look-ups could be opened")
            self._end(None, asked, DatabaseUnreachableError("no connection could be opened"))
        else:
            self._ask(Lane(connection), target, asked)

    def _ask(self, lane: Lane, target: Target, asked: Asked) -> None:
        def done(outcome: Rows | psycopg.Error) -> None:
            alarm.cancel()
            self._busy.discard(lane)
            if isinstance(outcome, psycopg.Error):
                self._end(None, asked, self._fault(outcome))
            else:
                # What gathered meanwhile is on its way before these are answered.
                self._idle.append(lane)
                try:
                    if self._is_attending and self._waiting < FEW_KEYS:
                        self._schedule()
                    else:
                        self._dispatch()
                finally:
                    _answer(target, asked, outcome)

        def give_up() -> None:
            self._busy.discard(lane)
            lane.close()
            self._end(None, asked, DatabaseUnreachableError("the database is silent"))

        alarm = self._loop.call_later(SILENT_SECONDS, give_up)
        self._busy.add(lane)
        lane.ask(target.statement, reads.key_arrays(target.job, list(asked)), done)

    def _end(self, lane: Lane | None, asked: Asked, error: Exception) -> None:
        self._idle.append(lane)
        if self._queue:
            self._schedule()
        _settle(asked, error)

    def _fault(self, error: psycopg.Error) -> DatabaseError:
        try:
            with self._database.errors("look-up"):
                raise error
        except DatabaseError as fault:
            return fault


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
        except Exception:  # one who asked must not keep the others from their answers, nor wait for ever
            _logger.exception("an answer could not be given")
            with suppress(Exception):
                done(DatabaseError("the answer could not be given"))
