"""When a job is late: the one definition, for `status`, for what readers are told and for `notify`.

The promise is `late_after`: once the interval behind the newest published one is over, so long may it take to be
published. A job of which nothing is published is measured by the first interval its schedule is answerable for,
whether a run of it ever began or not. For what is published the view batchpred.served_runs says the same in SQL
(`late_at`), because readers have no job file.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from jobs import due, slots
from storage import attempts

if TYPE_CHECKING:
    from datetime import datetime

    from jobs.interval import Interval
    from jobs.jobspec import Job
    from storage.database import Connection


def awaited(connection: Connection, job: Job, newest: Interval | None, now: datetime) -> Interval | None:
    """Return the interval that the promise is about at `now` (aware); None where nothing is due yet.

    `newest` is the newest published interval, or None. Nothing is written: a job that no schedule has seen yet is
    looked at as if it were seen now.
    """
    if newest is not None:
        return slots.following(newest, job)
    seen = attempts.first_seen(connection, job.name, job.interval, job.zone.key, now, note=False)
    wanted = due.span(job, seen, now)
    if wanted is None:
        return None
    first, last = wanted
    settled = attempts.settled(connection, job.name, due.start(first), due.start(last))
    return next((each for each in slots.intervals(job, first, last) if due.start(each) not in settled), None)


def late_at(job: Job, interval: Interval | None) -> datetime | None:
    """Return the moment, in the job's zone, from which on the job is late while that interval is not published.

    None where the job promises nothing or nothing is awaited.
    """
    if interval is None or job.schedule is None or job.schedule.late_after is None:
        return None
    return (interval.end.astimezone(UTC) + job.schedule.late_after).astimezone(job.zone)
