"""Shadows: runs of another model on the rows of a run, and what the two say of the same keys.

A shadow is a row of the ledger that names the run it shadowed, and a table that nothing ever attaches. It is
`complete` once all rows of that run are in it, and stays until the run is replaced or gone, thirty days at most
(storage/garbage.py). The ledger's own constraint keeps it from ever being published.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql
from psycopg.rows import tuple_row

from storage.arrow_copy import copy_in
from storage.job_table import CANARY
from storage.predictions import drop_run_table, run_table
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    import pyarrow as pa
    from numpy.typing import NDArray

    from storage.database import Connection, Row
    from storage.job_table import Column, JobTable

_SQL = load("shadows")
_TRUTH = sql.Identifier("batchpred_truth")
_LABEL = "batchpred_label"


def abandon(connection: Connection, run_id: int, why: str) -> list[Row]:
    """Close what shadows of a run were left without an end, and drop their tables; return run and model of each."""
    rows = connection.execute(_SQL["abandon"], {"run_id": run_id, "error": why}).fetchall()
    for row in rows:
        drop_run_table(connection, row["run_id"])
    return rows


def find_pair(
    connection: Connection,
    *,
    run_id: int | None = None,
    job: str | None = None,
    interval_start: datetime | None = None,
    definition: str | None = None,
    champion: str | None = None,
    shadow: str | None = None,
) -> Row | None:
    """Return the newest complete shadow with the run beside it, or None; `run_id` is either's number.

    `definition`, `champion` and `shadow` are digests: of the job's definition, and of the two models' files.
    """
    asked = {"run_id": run_id, "job": job, "interval_start": interval_start}
    wanted = {**asked, "definition": definition, "champion": champion, "shadow": shadow}
    return connection.execute(_SQL["pair"], wanted).fetchone()


class Pair:
    """A run and its shadow, read key by key: only keys that both models have scored are compared."""

    def __init__(
        self, connection: Connection, key: Sequence[str], champion: int, shadow: int, *, has_canary: bool
    ) -> None:
        self._connection = connection
        table: sql.Composable = run_table(champion)
        if has_canary:  # what that has scored is not the champion's
            table = sql.SQL("(SELECT * FROM {} WHERE {} IS NOT TRUE)").format(
                table, sql.Identifier(CANARY.name)
            )
        self._parts: dict[str, sql.Composable] = {
            "champion": table,
            "shadow": run_table(shadow),
            "key": sql.SQL(", ").join(map(sql.Identifier, key)),
        }

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """Make the block one transaction: what is written into `give_truth` lives as long."""
        with self._connection.transaction():
            self._connection.execute(_SQL["bear_pauses"])
            yield

    def scores(self, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the two scores [N] of the keys both have, in the order of the key: 16 bytes a row in memory."""
        old, new = self._columns("scores", 2, column=sql.Identifier(column))
        return old.astype(np.float64), new.astype(np.float64)

    def labelled(self, column: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return two scores [N] and the truth [N] of the keys whose truth is known; `give_truth` comes before."""
        parts = {"column": sql.Identifier(column), "label": sql.Identifier(_LABEL), "truth": _TRUTH}
        old, new, truth = self._columns("labelled", 3, **parts)
        return old, new, truth

    def equal(self, column: str) -> tuple[int, int]:
        """Return how many keys both have, and for how many of them the two say the same."""
        row = self._connection.execute(self._compose("equal", column=sql.Identifier(column))).fetchone()
        assert row is not None  # noqa: S101  # an aggregate gives one row
        return row["rows"], row["equal"]

    def moved_most(self, column: str, limit: int) -> list[Row]:
        """Return the keys whose scores differ most, as {key columns, was, is}."""
        parts = {"column": sql.Identifier(column), "limit": sql.Literal(limit)}
        return self._connection.execute(self._compose("moved_most", **parts)).fetchall()

    def give_truth(self, job: JobTable, rows: Iterable[pa.Table]) -> int:
        """Take key and truth (the last column) of many rows, inside `at_one_moment`; return how many."""
        columns: tuple[Column, ...] = job.key
        is_made, count = False, 0
        for table in rows:
            named = table.rename_columns([*(column.name for column in columns), _LABEL])
            if not is_made:
                types = [*(column.type for column in columns), _type_of(named.schema.field(_LABEL).type)]
                defined = sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(name), _TYPES[each])
                    for name, each in zip(named.column_names, types, strict=True)
                )
                self._connection.execute(self._compose("create_truth", truth=_TRUTH, columns=defined))
                is_made = True
            copy_in(self._connection, _TRUTH, named)
            count += named.num_rows
        return count

    def _columns(self, statement: str, count: int, **parts: sql.Composable) -> list[NDArray[Any]]:
        # Through a cursor of the server's: the client never holds all rows as Python values.
        kept: list[list[NDArray[Any]]] = [[] for _ in range(count)]
        with (
            self._connection.transaction(),
            self._connection.cursor(name="batchpred_scores", row_factory=tuple_row, binary=True) as cursor,
        ):
            cursor.execute(self._compose(statement, **parts))
            while rows := cursor.fetchmany(20_000):
                for values, each in zip(zip(*rows, strict=True), kept, strict=True):
                    each.append(np.array(values))
        return [np.concatenate(each) if each else np.empty(0) for each in kept]

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        # The text comes from storage/sql/, not from a user: it is as literal as a literal.
        return sql.SQL(_SQL[statement].decode()).format(**self._parts, **parts)


_TYPES = {
    "bigint": sql.SQL("bigint"),
    "double precision": sql.SQL("double precision"),
    "boolean": sql.SQL("boolean"),
    "date": sql.SQL("date"),
    "text": sql.SQL('text COLLATE "C"'),
}


def _type_of(type_: pa.DataType) -> str:
    """The PostgreSQL type of a truth as it is written: the caller casts to int64, double or bool."""
    return {"int64": "bigint", "double": "double precision", "bool": "boolean"}[str(type_)]
