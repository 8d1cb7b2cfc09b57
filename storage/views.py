"""What readers are given of a job: the view of its current predictions and the view of their history.

Vectors (embeddings) stand in a third view, `<job>_vectors`, with everything else of every published interval:
BI tools fail on arrays, and the two views that they read keep to types they know.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from storage.job_table import CANARY, Column, JobTable, compose
from storage.queries import load

if TYPE_CHECKING:
    from storage.database import Connection

_SQL = load("predictions")

# What every row says of its origin: column -> (expression over runs `r`, comment).
_PROVENANCE = {
    "interval_start": ("r.interval_start", "Start of the interval this prediction is about"),
    "as_of_date": ("r.as_of_date", "Local date, in the job's time zone, on which that interval starts"),
    "model_name": ("r.model_name", "Model that made this prediction"),
    "model_version": ("r.model_version::bigint", "Its version; NULL for a model read straight from a file"),
    "scored_at": ("r.scored_at", "When the run finished scoring"),
    "run_id": ("r.run_id", "Run that made this prediction: predictions._runs has its model digest and query"),
}
RESERVED_COLUMNS = frozenset(_PROVENANCE)
# The same where a share of some run's rows is another version's.
_VERSION = sql.SQL("CASE WHEN {} THEN r.canary_version ELSE r.model_version END::bigint").format(
    sql.Identifier("p", CANARY.name)
)

_CURRENT = {
    "snapshot": "current: the newest published interval",
    "incremental": "current: each key's row of its newest published interval",
}


@dataclass(frozen=True)
class _View:
    """A view of a job: its name, the statement that makes it, what its comment says, and its columns."""

    name: str
    definition: str
    what: str
    columns: tuple[Column, ...]


def refresh(connection: Connection, job: JobTable, *, has_canary: bool) -> None:
    """Create the job's views, or replace them where their text changed; call it inside a transaction.

    With `has_canary` the job's table has the column that says which rows are a canary's.

    Replacing a view waits for its readers and they for it, so a run that changes nothing must not do it: the
    digest of the statements, kept with the job, tells.
    """
    plain = tuple(column for column in job.columns if not column.is_vector)
    made = [
        _View(job.name, f"current_{job.mode}_view", _CURRENT[job.mode], plain),
        _View(f"{job.name}_history", "history_view", "every published interval", plain),
    ]
    if len(plain) < len(job.columns):
        what = "with vectors, every published interval"
        made.append(_View(f"{job.name}_vectors", "history_view", what, job.columns))
    statements = [each for view in made for each in _statements(connection, job, view, has_canary=has_canary)]
    digest = hashlib.sha256("".join(each.as_string(connection) for each in statements).encode()).hexdigest()
    names = {
        name: sql.Identifier("predictions", view).as_string(connection)
        for name, view in (("view", job.name), ("history", f"{job.name}_history"), ("last", made[-1].name))
    }
    if connection.execute(_SQL["note_views"], {"job": job.name, "digest": digest, **names}).rowcount:
        for statement in statements:
            connection.execute(statement)


def _statements(
    connection: Connection, job: JobTable, made: _View, *, has_canary: bool
) -> list[sql.Composed]:
    view = sql.Identifier("predictions", made.name)
    wanted = [column.name for column in made.columns] + list(_PROVENANCE)
    # A view that exists keeps its columns where they are; what is new goes behind them. Outputs of earlier
    # definitions stay, NULL for newer runs.
    rows = connection.execute(_SQL["table_columns"], {"table": view.as_string(connection)})
    present = [row["name"] for row in rows]
    names = present + [name for name in wanted if name not in present]
    parts = {
        "view": view,
        "table": job.identifier,
        "job": sql.Literal(job.name),
        "key": sql.SQL(", ").join(sql.Identifier("p", column.name) for column in job.key),
        "columns": sql.SQL(", ").join(_expression(column, has_canary=has_canary) for column in names),
    }
    comments = {column.name: column.comment for column in made.columns}
    comments |= {column: comment for column, (_, comment) in _PROVENANCE.items()}
    readers = connection.execute(_SQL["readers"]).fetchall()
    about = job.description or f"Predictions of job {job.name}"
    return [
        compose(made.definition, **parts),
        sql.SQL("COMMENT ON VIEW {} IS {}").format(view, f"{about} ({made.what})"),
        *(
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                sql.Identifier("predictions", made.name, column), comment
            )
            for column, comment in comments.items()
        ),
        *(
            sql.SQL("GRANT SELECT ON {} TO {}").format(view, sql.Identifier(reader["rolname"]))
            for reader in readers
        ),
    ]


def _expression(column: str, *, has_canary: bool) -> sql.Composable:
    if column not in _PROVENANCE:
        return sql.Identifier("p", column)
    is_of_row = has_canary and column == "model_version"
    told = _VERSION if is_of_row else sql.SQL(_PROVENANCE[column][0])
    return sql.SQL("{} AS {}").format(told, sql.Identifier(column))
