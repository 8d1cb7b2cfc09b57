"""What a schedule is to do now: intervals that are due less those the ledger has, as one pure function.

    wanted       from the first interval the schedule is answerable for to the newest that is due (jobs/slots.py)
  - settled      published, rolled back by a person, or past their retention
  = missing      what there should be and is not
  - let go       by `catchup`: latest keeps the newest due interval alone, none only while its slot is fresh
  - resting      after a failure, or while something is waited for (storage/attempts.py)
  = to run now   the oldest first; with `catchup: newest_first` the newest first

`lookback` adds published intervals: the last N before the newest one, once at each slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from jobs import slots
from jobs.interval import interval_containing
from storage.attempts import Attempt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from jobs.interval import Interval
    from jobs.jobspec import Job
    from storage.attempts import Cause

# With `catchup: none` a slot counts as missed after this: longer than cron or a scheduler takes to wake, shorter
# than a night.
FRESH = timedelta(hours=1)


@dataclass(frozen=True)
class Facts:
    """What the ledger says of a job's intervals, by the moments (UTC) at which they start."""

    first_seen: datetime
    settled: AbstractSet[datetime] = frozenset()
    attempts: Mapping[datetime, Attempt] = field(default_factory=dict)
    last_read: Mapping[datetime, datetime] = field(default_factory=dict)
    fingerprint: str = ""
    fingerprints: Mapping[datetime, str] = field(
        default_factory=dict
    )  # of intervals that have one of their own


@dataclass(frozen=True)
class Task:
    """One interval to be run: because it is missing, or because its rows may have changed since."""

    interval: Interval
    kind: Literal["missing", "lookback"]
    seen: Attempt


@dataclass(frozen=True)
class Due:
    """What a schedule has to do: `missing` is everything there should be, `tasks` what may be tried now."""

    newest: Interval | None
    missing: tuple[Interval, ...]
    tasks: tuple[Task, ...]


def span(job: Job, first_seen: datetime, now: datetime) -> tuple[Interval, Interval] | None:
    """Return the first and the newest interval the schedule is answerable for at `now`, or None."""
    first, newest = slots.first_wanted(job, first_seen), slots.newest_due(job, now)
    if first is None or newest is None or start(first) > start(newest):
        return None
    return first, newest


def what_is_due(job: Job, facts: Facts, now: datetime, known_settled_before: datetime | None = None) -> Due:
    """Return what the schedule has to do at `now` (aware).

    `known_settled_before` spares going through a long past again: every interval that starts before it is settled.
    """
    wanted = span(job, facts.first_seen, now)
    if wanted is None or job.schedule is None:
        return Due(None, (), ())
    first, newest = wanted
    if known_settled_before is not None and known_settled_before > start(first):
        first = interval_containing(known_settled_before, job.interval, job.zone)
    missing = tuple(each for each in slots.intervals(job, first, newest) if start(each) not in facts.settled)
    chosen = _caught_up(job, missing, newest, facts, now)
    tasks = [
        Task(each, "missing", attempt)
        for each in chosen
        if _may_be_tried(attempt := facts.attempts.get(start(each), Attempt(start(each))), facts, job, now)
    ]
    return Due(newest, missing, (*tasks, *_lookback(job, facts, newest, now)))


def start(interval: Interval) -> datetime:
    """Return where an interval starts, in UTC, as the ledger names it."""
    return interval.start.astimezone(UTC)


def _caught_up(
    job: Job, missing: tuple[Interval, ...], newest: Interval, facts: Facts, now: datetime
) -> tuple[Interval, ...]:
    assert job.schedule is not None  # noqa: S101  # asked by the caller
    catchup = job.schedule.catchup
    if catchup == "all":
        return missing
    if catchup == "newest_first":
        return missing[::-1]
    latest = missing[-1:] if missing and start(missing[-1]) == start(newest) else ()
    if catchup == "none" and start(newest) not in facts.attempts and now - slots.due_at(job, newest) > FRESH:
        return ()
    return latest


def _may_be_tried(attempt: Attempt, facts: Facts, job: Job, now: datetime) -> bool:
    """Whether an interval that is missing may be tried now; storage/attempts.py says why not."""
    if attempt.is_resting:
        return False
    cause: Cause | None = attempt.cause if attempt.failures else None
    if cause is None or cause == "cancelled":
        return cause is None
    if attempt.fingerprint != facts.fingerprints.get(attempt.interval_start, facts.fingerprint):
        return True
    if cause in ("lasting", "blocked"):
        return False
    if attempt.not_before is not None:  # its rest is over
        return True
    assert job.schedule is not None  # noqa: S101  # asked by the caller
    assert attempt.failed_at is not None  # noqa: S101  # it has failed
    return slots.latest_slot(job.schedule, now) > attempt.failed_at


def _lookback(job: Job, facts: Facts, newest: Interval, now: datetime) -> list[Task]:
    assert job.schedule is not None  # noqa: S101  # asked by the caller
    slot = slots.latest_slot(job.schedule, now)
    each, tasks = newest, []
    for _ in range(job.schedule.lookback):
        each = interval_containing(start(each) - timedelta(microseconds=1), job.interval, job.zone)
        read = facts.last_read.get(start(each))
        attempt = facts.attempts.get(start(each), Attempt(start(each)))
        if read is not None and attempt.failed_at is not None and attempt.failed_at < read:
            attempt = Attempt(start(each))  # it failed before a person's run published it
        if read is not None and read < slot and _may_be_tried(attempt, facts, job, now):
            tasks.append(Task(each, "lookback", attempt))
    return tasks[::-1]
