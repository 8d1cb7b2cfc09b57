"""What schedulers share beside the ledger of runs: since when a job is scheduled, and what attempts came to.

Which intervals are published is for the ledger of runs to say (storage/runs.py); nothing here repeats it. A row of
`attempts` is about an interval that was tried or waited for and is not published yet. It is shared, so several
schedulers keep the same distance from a failure. Its cause decides what comes next:

    passing      the database, a source, a connection was away, or the deadline passed: tried again after a
                 growing rest, `retries` times; then it rests until the job's next slot
    not_ready    `ready` stayed false for too long: rests until the job's next slot
    lasting      a column, a model, a right, a file is wrong: trying again would change nothing. It rests until the
                 job file, query, transform, files or model is another one (the fingerprint), or a person runs it
    blocked      a check refused to publish: as lasting
    cancelled    a person stopped it: until a person runs it

A failure is counted once, however many schedulers met it: `fail` names the failure the scheduler had seen before,
and changes nothing where another was counted since.

Time is the database's, which all schedulers share; `clock` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from storage.queries import load

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from storage.database import Connection, Row
    from storage.runs import Slot

_SQL = load("attempts")

Cause = Literal["passing", "not_ready", "lasting", "blocked", "cancelled"]


@dataclass(frozen=True)
class Attempt:
    """What is remembered of one interval."""

    interval_start: datetime
    failures: int = 0
    cause: Cause | None = None
    error: str | None = None
    fingerprint: str | None = None
    failed_at: datetime | None = None
    not_before: datetime | None = None
    waiting_since: datetime | None = None
    is_resting: bool = False


@dataclass(frozen=True)
class Failure:
    """A failure to be counted: how many that makes, why, and how long to rest (None: until something changes)."""

    failures: int
    cause: Cause
    error: str
    fingerprint: str
    rest: timedelta | None


def clock(connection: Connection) -> datetime:
    """Return the database's time."""
    row = connection.execute(_SQL["clock"]).fetchone()
    assert row is not None  # noqa: S101  # SELECT without FROM
    now: datetime = row["now"]
    return now


def first_seen(
    connection: Connection, job: str, unit: str, zone: str, now: datetime, *, note: bool = True
) -> datetime:
    """Return since when the job has been scheduled with this zone and interval; from now on, where it was not.

    `note` writes that down.
    """
    values = {"job": job, "interval_unit": unit, "timezone": zone, "now": now}
    row = connection.execute(_SQL["first_seen"], values).fetchone()
    if row is None and note:
        row = connection.execute(_SQL["see"], values).fetchone()
    return row["first_seen_at"] if row else now


def settled(connection: Connection, job: str, first: datetime, last: datetime) -> set[datetime]:
    """Return the starts of intervals in a range that scheduled runs leave alone."""
    asked = {"job": job, "first": first, "last": last}
    return {row["interval_start"] for row in connection.execute(_SQL["settled"], asked)}


def attempts(connection: Connection, job: str, first: datetime, last: datetime) -> dict[datetime, Attempt]:
    """Return what is remembered of intervals in a range, by their starts."""
    asked = {"job": job, "first": first, "last": last}
    return {row["interval_start"]: _attempt(row) for row in connection.execute(_SQL["attempts"], asked)}


def attempt(connection: Connection, slot: Slot) -> Attempt:
    """Return what is remembered of one interval."""
    row = connection.execute(_SQL["attempt"], slot.ids).fetchone()
    return _attempt(row) if row else Attempt(slot.interval_start)


def fail(connection: Connection, slot: Slot, seen: Attempt, failure: Failure) -> bool:
    """Count a failure; False where another scheduler has counted one since `seen` was read."""
    values = {**slot.ids, **vars(failure), "seen_failed_at": seen.failed_at}
    return connection.execute(_SQL["fail"], values).fetchone() is not None


def wait(connection: Connection, slot: Slot, rest: timedelta) -> timedelta:
    """Note that the interval waits for its data, to be looked at again after a rest; return how long it waits."""
    row = connection.execute(_SQL["wait"], {**slot.ids, "rest": rest}).fetchone()
    assert row is not None  # noqa: S101  # INSERT … RETURNING
    waited: timedelta = row["waited"]
    return waited


def clear(connection: Connection, slot: Slot) -> None:
    """Forget the failures of an interval that is published."""
    connection.execute(_SQL["clear"], slot.ids)


def looked_back(connection: Connection, slot: Slot) -> None:
    """Note that a published interval's rows were compared with the source just now."""
    connection.execute(_SQL["looked_back"], slot.ids)


def last_read(connection: Connection, job: str, first: datetime, last: datetime) -> dict[datetime, datetime]:
    """Return when the rows of each published interval in a range were read or compared; not of rolled back ones."""
    asked = {"job": job, "first": first, "last": last}
    rows = connection.execute(_SQL["read_at"], asked)
    return {row["interval_start"]: row["read_at"] for row in rows if not row["is_rolled_back"]}


def chunk_digests(connection: Connection, slot: Slot) -> list[str | None]:
    """Return the digests of the chunks that the published run of an interval read."""
    return [row["rows_sha256"] for row in connection.execute(_SQL["chunk_digests"], slot.ids)]


def covering(
    connection: Connection, job: str, start: datetime, end: datetime
) -> list[tuple[datetime, datetime]]:
    """Return the published intervals of a job that have a part in [start, end), in order."""
    rows = connection.execute(_SQL["covering"], {"job": job, "start": start, "end": end})
    return [(row["interval_start"], row["interval_end"]) for row in rows]


def newest_model(connection: Connection, job: str) -> str | None:
    """Return the digest of the model that the job's newest run was made with."""
    row = connection.execute(_SQL["newest_model"], {"job": job}).fetchone()
    return row["model_sha256"] if row else None


def active(connection: Connection, job: str) -> list[Row]:
    """List the runs of a job at work: rows_done, and rows_before, those of the newest published."""
    return connection.execute(_SQL["active"], {"job": job}).fetchall()


def newest_published(connection: Connection, job: str) -> Row | None:
    """Return the run of the newest interval that readers see."""
    return connection.execute(_SQL["newest_published"], {"job": job}).fetchone()


def last_failure(connection: Connection, job: str) -> Row | None:
    """Return the newest failure of an interval that is not published."""
    return connection.execute(_SQL["last_failure"], {"job": job}).fetchone()


def newest_runs(connection: Connection, job: str, first: datetime, last: datetime) -> dict[datetime, Row]:
    """Return the run that says most of each interval in a range: the one readers see, else the newest."""
    asked = {"job": job, "first": first, "last": last}
    return {row["interval_start"]: row for row in connection.execute(_SQL["newest_runs"], asked)}


def _attempt(row: Row) -> Attempt:
    return Attempt(**{name: row[name] for name in Attempt.__dataclass_fields__})
