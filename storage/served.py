"""What is served: the jobs, and for each the published runs that readers see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import StorageError
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime, timedelta

    from storage.database import Connection, Row

_SQL = load("reads")


class UnknownJobError(StorageError):
    """No job of that name has run against this database."""


class NothingPublishedError(StorageError):
    """The job has no published run, or none for the interval asked for."""


class RunGoneError(StorageError):
    """The run that a reader went on reading is no longer published."""


@dataclass(frozen=True)
class ServedJob:
    """A job whose predictions can be read: its key columns in order, each (name, kind), and its outputs.

    With `has_canary` there are runs of it that two versions scored, and each row tells its own.
    """

    name: str
    description: str
    mode: str
    timezone: str
    interval_unit: str
    key: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    late_after: timedelta | None
    has_canary: bool = False

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the key's columns."""
        return tuple(name for name, _ in self.key)

    @property
    def vectors(self) -> frozenset[str]:
        """The names of the outputs that are arrays."""
        return frozenset(name for name, kind in self.outputs if kind.endswith("[]"))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(name for name, _ in self.outputs)


@dataclass(frozen=True)
class ServedRun:
    """A published run: what every answer says of where it comes from. Times are aware, in UTC."""

    job: str
    run_id: int
    interval_start: datetime
    interval_end: datetime
    as_of_date: date
    model_name: str
    model_version: int | None
    model_sha256: str
    predictions: int
    quarantined: int
    scored_at: datetime | None
    published_at: datetime | None
    late_at: datetime | None
    forgotten_at: datetime | None = None
    canary_version: int | None = None
    canary_sha256: str | None = None
    canary_share: float | None = None


def find_job(connection: Connection, name: str) -> ServedJob | None:
    """Find a job by its name; None where no such job has run here."""
    if "\0" in name:  # PostgreSQL has no text with NUL, and so no job either
        return None
    row = connection.execute(_SQL["served_job"], {"job": name}).fetchone()
    return job_of(row) if row else None


def all_jobs(connection: Connection) -> list[ServedJob]:
    """List the jobs that have run here, by name."""
    return [job_of(row) for row in connection.execute(_SQL["served_jobs"])]


def newest_run(connection: Connection, job: ServedJob) -> ServedRun | None:
    """Return the run of the job's newest published interval."""
    row = connection.execute(_SQL["newest_run"], {"job": job.name}).fetchone()
    return ServedRun(**row) if row else None


def newest_runs(connection: Connection) -> dict[str, ServedRun]:
    """Return the newest run of every job that has one."""
    return {row["job"]: ServedRun(**row) for row in connection.execute(_SQL["newest_runs"])}


def run_to_read(connection: Connection, job: ServedJob, as_of: date | None) -> ServedRun:
    """Return the newest published run, or that of the interval which starts on the local date `as_of`.

    Raises NothingPublishedError.
    """
    if as_of is None:
        run = newest_run(connection, job)
        if run is None:
            raise NothingPublishedError(f"nothing of {job.name} is published yet")
        return run
    row = connection.execute(_SQL["run_as_of"], {"job": job.name, "as_of": as_of}).fetchone()
    if row is None:
        raise NothingPublishedError(f"nothing of {job.name} is published for {as_of}")
    return ServedRun(**row)


def run_still_served(connection: Connection, job: ServedJob, run_id: int) -> ServedRun:
    """Return a run that was served before. Raises RunGoneError where it is not any more."""
    row = connection.execute(_SQL["served_run"], {"job": job.name, "run_id": run_id}).fetchone()
    if row is None:
        raise RunGoneError(f"run {run_id} of {job.name} is no longer published; start again")
    return ServedRun(**row)


def runs_by_id(connection: Connection, job: ServedJob, run_ids: Iterable[int]) -> dict[int, ServedRun]:
    """Return the published runs of these numbers."""
    rows = connection.execute(_SQL["runs_by_id"], {"job": job.name, "run_ids": list(run_ids)})
    return {row["run_id"]: ServedRun(**row) for row in rows}


def runs_before(connection: Connection, job: ServedJob, before: datetime, limit: int) -> list[ServedRun]:
    """List published runs, newest interval first, whose interval starts before a moment."""
    values = {"job": job.name, "before": before, "limit": limit}
    return [ServedRun(**row) for row in connection.execute(_SQL["runs_before"], values)]


def state(connection: Connection, job: ServedJob, last: int | None = None) -> tuple[int | None, str]:
    """Sum up which runs numbered up to `last` are published: the highest number, and a digest of them all."""
    row = connection.execute(_SQL["state"], {"job": job.name, "last": last}).fetchone()
    assert row is not None  # noqa: S101  # an aggregate gives one row
    return row["last"], row["digest"]


def job_of(row: Row) -> ServedJob:
    """Make the job of a row of batchpred.served."""
    values: dict[str, Any] = {**row}
    key = tuple((column["name"], column["kind"]) for column in values.pop("key_columns"))
    outputs = tuple((column["name"], column["type"]) for column in values.pop("output_columns"))
    return ServedJob(name=values.pop("job"), key=key, outputs=outputs, **values)
