"""What a job's predictions look like to the database: names, columns and types."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from psycopg import sql

from storage.queries import load


@dataclass(frozen=True)
class Column:
    """A key or output column: its name, its PostgreSQL type, and for keys what a client may write for it.

    `type` is one of bigint, double precision, text, boolean, date: what every BI tool can read; an output may also
    be a vector, real[], double precision[] or bigint[], which none reads and no view for them shows.
    `kind` is integer, text, uuid or date for a key (a uuid is kept as its text), and "" for an output.
    """

    name: str
    type: str
    kind: str = ""
    comment: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it holds an array of numbers."""
        return self.type.endswith("[]")


# Says of a row whether the run's canary scored it; NULL is no. No column of a job's own can have such a name.
CANARY = Column("by-canary", "boolean")


@dataclass(frozen=True)
class JobTable:
    """What a job's predictions look like: its name, mode, key and output columns, and what readers are told.

    With `has_canary` a share of the rows is another version's, and each row says whose it is.
    """

    name: str
    description: str
    mode: str
    interval_unit: str
    timezone: str
    late_after: timedelta | None
    key: tuple[Column, ...]
    outputs: tuple[Column, ...]
    has_canary: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Key columns, then outputs: the order in which rows are written."""
        return self.key + self.outputs

    @property
    def stored(self) -> tuple[Column, ...]:
        """What its table has behind the key."""
        return (*self.outputs, CANARY) if self.has_canary else self.outputs

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON, to be kept with a run."""
        return {**asdict(self), "late_after": self.late_after and self.late_after.total_seconds()}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> JobTable:
        """Take back what as_json gave."""
        late_after = kept["late_after"]
        return cls(
            **{
                **kept,
                "late_after": None if late_after is None else timedelta(seconds=late_after),
                "key": tuple(Column(**column) for column in kept["key"]),
                "outputs": tuple(Column(**column) for column in kept["outputs"]),
            }
        )

    @property
    def identifier(self) -> sql.Identifier:
        """The table whose partitions are the job's runs."""
        return sql.Identifier("batchpred_data", self.name)


def compose(statement: str, **parts: sql.Composable) -> sql.Composed:
    """Fill a statement of storage/sql/predictions.sql with quoted identifiers and literals."""
    # The text comes from storage/sql/, not from a user: it is as literal as a literal.
    return sql.SQL(load("predictions")[statement].decode()).format(**parts)
