"""How published predictions are looked up by key; the read API and `batchpred get` share it.

Each function reads what one statement sees, or, where it takes several, wants to be called inside one
repeatable-read transaction of `Database.pool`: the answer is then of one moment, whatever is published
meanwhile. A run is read through the job's history view with its number written into the statement, so the
planner goes straight to the run's own table, and a run that is no longer published shows no row.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from storage import served
from storage.errors import StorageError
from storage.keytext import TYPES, KeyFormatError, parse_key
from storage.queries import load
from storage.served import ServedJob, UnknownJobError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from storage.database import Connection, Row

__all__ = ["KeyFormatError", "PredictionNotFoundError", "ServedJob", "UnknownJobError", "parse_key"]

_SQL = load("reads")
_TRUE = sql.SQL("true")


class PredictionNotFoundError(StorageError):
    """No published prediction of the job has that key."""

    def __init__(self, job: ServedJob, key: Sequence[object], when: str = "current") -> None:
        named = ", ".join(f"{name} {part!r}" for (name, _), part in zip(job.key, key, strict=True))
        super().__init__(f"no {when} prediction of {job.name} has {named}")


def served_job(connection: Connection, name: str) -> ServedJob:
    """Find what is needed to look up keys of a job. Raises UnknownJobError, with the nearest name."""
    job = served.find_job(connection, name)
    if job is None:
        jobs = [each.name for each in served.all_jobs(connection)]
        near = difflib.get_close_matches(name, jobs, n=1)
        there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(jobs) or 'none yet'}"
        raise UnknownJobError(f"no job {name!r} has published here; {there}")
    return job


def current_prediction(connection: Connection, job: ServedJob, key: Sequence[Any]) -> Row | None:
    """Look one key up in what readers see now, with its provenance: one statement. None where it has none."""
    rows = by_keys(job, [], source=current_view(job), shown=sql.SQL("p.*"))
    return connection.execute(rows, key_arrays(job, [key])).fetchone()


def predictions_of(
    connection: Connection, job: ServedJob, keys: Sequence[Sequence[Any]], run_id: int | None
) -> list[tuple[Any, ...]]:
    """Look keys up in a published run or, with None, in what an incremental job shows now.

    A row has the key, the outputs, of a job that had a canary the model's version, and the run's number, in this
    order.
    """
    with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        return cursor.execute(look_up(job, run_id), key_arrays(job, keys)).fetchall()


def look_up(job: ServedJob, run_id: int | None) -> sql.Composed:
    """Write the statement that looks keys up, given as `key_arrays` makes them."""
    if run_id is None:
        return by_keys(job, [], source=current_view(job))
    return by_keys(job, [sql.SQL("p.run_id = {}").format(sql.Literal(run_id))])


def look_up_newest(job: ServedJob, run_id: int) -> sql.Composed:
    """Write the statement that looks keys up in one run and says which run is the newest at that moment."""
    return compose("look_up_run", job=sql.Literal(job.name), rows=look_up(job, run_id))


def history(
    connection: Connection, job: ServedJob, key: Sequence[Any], before: datetime, limit: int
) -> list[Row]:
    """List every published prediction of a key, newest interval first, whose interval starts before a moment."""
    match = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("p", name), sql.Literal(value))
        for name, value in zip(job.key_names, key, strict=True)
    )
    statement = compose(
        "history",
        columns=columns(job),
        source=history_view(job),
        match=match,
        before=sql.Literal(before),
        limit=sql.Literal(limit),
    )
    return connection.execute(statement).fetchall()


def page_of_run(
    connection: Connection, job: ServedJob, run_id: int, after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Read the next rows of a published run in key order, behind the key `after`."""
    statement = compose(
        "page_of_run",
        columns=columns(job),
        source=history_view(job),
        scope=sql.SQL("p.run_id = {}").format(sql.Literal(run_id)),
        after=_after(job, after),
        key=_key(job),
        limit=sql.Literal(limit),
    )
    return connection.execute(statement).fetchall()


