"""How published predictions are looked up by key; the read API and `batchpred get` share it."""

from __future__ import annotations

import difflib
import re
import uuid
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from psycopg import sql

from storage.errors import ConfigurationError, StorageError
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database import Connection, Row

_SQL = load("reads")
_BIGINT = 1 << 63


class UnknownJobError(StorageError):
    """No job of that name has run against this database."""


class KeyFormatError(ConfigurationError):
    """A key has the wrong number of parts, or a part is not what its column holds."""


class PredictionNotFoundError(StorageError):
    """No published prediction of the job has that key."""

    def __init__(self, job: ServedJob, key: Sequence[str]) -> None:
        named = ", ".join(f"{name} {part!r}" for (name, _), part in zip(job.key, key, strict=True))
        super().__init__(f"no current prediction of {job.name} has {named}")


@dataclass(frozen=True)
class ServedJob:
    """A job whose predictions can be read: its key columns in order, each (name, kind), and its outputs."""

    name: str
    mode: str
    key: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]


def served_job(connection: Connection, name: str) -> ServedJob:
    """Find what is needed to look up keys of a job. Raises UnknownJobError, with the nearest name."""
    row = None
    if "\0" not in name:  # PostgreSQL has no text with NUL, and so no job either
        row = connection.execute(_SQL["served_job"], {"job": name}).fetchone()
    if row is None:
        jobs = [each["job"] for each in connection.execute(_SQL["served_jobs"])]
        near = difflib.get_close_matches(name, jobs, n=1)
        there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(jobs) or 'none yet'}"
        raise UnknownJobError(f"no job {name!r} has published here; {there}")
    key = tuple((column["name"], column["kind"]) for column in row["key_columns"])
    return ServedJob(name, row["mode"], key, tuple(column["name"] for column in row["output_columns"]))


def parse_key(job: ServedJob, parts: Sequence[str]) -> tuple[Any, ...]:
    """Turn the text parts of a key into the values its columns hold. Raises KeyFormatError."""
    names = ", ".join(f"{name} ({kind})" for name, kind in job.key)
    if len(parts) != len(job.key):
        raise KeyFormatError(f"a key of {job.name} has {len(job.key)} part(s), {names}; {len(parts)} given")
    return tuple(_parse_part(name, kind, text) for (name, kind), text in zip(job.key, parts, strict=True))


def current_prediction(connection: Connection, job: ServedJob, key: Sequence[Any]) -> Row | None:
    """Look one key up in what readers see now: one statement, so one published run. None where it has none."""
    condition = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name, _ in job.key
    )
    # The text comes from storage/sql/, not from a user: it is as literal as a literal.
    statement = sql.SQL(_SQL["current_prediction"].decode()).format(
        view=sql.Identifier("predictions", job.name), key=condition
    )
    return connection.execute(statement, list(key)).fetchone()


def _parse_part(name: str, kind: str, text: str) -> Any:
    try:
        if "\0" in text:
            raise ValueError
        if kind == "integer":
            if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -_BIGINT <= int(text) < _BIGINT:
                raise ValueError
            return int(text)
        if kind == "uuid":
            return str(uuid.UUID(text))  # kept as canonical text
        if kind == "date":
            if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise ValueError
            return date.fromisoformat(text)
    except ValueError:
        raise KeyFormatError(f"key part {name} is of type {kind}; {text[:80]!r} is not") from None
    return text
