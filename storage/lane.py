"""One connection for look-ups, driven by the event loop through libpq: a statement at a time, prepared once.

Behind a pooler, which lends a session for one transaction, nothing is prepared, and each statement is a settled
transaction (storage/session.py).

The driver's coroutines take 100 µs of processor time more for a statement (measured with 8 keys). What is done here
is what they do: send, wait until the socket is readable, take the results until there are no more.

    idle ── ask ──► under way ── all results ──► idle
                        └── an error of any kind, or `close` ──► closed, and never used again
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, Format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult

    from storage.session import AsyncSession

    Rows: TypeAlias = list[tuple[Any, ...]]

# Each run has a statement of its own: those of runs long gone are given up together.
_MOST_PREPARED = 100


class Lane:
    """An open connection that belongs to the running event loop from now on."""

    def __init__(self, connection: AsyncSession) -> None:
        self._connection = connection  # whoever forgets it closes it
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._names: dict[bytes, bytes] = {}
        self._steps: list[Callable[[], None]] = []
        self._result: PGresult | None = None
        self._done: Callable[[Rows | psycopg.Error], None] | None = None
        self._loop.add_reader(self._socket, self.receive)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._socket >= 0

    def ask(
        self, statement: bytes, values: Sequence[Any], done: Callable[[Rows | psycopg.Error], None]
    ) -> None:
        """Run a statement with the values of its $1, $2 …, and give `done` all its rows, or the error.

        Types are not sent along, so a number is given as text: of an integer the driver writes two to eight bytes.
        `done` is called later, or at once with an error; after an error the lane is closed.
        """
        self._done = done
        try:
            sent = self._transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        except psycopg.Error as error:
            self._end(error)
            return
        formats = list(self._transformer.formats or ())
        if self._connection.is_lent:
            begin = b"BEGIN;" + self._connection.settling
            self._steps += [
                lambda: self._pgconn.send_query(begin),
                lambda: self._pgconn.send_query_params(
                    statement, sent, param_formats=formats, result_format=Format.BINARY
                ),
                lambda: self._pgconn.send_query(b"COMMIT"),
            ]
        else:
            self._prepared(statement, sent, formats)
        self._step()

    def close(self) -> None:
        """Close it; what is under way is dropped."""
        if self.is_open:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1
            self._done = None
            self._pgconn.finish()

    def _prepared(self, statement: bytes, sent: Sequence[Buffer | None], formats: list[Format]) -> None:
        name = self._names.get(statement)
        if name is None:
            if len(self._names) >= _MOST_PREPARED:
                self._names.clear()
                self._steps.append(lambda: self._pgconn.send_query(b"DEALLOCATE ALL"))
            name = self._names[statement] = b"look_up_%d" % len(self._names)
            self._steps.append(lambda: self._pgconn.send_prepare(name, statement))
        self._steps.append(
            lambda: self._pgconn.send_query_prepared(name, sent, formats, result_format=Format.BINARY)
        )

    def _step(self) -> None:
        try:
            self._steps.pop(0)()
            if self._pgconn.flush():
                self._loop.add_writer(self._socket, self._writable)
        except psycopg.Error as error:
            self._end(error)

    def _writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._end(error)

    def receive(self) -> None:
        """Take what came, and end with it where that was all; the loop may then find nothing left."""
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    break
                if result.status == ExecStatus.TUPLES_OK:
                    self._result = result
                elif result.status != ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(result)
            else:
                return
            if self._done is None:  # nobody asked: what came is a message, or the end, which is raised next
                return
            if self._steps:
                self._step()
                return
            rows: Rows = []
            if self._result is not None:
                self._transformer.set_pgresult(self._result)
                rows = self._transformer.load_rows(0, self._result.ntuples, tuple)
        except psycopg.Error as error:
            self._end(error)
        else:
            self._end(rows)

    def _end(self, outcome: Rows | psycopg.Error) -> None:
        done, self._done, self._result = self._done, None, None
        if isinstance(outcome, psycopg.Error):
            self.close()
        if done is not None:
            done(outcome)
