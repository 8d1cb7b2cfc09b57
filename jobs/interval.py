"""The intervals runs are about: half-open spans of time, cut at local midnights or hours of a job's zone.

Days, weeks and months are cut at the first moment of a local date, whatever its clock then says: where a
zone's clocks skip midnight the day begins when they come out of the gap. Hours are cut at full local hours
and at every change of the clocks. So intervals of a unit tile the time line: no gap, no overlap, and a day in
Berlin has 23 hours on 2026-03-29 and 25 on 2026-10-25.

Moments are compared in UTC throughout: Python compares two datetimes of one zone by their clock faces, which
is wrong in the hour that comes twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal

from jobs.errors import IntervalError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Unit = Literal["hour", "day", "week", "month"]

_FORMS = {"hour": "YYYY-MM-DDTHH, such as 2026-03-29T02", "day": "YYYY-MM-DD, such as 2026-03-29"}
# Nobody scores rows of other years; refusing them keeps every sum of days within what datetime can say.
_YEARS = range(1900, 9999)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_HOUR = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2})(?::([0-9]{2}))?([+-][0-9]{2}:[0-9]{2})?")


@dataclass(frozen=True)
class Interval:
    """The span [start, end): two moments in the job's zone, and the unit it is one of."""

    start: datetime
    end: datetime
    unit: Unit

    @property
    def date(self) -> date:
        """The local date on which it starts."""
        return self.start.date()

    @property
    def label(self) -> str:
        """How `--date` names it: 2026-03-29, or for an hour 2026-03-29T02, with the offset where that is twice."""
        if self.unit != "hour":
            return self.start.date().isoformat()
        text = f"{self.start:%Y-%m-%dT%H:%M}" if self.start.minute else f"{self.start:%Y-%m-%dT%H}"
        comes_twice = len(_moments(self.start.replace(tzinfo=None, fold=0), _zone(self.start))) > 1
        return text + _offset(self.start) if comes_twice else text

    @property
    def hours(self) -> float:
        """Its length in hours of elapsed time."""
        return (self.end.astimezone(UTC) - self.start.astimezone(UTC)) / timedelta(hours=1)

    def describe(self) -> str:
        """Write both ends with their offsets, the zone and the length, in one line."""
        ends = " → ".join(f"{each:%Y-%m-%d %H:%M}{_offset(each)}" for each in (self.start, self.end))
        return f"{ends} ({_zone(self.start).key}, {self.hours:g} h)"


def interval_named(text: str, unit: Unit, zone: ZoneInfo, now: datetime) -> Interval:
    """Find the interval that `--date TEXT` names; it must be over at `now` (aware).

    Raises IntervalError for what is no date or hour, does not exist in the zone, begins no interval of this
    unit, or is not over yet.
    """
    interval = _hour_named(text, zone) if unit == "hour" else _date_named(text, unit, zone)
    if interval.end.astimezone(UTC) > now.astimezone(UTC):
        latest = latest_complete(unit, zone, now)
        raise IntervalError(
            f"--date {text}: this {unit} ends at {interval.end:%Y-%m-%d %H:%M}{_offset(interval.end)} and is "
            f"not over yet; the latest complete one is {latest.label}"
        )
    return interval


def latest_complete(unit: Unit, zone: ZoneInfo, now: datetime) -> Interval:
    """Return the newest interval that is over at `now` (aware)."""
    running = interval_containing(now, unit, zone)
    return interval_containing(running.start.astimezone(UTC) - timedelta(microseconds=1), unit, zone)


def interval_containing(moment: datetime, unit: Unit, zone: ZoneInfo) -> Interval:
    """Return the interval of this unit in which an aware moment lies."""
    if unit == "hour":
        return _hour_containing(moment, zone)
    first = _first_date(moment.astimezone(zone).date(), unit)
    start, end = _start_of(first, zone), _start_of(_next_date(first, unit), zone)
    if moment.astimezone(UTC) >= end.astimezone(UTC):
        # Clocks set back across midnight brought the old date round again: that hour belongs to the new one.
        start, end = end, _start_of(_next_date(end.date(), unit), zone)
    return Interval(start, end, unit)