def page_of_current(
    connection: Connection, job: ServedJob, last: int, after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """Read the next keys of an incremental job, each with its newest row among runs numbered up to `last`."""
    statement = compose(
        "page_of_current",
        columns=columns(job),
        source=history_view(job),
        last=sql.Literal(last),
        after=_after(job, after),
        key=_key(job),
        limit=sql.Literal(limit),
    )
    return connection.execute(statement).fetchall()


def key_arrays(job: ServedJob, keys: Sequence[Sequence[Any]]) -> list[Any]:
    """Turn keys into the parameters of `look_up`: one array for each key column."""
    columns = zip(*keys, strict=True) if keys else ((),) * len(job.key)
    return [
        # As text, numbers have one type whatever their size, so the statement is prepared once.
        "{" + ",".join(map(str, values)) + "}" if kind == "integer" else list(values)
        for (_, kind), values in zip(job.key, columns, strict=True)
    ]


def by_keys(
    job: ServedJob,
    scope: list[sql.Composable],
    source: sql.Composable | None = None,
    shown: sql.Composable | None = None,
) -> sql.Composed:
    """Write the statement that selects the rows of some keys from a view of the job."""
    parts = {
        "columns": shown or columns(job),
        "source": source or history_view(job),
        "scope": sql.SQL(" AND ").join(scope or [_TRUE]),
    }
    if len(job.key) == 1:
        ((name, kind),) = job.key
        return compose("rows_by_key", key=sql.Identifier("p", name), type=sql.SQL(TYPES[kind]), **parts)
    return compose(
        "rows_by_keys",
        arrays=sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(TYPES[kind])) for _, kind in job.key),
        names=sql.SQL(", ").join(map(sql.Identifier, job.key_names)),
        match=sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("p", name), sql.Identifier("asked", name))
            for name in job.key_names
        ),
        **parts,
    )


def _after(job: ServedJob, key: Sequence[Any] | None) -> sql.Composable:
    if key is None:
        return _TRUE
    literals = sql.SQL(", ").join(map(sql.Literal, key))
    return sql.SQL("({}) > ({})").format(_key(job), literals)


def _key(job: ServedJob) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("p", name) for name in job.key_names)


def columns(job: ServedJob, *, as_stored: bool = False) -> sql.Composed:
    """Name what a row has: the key, the outputs, of a job that had a canary its model_version, and run_id.

    Vectors are read as double precision unless `as_stored`: of a real the driver makes another number when it
    comes as text (0.1) than when it comes in binary (0.10000000149011612).
    """
    kinds = {} if as_stored else {name: kind for name, kind in job.outputs if kind == "real[]"}
    version = ("model_version",) if job.has_canary else ()
    names = (*job.key_names, *job.output_names, *version, "run_id")
    return sql.SQL(", ").join(
        sql.SQL("{}::float8[] AS {}").format(sql.Identifier("p", name), sql.Identifier(name))
        if name in kinds
        else sql.Identifier("p", name)
        for name in names
    )


def history_view(job: ServedJob) -> sql.Identifier:
    """Name the view of all published runs that has every output."""
    return sql.Identifier("predictions", f"{job.name}_vectors" if job.vectors else f"{job.name}_history")


def current_view(job: ServedJob) -> sql.Composable:
    """Name the view of what readers see now; with vectors, the rows of the complete view that it shows."""
    view = sql.Identifier("predictions", job.name)
    if not job.vectors:
        return view
    key = sql.SQL(", ").join(map(sql.Identifier, job.key_names))
    return sql.SQL("(SELECT v.* FROM {} AS c JOIN {} AS v USING ({}, run_id))").format(
        view, history_view(job), key
    )


def compose(statement: str, **parts: sql.Composable) -> sql.Composed:
    """Fill a statement of storage/sql/reads.sql with quoted identifiers and literals."""
    # The text comes from storage/sql/, not from a user: it is as literal as a literal.
    return sql.SQL(_SQL[statement].decode().rstrip(";")).format(**parts)
