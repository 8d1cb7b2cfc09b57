"""Every zone of the tz database: what a schedule makes due around each change of its clocks, in two years.

`python -m tests.chaos.zones` goes through all of them and prints one line of JSON.
"""

import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo, available_timezones

from jobs import slots
from jobs.interval import interval_containing
from jobs.jobspec.schedule import Schedule

YEARS = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC))
LOOK = timedelta(minutes=30)
CRONS = {"day": ("0 0 * * *", "30 2 * * *", "@daily"), "hour": ("0 * * * *",)}
# Half an hour's change, a change at midnight, two a year around Ramadan, and the common ones.
PECULIAR = ("Antarctica/Troll", "Australia/Lord_Howe", "Africa/Cairo", "Europe/Berlin")


def every_zone():
    """All zones but the names of this machine alone."""
    return sorted(available_timezones() - {"localtime", "Factory"})


def offsets(name):
    """How a zone's clocks go in two years: the moments (UTC, to the hour) from which each offset holds."""
    zone, found, day = ZoneInfo(name), [], YEARS[0]
    found.append((day, day.astimezone(zone).utcoffset()))
    while day < YEARS[1]:
        tomorrow = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != tomorrow.astimezone(zone).utcoffset():
            for hour in range(24):
                moment = day + timedelta(hours=hour + 1)
                if (offset := moment.astimezone(zone).utcoffset()) != found[-1][1]:
                    found.append((moment, offset))
        day = tomorrow
    return tuple(found)


def one_of_each():
    """Zones by how their clocks go in these two years: those whose clocks go alike have one and the same slots."""
    groups = {}
    for name in every_zone():
        groups.setdefault(offsets(name), []).append(name)
    return groups


def faults_of(name):
    """What does not hold in a zone: for each cron, around each change."""
    zone, faults = ZoneInfo(name), []
    for change, _ in offsets(name)[1:] or [(YEARS[0] + timedelta(days=90), None)]:
        for unit, crons in CRONS.items():
            for cron in crons:
                for target in ("previous", "current"):
                    schedule = Schedule(cron=cron, timezone=name, target=target)
                    job = SimpleNamespace(schedule=schedule, interval=unit, zone=zone)
                    faults += [f"{name} {cron} {target} {change}: {each}" for each in _faults(job, change)]
    return faults


def _faults(job, change):
    start, end = change - timedelta(hours=40), change + timedelta(hours=40)
    # What a scheduler sees that looks every quarter of an hour, from before the change to after it.
    looks = [start + LOOK * step for step in range(160)]
    seen = [slots.newest_due(job, look) for look in looks]
    # By where they start in UTC: intervals of one zone compare by their clock faces, in Antarctica/Troll wrongly.
    starts = [each.start.astimezone(UTC) for each in seen]
    new = [index for index in range(len(seen)) if index == 0 or starts[index] != starts[index - 1]]
    due = [seen[index] for index in new]
    came_at = {starts[index]: looks[index] for index in new}
    for before, after in pairwise(due):
        if after.start.astimezone(UTC) < before.end.astimezone(UTC):
            yield f"{after.label} came due after {before.label} and overlaps it"
        between = list(slots.intervals(job, slots.following(before, job), after))
        covered = [before, *between]
        yield from (
            f"a gap between {one.label} and {two.label}"
            for one, two in pairwise(covered)
            if one.end.astimezone(UTC) != two.start.astimezone(UTC)
        )
        # Only where the clocks cut an hour short do two come due at one slot.
        if job.interval == "day" and after.start != slots.following(before, job).start:
            yield f"{slots.following(before, job).label} was due only together with {after.label}"
        moment, came = slots.due_at(job, after).astimezone(UTC), came_at[after.start.astimezone(UTC)]
        if not came - LOOK < moment <= came:
            yield f"{after.label} is due at {moment}, and came due at {came}"
        if job.schedule.target == "previous" and after.end.astimezone(UTC) > came:
            yield f"{after.label} came due before it was over"
    if job.interval == "day":
        yield from _once_a_date(job, start, end)


def _once_a_date(job, start, end):
    """Each local date has exactly one slot, and each slot one interval of its own."""
    slot, dates = slots.next_slot(job.schedule, start), Counter()
    while slot.astimezone(UTC) < end:
        dates[slot.date()] += 1
        slot = slots.next_slot(job.schedule, slot.astimezone(UTC) + timedelta(seconds=1))
    day = interval_containing(start + timedelta(days=1), "day", job.zone)
    while day.end.astimezone(UTC) < end:
        if dates[day.date] != 1:
            yield f"{dates[day.date]} slots on {day.date}"
        day = slots.following(day, job)


def main():
    """Go through every zone and leave with 1 where anything does not hold."""
    began, faults = time.monotonic(), []
    groups = one_of_each()
    for names in groups.values():
        faults += faults_of(names[0])
    for fault in faults[:50]:
        print(f"does not hold: {fault}", file=sys.stderr)  # noqa: T201
    summary = {
        "zones": sum(map(len, groups.values())),
        "different": len(groups),
        "faults": len(faults),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))  # noqa: T201
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
