"""A query in PostgreSQL as a source: its columns asked for, its rows read as Arrow batches by binary COPY."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from storage import watch
from storage.database import is_transient
from storage.queries import load
from storage.sources import SourceColumn, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from storage.database import Connection, Database
    from storage.parameters import BoundQuery

_SQL = load("database")

# PostgreSQL type -> (Arrow type, cast that the reading query applies). What is not here has no meaning for a
# model or a key: the message asks for a cast in the query.
_TYPES = {
    "int2": ("int16", ""),
    "int4": ("int32", ""),
    "int8": ("int64", ""),
    "float4": ("float", ""),
    "float8": ("double", ""),
    "numeric": ("double", "float8"),
    "bool": ("bool", ""),
    "text": ("string", ""),
    "varchar": ("string", "text"),
    "bpchar": ("string", "text"),
    "name": ("string", "text"),
    "uuid": ("string", "text"),
    "date": ("date32", ""),
}

# A source that somebody has locked is worth a message, not a hanging run.
_LOCK_TIMEOUT = "30s"

# A question is asked again and again while its answer is no.
_QUESTION_TIMEOUT = "30s"

# Bytes PostgreSQL sends before the driver hands a record batch on; the default of 16 MB makes batches of
# 330,000 narrow rows, more than a chunk.
_BATCH_BYTES = 4_000_000

# The Arrow driver gives no SQLSTATE for what happens in mid-stream, only words.
_LOST = re.compile(
    "terminating connection|server closed the connection|connection to server|could not receive data"
    "|shutting down|starting up|recovery|lock timeout|deadlock"
)


# What helps, by SQLSTATE, where it is not the query that is wrong; and by which words the driver's text is known.
_ADVICE = {
    "42501": "; grant SELECT on it to the user that reads, and run again",
    "53100": "; the source's disk is full, perhaps of what it sorts: free some and run again, what is done is kept",
    "53200": "; the source is out of memory: lower its work_mem, and run again",
    "55P03": "; something else has a table of the query locked: run again when that has ended",
}
_SAID = {
    "permission denied": "42501",
    "No space left on device": "53100",
    "out of memory": "53200",
    "lock timeout": "55P03",
}

# Connections to servers that no longer answer, which cannot be closed before the process ends.
_left_open: list[ExitStack] = []


@dataclass(frozen=True)
class QuerySource:
    """A query and the values bound to its parameters.

    `where` is what messages call it (the SQL file's name). Values are bound by the driver as literals, because
    COPY takes no parameters; nothing is ever pasted into the text.
    """

    database: Database
    query: BoundQuery
    values: Mapping[str, Any]
    where: str

    is_ordered = True
    yields = "the query yields"
    mend = "cast it in the query"

    def shown(self) -> dict[str, Any]:
        """Say what a plan shows of it, by name."""
        return {"sql": self.text(), "source": self.database.place}

    def inputs(self) -> dict[str, Any]:
        """Nothing: what a query gives is known when it is read."""
        return {}

    def describe(self) -> tuple[SourceColumn, ...]:
        """Ask PostgreSQL which columns the query yields, without reading a row. Raises SourceError."""
        with self._session() as connection:
            cursor = connection.execute(self._wrapped("SELECT * FROM", connection, "LIMIT 0"))
            columns = [(column.name, column.type_code) for column in cursor.description or ()]
            rows = connection.execute(_SQL["type_names"], {"oids": [oid for _, oid in columns]})
            types = {row["oid"]: row["typname"] for row in rows}
        return tuple(
            SourceColumn(name, types[oid], _TYPES[types[oid]][0] if types[oid] in _TYPES else None)
            for name, oid in columns
        )

    def count(self) -> int:
        """Count the rows the query yields. Raises SourceError."""
        with self._session() as connection:
            row = connection.execute(self._wrapped("SELECT count(*) AS rows FROM", connection))
            return int(row.fetchall()[0]["rows"])

    def estimate(self) -> int | None:
        """Return how many rows the planner expects, without reading one: good for a time left, not for a check."""
        with self._session() as connection:
            row = connection.execute(
                self._wrapped("EXPLAIN (FORMAT json) SELECT * FROM", connection)
            ).fetchone()
        return int(row["QUERY PLAN"][0]["Plan"]["Plan Rows"]) if row else None

    def is_true(self) -> bool:
        """Run the query as a question: one row of one boolean, NULL and no row being no. Raises SourceError."""
        with self._session(statement_timeout=_QUESTION_TIMEOUT) as connection:
            cursor = connection.execute(self._bound(connection).encode())
            rows = cursor.fetchmany(2)
        answer = next(iter(rows[0].values())) if rows else None
        if len(rows) > 1 or (rows and len(rows[0]) != 1) or answer not in (None, True, False):
            raise SourceError(f"{self.where}: it must give one row of one boolean, true or false")
        return bool(answer)

    def text(self) -> str:
        """Return the query as PostgreSQL gets it, values bound."""
        with self._session() as connection:
            return self._bound(connection)

    @contextmanager
    def read(
        self, columns: Sequence[SourceColumn], order: Sequence[SourceColumn] = ()
    ) -> Iterator[RowReader]:
        """Read these columns of every row: one statement, so one snapshot, streamed by binary COPY.

        `order` are columns to sort by, text by its bytes; without them rows come in any order, and in another
        one the next time. Raises SourceError.
        """
        # The driver's own layer, not its DB-API: that one imports pandas, 0.17 s of the start of every run.
        import adbc_driver_postgresql as driver
        from adbc_driver_manager import AdbcConnection, AdbcStatement
        from adbc_driver_manager import Error as DriverError

        with self._session() as connection:
            names = sql.SQL(", ").join(_selected(column) for column in columns)
            selected = sql.SQL("SELECT {} FROM").format(names).as_string()
            statement = self._wrapped(selected, connection, _ordered(order))
        session = self.database.session(
            "read", "default_transaction_read_only=on", f"lock_timeout={_LOCK_TIMEOUT}"
        )
        address = conninfo.make_conninfo(self.database.url, **session)
        with ExitStack() as stack:
            try:
                before = watch.sockets_open()
                stream = stack.enter_context(AdbcConnection(stack.enter_context(driver.connect(address))))
                watched = watch.stream_since(before, self.database)
                if watched:
                    stack.callback(watched.close)
                if watched:
                    with AdbcStatement(stream) as asked:
                        watched.pid = _batches(asked, _SQL["own_session"].decode()).read_all()[0][0].as_py()
                sent = stack.enter_context(AdbcStatement(stream))
            except DriverError as error:
                raise self.fault(error) from error
            reader = RowReader(sent, statement.decode(), self, watched)
            try:
                yield reader
            finally:
                if reader.cancelling and reader.cancelling.is_alive():
                    # Closed under the hands of the thread that asks, the driver would crash the process.
                    _left_open.append(stack.pop_all())

    @contextmanager
    def _session(self, **settings: str) -> Iterator[Connection]:
        settings["lock_timeout"] = _LOCK_TIMEOUT
        with (
            self._errors(),
            self.database.connect(purpose="source", read_only=True, settings=settings) as connection,
        ):
            yield connection

    def _bound(self, connection: Connection) -> str:
        values = {name: self.values[name] for name in self.query.names}
        return psycopg.ClientCursor(connection).mogrify(self.query.text.encode(), values)

    def _wrapped(self, before: str, connection: Connection, behind: str = "") -> bytes:
        # On lines of its own: a query may end in a comment.
        return f"{before} (\n{self._bound(connection)}\n) AS source {behind}".encode()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one line what PostgreSQL had against the query."""
        try:
            yield
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error).strip().splitlines()[0]
            hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
            advice = _ADVICE.get(error.sqlstate or "", "")
            fault = SourceError(f"{self.where}: PostgreSQL says: {self.database.redact(said)}{hint}{advice}")
            fault.is_transient = is_transient(error)
            raise fault from error

    def fault(self, error: Exception) -> SourceError:
        """Take PostgreSQL's words out of what the Arrow driver raised: the line after ERROR."""
        found = re.search(r"(?:ERROR|FATAL):\s*(.+)", str(error))
        said = f"PostgreSQL says: {found.group(1)}" if found else str(error).splitlines()[0]
        state = next((state for words, state in _SAID.items() if words in str(error)), "")
        fault = SourceError(f"{self.where}: {self.database.redact(said)}{_ADVICE.get(state, '')}")
        fault.is_transient = bool(_LOST.search(str(error)))
        return fault


