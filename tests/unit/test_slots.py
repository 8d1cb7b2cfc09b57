"""What comes due when: in every zone of the tz database, over the days on which its clocks change."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from jobs import due, slots
from jobs.due import Facts, what_is_due
from jobs.jobspec.schedule import Schedule
from storage.attempts import Attempt
from tests.chaos import zones

BERLIN = "Europe/Berlin"


def job(cron, unit="day", timezone="UTC", **more):
    schedule = Schedule(cron=cron, timezone=timezone, **more)
    return SimpleNamespace(name="j", schedule=schedule, interval=unit, zone=ZoneInfo(timezone), ready=None)


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


def labels(found):
    return [each.interval.label for each in found.tasks]


def facts(first_seen, published=(), **more):
    return Facts(at(first_seen), {at(each) for each in published}, **more)


@pytest.mark.parametrize("zone", zones.PECULIAR)
def test_intervals_come_due_without_gap_or_overlap(zone):
    """In a sample of zones, on each day their clocks change in two years, nothing is passed over or due twice."""
    assert [] == zones.faults_of(zone)


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        ("2026-03-10T02:59:59.999+01:00", "2026-03-08"),
        ("2026-03-10T03:00+01:00", "2026-03-09"),
        ("2026-03-29T01:59+01:00", "2026-03-27"),
        ("2026-03-29T03:00+02:00", "2026-03-28"),  # 03:00 comes an hour early that night
        ("2026-10-25T02:59+01:00", "2026-10-23"),
        ("2026-10-25T03:00+01:00", "2026-10-24"),
    ],
)
def test_a_daily_slot_is_about_the_day_that_is_over(now, newest):
    """At 03:00 in Berlin, also on the days of the change, the day that ended at midnight is due, and not before."""
    assert newest == slots.newest_due(job("0 3 * * *", timezone=BERLIN), at(now)).label


def test_a_slot_of_the_current_interval_is_about_what_has_begun():
    """With `target: current` the slot at 06:00 is about this very day."""
    today = job("0 6 * * *", target="current")
    assert "2026-03-10" == slots.newest_due(today, at("2026-03-10T06:00Z")).label
    assert "2026-03-09" == slots.newest_due(today, at("2026-03-10T05:59Z")).label
    interval = slots.newest_due(today, at("2026-03-10T06:00Z"))
    assert at("2026-03-10T06:00Z") == slots.due_at(today, interval)


def test_a_slow_cron_brings_every_interval_since_its_last_slot():
    """A job of hours whose cron fires once a day has all hours of the day at its slot: 23 on the short one."""
    hourly = job("0 3 * * *", "hour", BERLIN)
    found = what_is_due(hourly, facts("2026-03-28T04:00+01:00"), at("2026-03-29T03:00+02:00"))
    # the slot before had made 02:00 of the 28th due; from then on 24 hours, one of which there is not
    assert ("2026-03-28T02", "2026-03-29T01") == (labels(found)[0], labels(found)[-1])
    assert 24 == len(found.tasks)


DOWN = {"first_seen": "2026-03-01T12:00Z", "published": ["2026-02-28T00:00Z", "2026-03-01T00:00Z"]}


@pytest.mark.parametrize(
    ("catchup", "run"),
    [
        ("all", ["2026-03-02", "2026-03-03", "2026-03-04"]),
        ("newest_first", ["2026-03-04", "2026-03-03", "2026-03-02"]),
        ("latest", ["2026-03-04"]),
        ("none", []),
    ],
)
def test_what_was_missed_in_three_days(catchup, run):
    """Three days down: all in order, the newest first, only the newest, or none; all are said to be missing."""
    found = what_is_due(job("0 3 * * *", catchup=catchup), facts(**DOWN), at("2026-03-05T09:00Z"))
    assert run == labels(found)
    assert ["2026-03-02", "2026-03-03", "2026-03-04"] == [each.label for each in found.missing]


def test_without_catchup_a_fresh_slot_is_run():
    """With `catchup: none` the slot of this hour counts, and one that failed goes on after it."""
    none = job("0 3 * * *", catchup="none")
    assert ["2026-03-04"] == labels(what_is_due(none, facts(**DOWN), at("2026-03-05T03:59Z")))
    start = at("2026-03-04T00:00Z")
    failed = Attempt(start, 1, "passing", "x", "", at("2026-03-05T03:01Z"), at("2026-03-05T03:02Z"))
    known = facts(**DOWN, attempts={start: failed})
    assert ["2026-03-04"] == labels(what_is_due(none, known, at("2026-03-05T09:00Z")))


def test_the_past_counts_from_start_date_or_from_first_sight():
    """Without `start_date` the interval due at first sight is the first; with one, the one in which it lies."""
    first = what_is_due(job("0 3 * * *"), facts("2026-03-05T09:00Z"), at("2026-03-05T09:00Z"))
    assert ["2026-03-04"] == labels(first)
    weekly = job("0 3 * * 1", "week", start_date=date(2026, 2, 18))
    found = what_is_due(weekly, facts("2026-03-05T09:00Z"), at("2026-03-05T09:00Z"))
    assert ["2026-02-16", "2026-02-23"] == labels(found)


def test_a_start_date_in_the_future_makes_nothing_due():
    """Before its first interval is over a job has nothing to do and misses nothing."""
    found = what_is_due(
        job("0 3 * * *", start_date=date(2026, 4, 1)), facts("2026-03-01T00:00Z"), at("2026-03-05T09:00Z")
    )
    assert (None, (), ()) == (found.newest, found.missing, found.tasks)


@pytest.mark.parametrize(
    ("attempt", "runs"),
    [
        ({"cause": "passing", "not_before": at("2026-03-05T09:05Z"), "is_resting": True}, False),
        ({"cause": "passing", "not_before": at("2026-03-05T08:00Z")}, True),
        ({"cause": "passing", "failed_at": at("2026-03-05T02:00Z")}, True),  # a slot came since
        ({"cause": "passing", "failed_at": at("2026-03-05T03:30Z")}, False),
        ({"cause": "lasting", "failed_at": at("2026-03-05T02:00Z")}, False),
        ({"cause": "lasting", "failed_at": at("2026-03-05T02:00Z"), "fingerprint": "other"}, True),
        ({"cause": "blocked", "failed_at": at("2026-03-05T02:00Z")}, False),
        ({"cause": "cancelled", "failed_at": at("2026-03-05T02:00Z"), "fingerprint": "other"}, False),
        ({"cause": "not_ready", "failed_at": at("2026-03-05T02:00Z")}, True),
    ],
)
def test_when_a_failed_interval_is_tried_again(attempt, runs):
    """What may pass rests, then waits for the next slot; what lasts waits for a change; a person for a person."""
    start = at("2026-03-04T00:00Z")
    seen = Attempt(start, **{"failures": 1, "fingerprint": "same", "failed_at": start, **attempt})
    known = facts("2026-03-05T09:00Z", attempts={start: seen}, fingerprint="same")
    found = what_is_due(job("0 3 * * *"), known, at("2026-03-05T09:00Z"))
    assert (["2026-03-04"] if runs else []) == labels(found)
    assert ["2026-03-04"] == [each.label for each in found.missing]


def test_lookback_takes_the_last_intervals_once_a_slot():
    """Published intervals before the newest are looked at again, unless that was done since the slot."""
    days = [f"2026-03-0{day}T00:00Z" for day in range(1, 5)]
    read = {at(days[0]): at("2026-03-02T03:00Z"), at(days[1]): at("2026-03-03T03:00Z")}
    read |= {at(days[2]): at("2026-03-05T03:01Z"), at(days[3]): at("2026-03-05T03:00Z")}
    known = facts("2026-03-02T09:00Z", days, last_read=read)
    found = what_is_due(job("0 3 * * *", lookback=2), known, at("2026-03-05T09:00Z"))
    assert [("2026-03-02", "lookback")] == [(each.interval.label, each.kind) for each in found.tasks]


def test_a_long_past_is_gone_through_quickly():
    """Three years of hours are listed in seconds, and what is known to be settled is not gone through again."""
    hourly = job("5 * * * *", "hour", BERLIN, start_date=date(2023, 3, 1))
    now = at("2026-03-01T00:06Z")
    seen = facts("2026-03-01T00:00Z")
    found = what_is_due(hourly, seen, now)
    assert 3 * 8766 - 8 <= len(found.missing) <= 3 * 8766 + 24
    since = due.start(found.newest) - timedelta(days=1)
    assert 25 == len(what_is_due(hourly, seen, now, since).missing)