def _date_named(text: str, unit: Unit, zone: ZoneInfo) -> Interval:
    found = _DATE.fullmatch(text)
    try:
        day = date(*map(int, found.groups())) if found else None
    except ValueError:
        raise IntervalError(f"--date {text}: there is no such day in the calendar") from None
    if day is None:
        raise IntervalError(f"--date {text!r} is not a date; write {_FORMS['day']}")
    _check_year(text, day)
    first = _first_date(day, unit)
    if first != day:
        what = {"week": "a week begins on Monday", "month": "a month begins on the first"}[unit]
        raise IntervalError(f"--date {text}: {what}; the {unit} of that day is {first.isoformat()}")
    start, end = _start_of(day, zone), _start_of(_next_date(day, unit), zone)
    if unit == "day" and start.date() != day:
        raise IntervalError(f"--date {text}: that day was skipped in {zone.key}")
    return Interval(start, end, unit)


def _hour_named(text: str, zone: ZoneInfo) -> Interval:
    found = _HOUR.fullmatch(text)
    if not found:
        what = "names a day, and this job is hourly" if _DATE.fullmatch(text) else "is not an hour"
        raise IntervalError(f"--date {text!r} {what}; write {_FORMS['hour']}")
    day, hour, minute, offset = found.groups()
    try:
        face = datetime.combine(date.fromisoformat(day), time(int(hour), int(minute or 0)))
    except ValueError:
        raise IntervalError(f"--date {text}: there is no such hour in the calendar") from None
    _check_year(text, face.date())
    moments = [each for each in _moments(face, zone) if offset in (None, _offset(each))]
    if not moments:
        raise IntervalError(f"--date {text}: there is no such hour in {zone.key}")
    if len(moments) > 1:
        first, second = (f"{text}{_offset(each)}" for each in moments)
        raise IntervalError(f"--date {text}: that hour comes twice in {zone.key}; write {first} or {second}")
    interval = _hour_containing(moments[0], zone)
    if interval.start.astimezone(UTC) != moments[0].astimezone(UTC):
        raise IntervalError(f"--date {text}: no hour begins then; the one under way is {interval.label}")
    return interval


def _check_year(text: str, day: date) -> None:
    if day.year not in _YEARS:
        raise IntervalError(f"--date {text}: the year is not between {_YEARS.start} and {_YEARS.stop - 1}")


def _first_date(day: date, unit: Unit) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next_date(first: date, unit: Unit) -> date:
    if unit == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if unit == "week" else 1)


def _start_of(day: date, zone: ZoneInfo) -> datetime:
    """Return the first moment of a local date; of the date after it, where the zone skipped the whole day."""
    midnight = datetime.combine(day, time())
    if moments := _moments(midnight, zone):
        return moments[0]
    # In a gap the earlier reading of the clock face (fold=1) lies before the change, the other one after.
    before = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change_after(before, midnight.replace(tzinfo=zone).astimezone(UTC), zone)


def _hour_containing(moment: datetime, zone: ZoneInfo) -> Interval:
    local = moment.astimezone(zone)
    past = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    full = (local.astimezone(UTC) - past).astimezone(zone)
    start = full
    if full.utcoffset() != local.utcoffset():
        start = _change_after(full.astimezone(UTC), local.astimezone(UTC), zone)
    rest = timedelta(hours=1) - timedelta(minutes=start.minute, seconds=start.second)
    end = (start.astimezone(UTC) + rest).astimezone(zone)
    if end.utcoffset() != start.utcoffset():
        end = _change_after(start.astimezone(UTC), end.astimezone(UTC), zone)
    return Interval(start, end, "hour")


def _moments(face: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the moments at which the zone's clocks show this face: none, one, or two in order."""
    read = {(face.replace(tzinfo=zone, fold=fold)).astimezone(UTC) for fold in (0, 1)}
    there = [each.astimezone(zone) for each in sorted(read)]
    return [each for each in there if each.replace(tzinfo=None, fold=0) == face]


def _change_after(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment in (low, high] (UTC) at which the clocks changed, to the second."""
    offset = low.astimezone(zone).utcoffset()
    same, changed = 0, int((high - low).total_seconds())
    while changed - same > 1:
        middle = (same + changed) // 2
        if (low + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            same = middle
        else:
            changed = middle
    return (low + timedelta(seconds=changed)).astimezone(zone)


def _offset(moment: datetime) -> str:
    return moment.isoformat()[19:] if not moment.microsecond else moment.isoformat()[26:]


def _zone(moment: datetime) -> ZoneInfo:
    zone = moment.tzinfo
    assert zone is not None  # noqa: S101  # every Interval is made with its zone
    return zone  # type: ignore[return-value]