class RowReader:
    """The rows of a query as Arrow record batches, in the order the database gives them."""

    def __init__(
        self, statement: Any, text: str, source: QuerySource, watched: watch.Stream | None = None
    ) -> None:
        self._statement = statement
        self._text = text
        self._source = source
        self._watched = watched
        self.cancelling: threading.Thread | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Run the query and yield record batches of a few megabytes until it is done. Raises SourceError.

        The statement is sent here, by the thread that reads: the driver makes an error of its own of a Ctrl-C
        that arrives while the main thread is inside it.
        """
        from adbc_driver_manager import Error as DriverError
        from adbc_driver_postgresql import StatementOptions

        try:
            self._statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(_BATCH_BYTES)})
            with self._waiting():
                batches = _batches(self._statement, self._text)
        except DriverError as error:
            raise self._source.fault(error) from error
        while True:
            try:
                with self._waiting():
                    batch = batches.read_next_batch()
            except StopIteration:
                return
            except (OSError, ValueError) as error:  # Arrow's way to say what PostgreSQL said in mid-stream
                raise self._source.fault(error) from error
            yield batch

    def cancel(self) -> None:
        """Make a read that is under way in another thread stop now, even where the server does not answer."""

        def ask() -> None:
            with suppress(Exception):  # it may have ended by itself in this very moment
                self._statement.cancel()

        self.cancelling = threading.Thread(target=ask, name="batchpred-cancel", daemon=True)
        self.cancelling.start()
        self.cancelling.join(watch.ANSWER)
        if self._watched and self.cancelling.is_alive():
            self._watched.cut()

    def _waiting(self) -> AbstractContextManager[None]:
        return self._watched.waiting() if self._watched else nullcontext()


def _batches(statement: Any, text: str) -> pa.RecordBatchReader:
    """Send a statement by the Arrow driver and return its rows as they come."""
    import pyarrow as pa

    statement.set_sql_query(text)
    stream, _ = statement.execute_query()
    return pa.RecordBatchReader.from_stream(stream)


def _selected(column: SourceColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    cast = _TYPES[column.type][1]
    return sql.SQL("{}::{} AS {}").format(name, sql.Identifier(cast), name) if cast else name


def _ordered(columns: Sequence[SourceColumn]) -> str:
    if not columns:
        return ""
    # By what is read, not by what it is read from: a uuid's text, and text by its bytes whatever the
    # database's collation, as the run table sorts it.
    by = [
        sql.SQL("({}::text) COLLATE {}").format(sql.Identifier(column.name), sql.Identifier("C"))
        if column.arrow == "string"
        else sql.Identifier(column.name)
        for column in columns
    ]
    return sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(by)).as_string()
