"""How a connection to PostgreSQL is made: address, session settings, and errors that never show a password."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

from storage import watch
from storage.errors import ConfigurationError, StorageError
from storage.session import AsyncSession, Row, Session, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    from psycopg_pool import ConnectionPool

Connection: TypeAlias = Session

__all__ = [
    "Connection",
    "Database",
    "DatabaseAddressError",
    "DatabaseError",
    "DatabaseUnreachableError",
    "Row",
]

_POOL_PATIENCE_SECONDS = 2.0

_SCHEMES = re.compile(r"^(postgres|postgresql)(\+psycopg)?://")

# A runner that froze between its last statement and COMMIT must not hold the claim's row for ever: the
# server ends it, and the next runner takes over.
_IDLE_IN_TRANSACTION = "15s"
# A writer waits for no lock for ever. Longer than what it may wait for in good order: a frozen runner's open
# transaction, which ends after the time above.
_WRITER_LOCK_TIMEOUT = "30s"
# By this the server notices that a writer is gone: while a statement works, and while it waits for the next rows.
# Behind a pooler the second is between that and the server, and the pooler's own matter.
_LOST_CLIENT = {
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30s",
}
# A peer that vanished without a word (a cable, a machine) is noticed on either side within half a minute:
# without these a frozen or cut-off runner kept its locks for over 200 s.
_KEEPALIVES = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
# A session's transactions to come, and, where only this one is ours, this one.
_READ_ONLY = {"default_transaction_read_only": "on", "transaction_read_only": "on"}


class DatabaseAddressError(ConfigurationError):
    """A database address is no PostgreSQL URL."""


class DatabaseUnreachableError(StorageError):
    """PostgreSQL could not be reached or refused the login."""


class DatabaseError(StorageError):
    """PostgreSQL refused a statement or went away in the middle of one."""


# What helps, by class of SQLSTATE.
_ADVICE = {
    "08": "the connection was lost: run again once the server is back",
    "25": "run again",
    "28": "check the login in BATCHPRED_DATABASE_URL",
    "40": "run again",
    "42": "the user lacks a right or the schema is not as expected: batchpred doctor",
    "42501": "grant the right, see batchpred db grants, and run again: what is done is kept",
    "53": "the server is short of something: free some and run again, what is done is kept",
    "53100": "the server's disk is full: free some (batchpred gc drops runs nobody can reach) and run again",
    "53200": "the server is out of memory: lower chunk_rows or its work_mem, and run again",
    "55": "something else has the table locked: run again",
    "57": "the server ended the session: run again once it is back",
}


@dataclass(frozen=True)
class Database:
    """One PostgreSQL database: its address, known not to be malformed, and how to connect to it."""

    url: str = field(repr=False)

    @classmethod
    def at(cls, url: str, *, named: str = "the database URL") -> Database:
        """Check and normalise an address; `named` says where it came from, as the error will call it.

        Raises DatabaseAddressError, which never repeats the address: it may hold a password.
        """
        normal, found = _SCHEMES.subn("postgresql://", url.strip())
        try:
            parts = conninfo.conninfo_to_dict(normal) if found else {}
        except psycopg.Error:
            parts = {}
        if not parts or not str(parts.get("port") or "5432").replace(",", "").isdigit():
            raise DatabaseAddressError(
                f"{named} is not a PostgreSQL address; it reads postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
                "with @ : / ? # % in the password written as %40 %3A %2F %3F %23 %25"
            )
        return cls(normal)

    @property
    def place(self) -> str:
        """Where it is, for messages: user@host:port/database, without the password."""
        parts = conninfo.conninfo_to_dict(self.url)
        user, host = parts.get("user") or "", parts.get("host") or "localhost"
        database = parts.get("dbname") or user
        return f"{user}{'@' if user else ''}{host}:{parts.get('port') or 5432}/{database}"

    def connect(
        self,
        *,
        purpose: str,
        as_writer: bool = False,
        read_only: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> Connection:
        """Open a connection in autocommit: every transaction is an explicit `with conn.transaction()`.

        `purpose` shows in pg_stat_activity. `as_writer` drops to the role batchpred_writer where it exists
        and this user may, so that what a run creates has one owner and the run has no right it needs not.
        A writer's session ends by itself where its client is gone. `settings` are the server's, by name; they hold
        behind a pooler, too. Raises DatabaseUnreachableError.
        """
        values = {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION}
        if as_writer:
            values |= {"lock_timeout": _WRITER_LOCK_TIMEOUT, **_LOST_CLIENT}
        if read_only:
            values |= _READ_ONLY
        try:
            connection = Session.connect(
                self.url,
                autocommit=True,
                row_factory=dict_row,
                prepare_threshold=None,
                **self.session(purpose),
            )
        except psycopg.OperationalError as error:
            raise DatabaseUnreachableError(
                f"cannot connect to {self.place}: {self.redact(_reason(error))}; "
                "check that PostgreSQL runs there and that BATCHPRED_DATABASE_URL is right (batchpred doctor)"
            ) from None
        watch.note(connection, self)
        with self.errors("beginning a session"):
            try:
                connection.settle(
                    Settings("batchpred_writer" if as_writer else None, {**values, **(settings or {})})
                )
            except BaseException:
                connection.close()
                raise
        return connection

    def session(self, purpose: str) -> dict[str, Any]:
        """Return what every session of ours is opened with: name, encoding, and how long a silent peer is borne."""
        return {
            "application_name": f"batchpred {purpose}",
            "client_encoding": "UTF8",
            "connect_timeout": "10",
            **_KEEPALIVES,
        }

    def pool(self, *, purpose: str, size: int, statement_timeout_ms: int) -> ConnectionPool[Connection]:
        """Make a pool of at most `size` reading connections; it is opened by the caller, in the background.

        A connection is looked at before it is handed out, so the pool recovers by itself from a restart. Its
        transactions are repeatable-read and read-only, as the role batchpred_api where this user may take it.
        """
        from psycopg_pool import ConnectionPool  # commands other than `serve` have no pool

        return ConnectionPool(
            self.url,
            connection_class=Session,
            kwargs={"row_factory": dict_row, **self._reading(purpose)},
            configure=partial(_become_reader, settings=_reader(statement_timeout_ms)),
            min_size=1,
            max_size=size,
            check=_check_reader,
            # The pool doubles its pauses between attempts: after minutes without a database it would stay away
            # for minutes more. Given up early, it tries anew with the next who asks.
            reconnect_timeout=_POOL_PATIENCE_SECONDS,
            open=False,
        )

    def _reading(self, purpose: str) -> dict[str, Any]:
        quick = {"connect_timeout": "3", "tcp_user_timeout": "5000"}
        return {"autocommit": True, "prepare_threshold": None, **self.session(purpose), **quick}

    async def reader(self, *, purpose: str, statement_timeout_ms: int) -> AsyncSession:
        """Open one reading connection for the event loop, as the role batchpred_api where this user may take it.

        Its plans are made once for a statement: it runs few statements, many times.

        Raises DatabaseUnreachableError.
        """
        # With None the driver prepares nothing, not even what is asked for with prepare=True.
        arguments = {**self._reading(purpose), "prepare_threshold": 0}
        try:
            connection = await AsyncSession.connect(self.url, **arguments)
            try:
                await connection.settle(_reader(statement_timeout_ms, plan_cache_mode="force_generic_plan"))
            except BaseException:
                await connection.close()
                raise
        except psycopg.OperationalError as error:
            raise DatabaseUnreachableError(
                f"cannot connect to {self.place}: {self.redact(_reason(error))}"
            ) from None
        return connection

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn what the driver raises in the block into one clear line: what was done, and PostgreSQL's words.

        Raises DatabaseError.
        """
        given_up = watch.given_up()
        try:
            yield
        except psycopg.Error as error:
            state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
            lost = isinstance(error, psycopg.OperationalError) and not error.sqlstate
            code = "08000" if lost else error.sqlstate or ""
            advice = _ADVICE.get(code) or _ADVICE.get(code[:2], "`--traceback` shows where")
            said = self.redact(error.diag.message_primary or _reason(error))
            if lost and watch.given_up() > given_up:
                said = f"nothing any more, for {watch.SILENCE:g} s on a connection that stays open"
                advice = (
                    "look at the network and what stands in between, then run again: what is done is kept"
                )
            fault = DatabaseError(f"{doing}: {self.place} says: {said}{state}; {advice}")
            fault.is_transient = is_transient(error)
            raise fault from error

    def redact(self, text: str) -> str:
        """Remove this address's password from a text that is about to be shown."""
        password = conninfo.conninfo_to_dict(self.url).get("password")
        return text.replace(str(password), "***") if password else text


def _reader(statement_timeout_ms: int, **more: str) -> Settings:
    values = {
        "statement_timeout": str(statement_timeout_ms),
        "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
    }
    return Settings("batchpred_api", {**values, **_READ_ONLY, **more})


def _become_reader(connection: Connection, settings: Settings) -> None:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.settle(settings)


def _check_reader(connection: Connection) -> None:
    """Ask the server for nothing at all, which needs no settings. Raises psycopg.OperationalError."""
    psycopg.Cursor(connection).execute("")


def is_transient(error: psycopg.Error) -> bool:
    """Tell by the SQLSTATE whether the same statement may succeed a moment later, on a new connection.

    Without a state the connection broke, and nobody knows whether the last statement was done: look first.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_TRANSIENT)


# Lost connections, serialization and deadlock, an administrator or a restart, an open transaction that lasted
# too long, a lock, too many connections. Not 53100 (disk full) and 53200 (out of memory): those need a person.
_TRANSIENT = ("08", "40", "57P0", "25P03", "55P03", "53300")


def _reason(error: psycopg.Error) -> str:
    """Take the server's or libpq's own words, without its way of saying where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return lines[0].rsplit(" failed: ", 1)[-1].removeprefix("FATAL:").strip()
