"""Where predictions lie: a job's table, and a run's own partition of it.

How a run becomes visible. Its rows are written into a table of its own that is attached to nothing. When they
are complete, the table gets its primary key and is attached to the job's table as a partition; the views still
leave it out, because they take only runs the pointer names. Then one transaction moves the pointer
(`storage.runs.publish`). No reader is locked out; only a changed
definition (a new output) waits for readers, in tries too short to notice.

Why attaching and publishing are two steps with a pause between. PostgreSQL plans a statement, and only then
takes the snapshot it reads by. A statement planned before the attach whose snapshot is younger than the
publish would find the pointer naming a partition that its plan does not have, and answer nothing. So between
the two steps we wait until the statements that were at the table during the attach are done, a second at
most: no reader spends a second between planning and its snapshot.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from storage import views
from storage.errors import StorageError
from storage.job_table import Column, JobTable, compose
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.database import Connection, Row

_SQL = load("predictions")
_SETTLE_SECONDS = 1.0
# ATTACH waits for nobody but another ATTACH; a new column and a changed view wait for the job's readers. No
# reader is held up for longer than one try, and a run gives up when none has succeeded for so long.
DDL_LOCK_TIMEOUT = "200ms"
_DDL_PATIENCE_SECONDS = 60.0


class DuplicateKeyError(StorageError):
    """The source gave one key more than once; which of the rows is right nobody can say, so none is published."""

    exit_code = 3


class ColumnsChangedError(StorageError):
    """The job's columns no longer fit the predictions it has published."""

    exit_code = 2


def run_table(run_id: int) -> sql.Identifier:
    """Name the run's own table; no job's name begins with an underscore."""
    return sql.Identifier("batchpred_data", f"_run_{run_id}")


def check_columns(connection: Connection, job: JobTable) -> tuple[Column, ...]:
    """Compare the job with the table its earlier runs left; return the columns behind the key that are new.

    Raises ColumnsChangedError where a column changed its type or the key changed: published predictions
    cannot be read through such a view.
    """
    found = columns_of(connection, job.identifier)
    if not found:
        return ()
    new = tuple(column for column in job.stored if column.name not in found)
    known = connection.execute(_SQL["key_of_job"], {"job": job.name}).fetchone()
    if known and known["key"] != [column.name for column in job.key]:
        raise ColumnsChangedError(
            f"{job.name}: the key is {', '.join(column.name for column in job.key)} now and was "
            f"{', '.join(known['key'])} in the predictions already published; give the job another name"
        )
    for column in job.columns:
        was = found.get(column.name)
        if was not in (None, column.type) or (was is None and column in job.key):
            now = f"is {column.type} now and was {was}" if was else "is new in the key"
            raise ColumnsChangedError(
                f"{job.name}: column {column.name} {now} in the predictions already published; "
                "give the column, or the job, another name"
            )
    return new


def create_run_table(connection: Connection, job: JobTable, run_id: int) -> None:
    """Create the hidden table that a run writes into; in the transaction that writes the run down."""
    columns = _definitions(job.key, job.stored)
    connection.execute(
        compose("create_run_table", run_table=run_table(run_id), columns=columns, run_id=sql.Literal(run_id))
    )


def seal(connection: Connection, job: JobTable, run_id: int) -> None:
    """Give the complete run table its primary key; call it in a transaction that ends with a look at the fence.

    Raises DuplicateKeyError naming the key.
    """
    key = sql.SQL(", ").join(sql.Identifier(column.name) for column in job.key)
    try:
        with connection.transaction():
            connection.execute(compose("add_key", run_table=run_table(run_id), key=key))
    except errors.UniqueViolation:
        twice = connection.execute(compose("duplicate_keys", run_table=run_table(run_id), key=key)).fetchall()
        raise DuplicateKeyError(_said_of(job, twice)) from None


def _said_of(job: JobTable, twice: list[Row]) -> str:
    shown = [
        f"{', '.join(f'{column.name} {row[column.name]}' for column in job.key)} ({row['rows']} rows)"
        for row in twice
    ]
    more = twice[0]["keys"] - len(twice)
    return (
        f"{job.name}: not published, readers keep what they have: {twice[0]['keys']} key(s) stand there more than "
        f"once: {'; '.join(shown)}{f' and {more} more' if more else ''}; each key may have one row in an interval: "
        "aggregate, or add a column to `key`"
    )


def analyze(connection: Connection, run_id: int) -> None:
    """Give the planner the statistics of a complete run table."""
    connection.execute(sql.SQL("ANALYZE {}").format(run_table(run_id)))


def attach(
    connection: Connection,
    job: JobTable,
    run_id: int,
    check_fence: Callable[[Connection], None] = lambda _connection: None,
) -> None:
    """Make the run table a partition of the job's table, where the views leave it out until it is published.

    The job's first run creates the table; one with new outputs extends it, between its readers. What readers
    are shown changes only in `show`. A run that was attached before stays so. `check_fence` is called last in
    the transaction. Raises ColumnsChangedError, and what `check_fence` raises.
    """
    patiently(lambda: _attach(connection, job, run_id, check_fence))
    _let_statements_finish(connection, job)


def show(connection: Connection, job: JobTable) -> None:
    """Write the job down and bring its views to its definition; call it in the transaction that publishes.

    Raises errors.LockNotAvailable where a changed view has a reader; `patiently` tries again.
    """
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(DDL_LOCK_TIMEOUT))
    saved = connection.execute(_SQL["save_job"], _job_values(job)).fetchone()
    assert saved is not None  # noqa: S101  # inserted, or updated
    views.refresh(connection, job, has_canary=saved["has_canary"])


