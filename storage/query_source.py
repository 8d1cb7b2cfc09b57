"""A query in PostgreSQL as a source: its columns asked for, its rows read as Arrow batches by binary COPY."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from storage import copy_out, watch
from storage.database import is_transient
from storage.queries import load
from storage.sources import SourceColumn, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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

# What helps, by SQLSTATE, where it is not the query that is wrong.
_ADVICE = {
    "42501": "; grant SELECT on it to the user that reads, and run again",
    "53100": "; the source's disk is full, perhaps of what it sorts: free some and run again, what is done is kept",
    "53200": "; the source is out of memory: lower its work_mem, and run again",
    "55P03": "; something else has a table of the query locked: run again when that has ended",
}


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
            return self.columns(connection)

    def columns(self, connection: Connection) -> tuple[SourceColumn, ...]:
        """Return the columns the query yields; until the transaction ends nobody can give its tables others."""
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
        with closing(self.database.connect(purpose="read")) as connection:
            with self.errors():
                names = sql.SQL(", ").join(_selected(column) for column in columns)
                selected = sql.SQL("COPY (SELECT {} FROM").format(names).as_string()
                behind = f"{_ordered(order)}) TO STDOUT (FORMAT binary)"
                statement = self._wrapped(selected, connection, behind)
            yield RowReader(self, columns, connection, statement)

    @contextmanager
    def _session(self, **settings: str) -> Iterator[Connection]:
        settings["lock_timeout"] = _LOCK_TIMEOUT
        with (
            self.errors(),
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
    def errors(self) -> Iterator[None]:
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


class RowReader:
    """The rows of a query as Arrow record batches, in the order the database gives them."""

    def __init__(
        self, source: QuerySource, columns: Sequence[SourceColumn], connection: Connection, statement: bytes
    ) -> None:
        self._source = source
        self._columns = columns
        self._connection = connection
        self._statement = statement

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Run the query and yield record batches of a few megabytes until it is done. Raises SourceError."""
        from storage.copy_decode import RowDecoder, RowsUnlikeColumnsError

        decoder = RowDecoder([(column.name, _TYPES[column.type][0]) for column in self._columns])
        connection = self._connection
        # Rolled back: there is nothing to commit, and a COMMIT is a point of a run's that a fault can strike.
        with self._source.errors(), connection.transaction(force_rollback=True):
            try:
                connection.execute(_SQL["settle_read"], {"lock_timeout": _LOCK_TIMEOUT})
                # Asked for again where it holds: a value of another type may have the same length.
                now = self._source.columns(connection)
                if others := [column.name for column in self._columns if column not in now]:
                    raise RowsUnlikeColumnsError(f"column {', '.join(others)}")
                for block, sizes in copy_out.blocks(connection, self._statement):
                    batch = decoder.decode(block, sizes)
                    with watch.paused(connection):
                        yield batch
            except BaseException as error:
                connection.close()  # in mid-stream the server understands nothing else
                if isinstance(error, RowsUnlikeColumnsError):
                    raise SourceError(f"{self._source.where}: {error}; run again") from error
                raise

    def cancel(self) -> None:
        """Make a read that is under way in another thread stop now, even where the server does not answer."""
        try:
            self._connection.cancel_safe(timeout=watch.ANSWER)
        except psycopg.Error:
            watch.cut(self._connection)


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
