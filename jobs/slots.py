"""Which intervals a schedule makes due at a moment: pure functions of the job file and the clock, no ledger.

A slot is a moment the cron names. At a slot every interval becomes due that is over by then (`target: previous`)
or has begun (`target: current`). So a slot's intervals are those since the slot before it, usually one: a daily
job has one at each slot; an hourly job whose cron fires once a day has 24, or 23 and 25 on the days on which the
clocks change. Intervals tile the time line (jobs/interval.py), hence so does what comes due: whatever cron, zone
and day, none is passed over and none is due twice. tests/unit/test_slots.py holds this in every zone there is.

How far back the past counts: from `start_date` on, or else from the interval that was due when the ledger first
saw the job with this zone and this length of interval. What happened before then is for `batchpred backfill`.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from cronsim import CronSim

from jobs.interval import interval_containing, latest_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.interval import Interval
    from jobs.jobspec import Job
    from jobs.jobspec.schedule import Schedule

_SECOND = timedelta(seconds=1)


def latest_slot(schedule: Schedule, now: datetime) -> datetime:
    """Return the newest slot that is not after `now` (aware), in the schedule's zone."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    if (noon := _noon_before_change(schedule, moment)) is not None:
        latest = None
        for slot in CronSim(schedule.cron_fields, noon):
            if slot.astimezone(UTC) > moment:
                break
            latest = slot
        if latest is not None:
            return latest
        moment = noon.astimezone(UTC)
    # One second ahead: looking backwards, a slot that is exactly now has come.
    return next(CronSim(schedule.cron_fields, (moment + _SECOND).astimezone(schedule.zone), reverse=True))


def next_slot(schedule: Schedule, moment: datetime) -> datetime:
    """Return the first slot at or after an aware moment."""
    before = moment.astimezone(UTC) - timedelta(microseconds=1)
    begin = _noon_before_change(schedule, before) or before.replace(microsecond=0).astimezone(schedule.zone)
    return next(slot for slot in CronSim(schedule.cron_fields, begin) if slot.astimezone(UTC) > before)


def _noon_before_change(schedule: Schedule, moment: datetime) -> datetime | None:
    """Return a moment to count slots from, where the zone's clocks change about `moment`; None elsewhere.

    Begun within the hour that comes twice, cronsim 2.8 takes the clock's face for the time: `30 2 * * *` would have
    a second slot in it, and looking back from it none at all. Begun at noon of the day before it is right.
    """
    around = [(moment + timedelta(hours=hours)).astimezone(schedule.zone) for hours in (-26, 3)]
    if around[0].utcoffset() == around[1].utcoffset():
        return None
    day_before = moment.astimezone(schedule.zone).date() - timedelta(days=1)
    return datetime.combine(day_before, time(12), tzinfo=schedule.zone)


def newest_due(job: Job, now: datetime) -> Interval | None:
    """Return the newest interval that is due at `now` (aware), or None for a job without a schedule."""
    if job.schedule is None:
        return None
    slot = latest_slot(job.schedule, now)
    if job.schedule.target == "current":
        return interval_containing(slot, job.interval, job.zone)
    return latest_complete(job.interval, job.zone, slot)


def due_at(job: Job, interval: Interval) -> datetime:
    """Return the slot at which an interval becomes due. The job has a schedule."""
    schedule = job.schedule
    assert schedule is not None  # noqa: S101  # the caller's business
    return next_slot(schedule, interval.start if schedule.target == "current" else interval.end)


def following(interval: Interval, job: Job) -> Interval:
    """Return the interval that begins where this one ends."""
    return interval_containing(interval.end, job.interval, job.zone)


def first_wanted(job: Job, first_seen: datetime) -> Interval | None:
    """Return the first interval that the schedule is answerable for; None for a job without a schedule.

    `first_seen` is the moment (aware) at which the ledger first saw the job scheduled.
    """
    schedule = job.schedule
    if schedule is None:
        return None
    if schedule.start_date is None:
        return newest_due(job, first_seen)
    # Noon lies within the local date whatever its clocks do at night.
    noon = datetime.combine(schedule.start_date, time(12), tzinfo=job.zone)
    day = interval_containing(noon, "day", job.zone)
    return interval_containing(day.start, job.interval, job.zone)


def intervals(job: Job, first: Interval, last: Interval) -> Iterator[Interval]:
    """Yield every interval from `first` to `last`, both included, the oldest first."""
    each = first
    while each.start.astimezone(UTC) <= last.start.astimezone(UTC):
        yield each
        each = following(each, job)
