"""A job's own checks: queries over a run that nobody sees yet, which must find nothing.

A check's query reads the run as the relation `staged`: its key and its outputs; and what readers see of the job
until then as `before`, the same columns but vectors, empty before the first publish. It is one SELECT, run in
a read-only transaction with a time limit, and what it finds is what is wrong. Before a row is scored it is tried on
an empty `staged`, so that a broken query costs no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from storage.database import is_transient
from storage.errors import ConfigurationError
from storage.predictions import columns_of, run_table

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from storage.database import Connection
    from storage.job_table import JobTable
    from storage.parameters import BoundQuery

# Rows that are named in the message of a failed check.
SHOWN_ROWS = 3
# An aggregate over ten million rows took 2 s; a check that needs a minute was not meant so.
TIME_LIMIT_SECONDS = 60


class CheckQueryError(ConfigurationError):
    """A check's query cannot be run: it is wrong, or takes too long."""


@dataclass(frozen=True)
class Check:
    """A check's name, its query, and the values bound to it; `where` is what messages call it."""

    name: str
    query: BoundQuery
    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Finding:
    """What a check found: how many rows, and the first of them, each as text."""

    rows: int
    first: tuple[str, ...]


def try_out(connection: Connection, job: JobTable, check: Check) -> None:
    """Run a check over a run without rows. Raises CheckQueryError."""
    _run(connection, job, check, sql.SQL("SELECT {} WHERE false").format(_columns(job, ())))


def find(connection: Connection, job: JobTable, run_id: int, check: Check) -> Finding | None:
    """Run a check over a complete run; None where it finds nothing. Raises CheckQueryError."""
    run = sql.SQL("SELECT {} FROM {}").format(_columns(job), run_table(run_id))
    rows, columns = _run(connection, job, check, run)
    if not rows:
        return None
    return Finding(rows[0][0], tuple(_said(columns[1:], row[1:]) for row in rows))


_TYPES = {
    name: name
    for name in (
        "bigint", "double precision", "boolean", "date", "text", "real[]", "double precision[]", "bigint[]"
    )
}  # fmt: skip


def _columns(job: JobTable, there: Container[str] | None = None, *, vectors: bool = True) -> sql.Composed:
    """The job's columns, those that are not `there` as NULL of their type; without vectors on request."""
    return sql.SQL(", ").join(
        sql.Identifier(column.name)
        if there is None or column.name in there
        else sql.SQL("NULL::{} AS {}").format(sql.SQL(_TYPES[column.type]), sql.Identifier(column.name))
        for column in job.columns
        if vectors or not column.is_vector
    )


def _before(connection: Connection, job: JobTable) -> sql.Composed:
    view = sql.Identifier("predictions", job.name)
    seen = columns_of(connection, view)
    # The view of what is current has no vectors: as NULL they would look like predictions that are missing.
    if not seen:
        return sql.SQL("SELECT {} WHERE false").format(_columns(job, (), vectors=False))
    return sql.SQL("SELECT {} FROM {}").format(_columns(job, seen, vectors=False), view)


def _run(
    connection: Connection, job: JobTable, check: Check, staged: sql.Composable
) -> tuple[list[tuple[Any, ...]], list[str]]:
    # The check stands on lines of its own: it may end in a comment. It may begin with a WITH of its own, too.
    opening = sql.SQL("WITH staged AS ({}), before AS ({}) SELECT count(*) OVER (), found.* FROM (\n").format(
        staged, _before(connection, job)
    )
    statement = f"{opening.as_string(connection)}{check.query.text}\n) AS found LIMIT {SHOWN_ROWS}"
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(f"{TIME_LIMIT_SECONDS}s"))
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute(statement.encode(), {name: check.values[name] for name in check.query.names})
            return cursor.fetchall(), [column.name for column in cursor.description or ()]
    except psycopg.errors.QueryCanceled:
        raise CheckQueryError(
            f"{check.where}: it took longer than {TIME_LIMIT_SECONDS} s; make it cheaper, or leave it out"
        ) from None
    except psycopg.Error as error:
        if is_transient(error) or error.sqlstate is None:
            raise
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        said = f"PostgreSQL says: {error.diag.message_primary}{hint}"
        if error.sqlstate in ("42703", "42P01"):  # an unknown column or relation
            said += (
                f"; there are `staged` and `before`, with {', '.join(column.name for column in job.columns)}"
            )
        raise CheckQueryError(f"{check.where}: {said}") from error


def _said(columns: list[str], values: tuple[Any, ...]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in zip(columns, values, strict=True))


def _short(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