def _attach(
    connection: Connection, job: JobTable, run_id: int, check_fence: Callable[[Connection], None]
) -> None:
    with connection.transaction():
        connection.execute(_SQL["lock_job_tables"], {"job": job.name})
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(DDL_LOCK_TIMEOUT))
        new = check_columns(connection, job)
        if not columns_of(connection, job.identifier):
            columns = _definitions(job.key, job.stored)
            connection.execute(compose("create_job_table", table=job.identifier, columns=columns))
        for column in new:
            _add_column(connection, job.identifier, column)
        # Outputs of earlier definitions, which this run does not have: a partition has its parent's columns.
        present = columns_of(connection, run_table(run_id))
        for name, type_ in columns_of(connection, job.identifier).items():
            if name not in present:
                _add_column(connection, run_table(run_id), Column(name, type_))
        if not _is_attached(connection, run_id):
            names = {"table": job.identifier, "run_table": run_table(run_id), "run_id": sql.Literal(run_id)}
            connection.execute(compose("attach", **names))
        check_fence(connection)


def drop_run_table(connection: Connection, run_id: int) -> bool:
    """Drop the table of a run that will never be published; False where it is in use or already attached.

    What stays is out of every reader's sight; it costs disk, not correctness.
    """
    table = run_table(run_id)
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1s'")
            # Dropping a partition would wait for the job's readers, and they for us.
            if _is_attached(connection, run_id):
                return False
            connection.execute(compose("drop_run_table", run_table=table))
    except psycopg.Error:
        return False
    return True


def count_outputs(
    connection: Connection, job: JobTable, run_id: int, score_range: Sequence[float] | None
) -> dict[str, dict[str, int]]:
    """Count, for each output of a run, the rows where it is NULL and where it is outside [low, high].

    Only columns of floating point have a `score_range`; NULL is in none and outside none.
    """
    counts: list[sql.Composable] = []
    for column in job.outputs:
        name = sql.Identifier(column.name)
        outside: sql.Composable = sql.SQL("false")
        if score_range and column.type == "double precision":
            outside = sql.SQL("{} NOT BETWEEN {} AND {}").format(name, *score_range)
        counts.append(sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(name))
        counts.append(sql.SQL("count(*) FILTER (WHERE {})").format(outside))
    statement = compose("count_outputs", run_table=run_table(run_id), counts=sql.SQL(", ").join(counts))
    row = connection.cursor(row_factory=tuple_row).execute(statement).fetchone()
    assert row is not None  # noqa: S101  # an aggregate gives one row
    return {
        column.name: {"null": row[2 * place], "outside": row[2 * place + 1]}
        for place, column in enumerate(job.outputs)
    }


def patiently(change: Callable[[], None]) -> None:
    """Make a change that may have to wait for readers, in short tries: while one waits, new readers wait too."""
    until = time.monotonic() + _DDL_PATIENCE_SECONDS
    while True:
        try:
            return change()
        except errors.LockNotAvailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _is_attached(connection: Connection, run_id: int) -> bool:
    table = {"run_table": run_table(run_id).as_string(connection)}
    row = connection.execute(_SQL["is_attached"], table).fetchone()
    return bool(row and row["attached"])


def _let_statements_finish(connection: Connection, job: JobTable) -> None:
    """Wait, a second at most, for the statements that are at the job's table now; the module's top says why."""
    table = {"table": job.identifier.as_string(connection)}
    at_work = {row["virtualtransaction"] for row in connection.execute(_SQL["statements_on"], table)}
    until = time.monotonic() + _SETTLE_SECONDS
    while at_work and time.monotonic() < until:
        time.sleep(0.005)
        at_work &= {row["virtualtransaction"] for row in connection.execute(_SQL["statements_on"], table)}


def columns_of(connection: Connection, table: sql.Identifier) -> dict[str, str]:
    """Return the columns of a table or view with their types, in order; none where it does not exist."""
    rows = connection.execute(_SQL["table_columns"], {"table": table.as_string(connection)})
    return {row["name"]: row["type"] for row in rows}


def _add_column(connection: Connection, table: sql.Identifier, column: Column) -> None:
    definition = _definitions((), (column,))
    connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(table, definition))


def _definitions(key: tuple[Column, ...], outputs: tuple[Column, ...]) -> sql.Composed:
    """Write column definitions; text sorts by bytes, which is quicker and the same on every machine."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL('text COLLATE "C"') if column.type == "text" else _TYPES[column.type],
            sql.SQL(" NOT NULL") if column in key else sql.SQL(""),
        )
        for column in key + outputs
    )


_TYPES = {
    "bigint": sql.SQL("bigint"),
    "double precision": sql.SQL("double precision"),
    "boolean": sql.SQL("boolean"),
    "date": sql.SQL("date"),
    "real[]": sql.SQL("real[]"),
    "double precision[]": sql.SQL("double precision[]"),
    "bigint[]": sql.SQL("bigint[]"),
}


def _job_values(job: JobTable) -> Row:
    values = {
        name: getattr(job, name) for name in ("name", "description", "mode", "interval_unit", "timezone")
    }
    return {
        **values,
        "late_after": job.late_after,
        "has_canary": job.has_canary,
        "key_columns": Jsonb([{"name": column.name, "kind": column.kind} for column in job.key]),
        "output_columns": Jsonb([{"name": column.name, "type": column.type} for column in job.outputs]),
    }
