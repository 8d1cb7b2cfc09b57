"""What a job's predictions look like to the database: names, columns and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from storage.queries import load

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True)
class Column:
    """A key or output column: its name, its PostgreSQL type, and for keys what a client may write for it.

    `type` is one of bigint, double precision, text, boolean, date: what every BI tool can read.
    `kind` is integer, text, uuid or date for a key (a uuid is kept as its text), and "" for an output.
    """

    name: str
    type: str
    kind: str = ""
    comment: str = ""


@dataclass(frozen=True)
class JobTable:
    """What a job's predictions look like: its name, mode, key and output columns, and what readers are told."""

    name: str
    description: str
    mode: str
    interval_unit: str
    timezone: str
    late_after: timedelta | None
    key: tuple[Column, ...]
    outputs: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Key columns, then outputs: the order in which rows are written."""
        return self.key + self.outputs

    @property
    def identifier(self) -> sql.Identifier:
        """The table whose partitions are the job's runs."""
        return sql.Identifier("batchpred_data", self.name)


def compose(statement: str, **parts: sql.Composable) -> sql.Composed:
    """Fill a statement of storage/sql/predictions.sql with quoted identifiers and literals."""
    # The text comes from storage/sql/, not from a user: it is as literal as a literal.
    return sql.SQL(load("predictions")[statement].decode()).format(**parts)
