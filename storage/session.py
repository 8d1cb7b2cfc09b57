"""What a session is set to, and how: once where it is ours alone, in every transaction where a pooler lends it.

A pooler in transaction mode, such as PgBouncer, lends a session of the server to a client for one transaction and
then to another client. What is set for such a session would be lost for us and reach others, and so would a
LISTEN or a prepared statement. So behind a pooler every transaction begins with the statement that settles it,
which sets all for this transaction alone; and a statement outside of a transaction goes out behind it, in one
transaction with it. Its answer is waited for first: by it the session that works for us is known
(storage/watch.py). Only the time zone is set for good: PgBouncer keeps it for each client.

A pooler is known by the number of the server's process: at the login it tells one of its own making.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row: TypeAlias = "dict[str, Any]"

# The text comes from storage/sql/, not from a user: it is as literal as a literal.
_SQL = {name: sql.SQL(load("database")[name].decode()) for name in ("settle", "setting", "take_role")}
_LOST_CLIENT = "client_connection_check_interval"


@dataclass(frozen=True)
class Settings:
    """The role to take where it exists and may be taken, and values by their names on the server."""

    role: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    def without(self, name: str) -> Settings:
        """Return the same but for one value."""
        return replace(self, values={known: value for known, value in self.values.items() if known != name})

    def statement(self, login_pid: int) -> bytes:
        """Write the statement that takes them, given the server's number as the login told it."""
        settings = [_SQL["setting"].format(name=name, value=value) for name, value in self.values.items()]
        if self.role:
            settings.append(_SQL["take_role"].format(role=self.role))
        return _SQL["settle"].format(settings=sql.SQL(", ").join(settings), login_pid=login_pid).as_bytes()


class Session(psycopg.Connection[Row]):
    """A connection whose settings hold behind a pooler, too."""

    is_lent = False
    settling = b""
    lent_pid = 0

    @property
    def server_pid(self) -> int:
        """The number of the server's process that works for us now; 0 where a pooler may give any."""
        return self.lent_pid if self.is_lent else self.info.backend_pid

    def settle(self, settings: Settings) -> None:
        """Take the settings, and learn whether a pooler stands in between; call it once, first."""
        self.settling = settings.statement(self.info.backend_pid)
        try:
            self.is_lent = self.settled() != self.info.backend_pid
        except psycopg.errors.InvalidParameterValue:
            if _LOST_CLIENT not in settings.values:
                raise
            self.settle(settings.without(_LOST_CLIENT))  # a platform that cannot look for a lost client
        if self.is_lent:
            self.cursor_factory = _LentCursor
            # Statements prepared in one of the server's sessions are unknown in the next.
            self.prepare_threshold = None

    def settled(self) -> int:
        """Settle the session or, where it is lent, this transaction; return the number of the server's process."""
        row = psycopg.Cursor(self, row_factory=tuple_row).execute(self.settling).fetchone()
        assert row is not None  # noqa: S101  # a SELECT from one row
        return int(row[0])

    @contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002  # the driver's
    ) -> Iterator[psycopg.Transaction]:
        """Do the block in a transaction, or in a savepoint of the one that is open, as the driver does."""
        begins = self.is_lent and self.pgconn.transaction_status == TransactionStatus.IDLE
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                if begins:
                    self.lent_pid = self.settled()
                yield transaction
        finally:
            if begins:  # not before the COMMIT is answered: it is the reply that may never come
                self.lent_pid = 0


class _LentCursor(psycopg.Cursor[Any]):
    """A cursor whose statements outside of a transaction are settled like those inside."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        session = self.connection
        assert isinstance(session, Session)  # noqa: S101  # the only one that makes these
        if session.pgconn.transaction_status != TransactionStatus.IDLE:
            return super().execute(query, params, **options)
        try:
            with session.pipeline():
                session.lent_pid = session.settled()
                return super().execute(query, params, **options)
        finally:
            session.lent_pid = 0

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        # Inside a transaction that is open already this is a savepoint, which changes nothing.
        with self.connection.transaction():
            yield from super().stream(query, params, **options)


class AsyncSession(psycopg.AsyncConnection[Any]):
    """The same for the event loop: no transaction is longer than a statement, and both go out in one round trip."""

    is_lent = False
    settling = b""

    async def settle(self, settings: Settings) -> None:
        """Take the settings, and learn whether a pooler stands in between; call it once, first."""
        self.settling = settings.statement(self.info.backend_pid)
        cursor = psycopg.AsyncCursor(self, row_factory=tuple_row)
        row = await (await cursor.execute(self.settling, prepare=False)).fetchone()
        self.is_lent = row is not None and row[0] != self.info.backend_pid
        if self.is_lent:
            self.cursor_factory = _LentAsyncCursor
            self.prepare_threshold = None


class _LentAsyncCursor(psycopg.AsyncCursor[Any]):
    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        session = self.connection
        assert isinstance(session, AsyncSession)  # noqa: S101  # the only one that makes these
        async with session.pipeline():
            await psycopg.AsyncCursor(session).execute(session.settling)
            return await super().execute(query, params, **options)
