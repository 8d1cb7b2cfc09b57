"""Which span of time a name, a moment or the clock stands for, in zones whose clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import IntervalError
from jobs.interval import interval_containing, interval_named, latest_complete

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 21, 4, tzinfo=UTC)
SECOND = timedelta(seconds=1)
# The first of these zones change their clocks at midnight, by half an hour, or by a whole day.
ODD_ZONES = [
    "America/Havana", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut", "Asia/Kathmandu", "Africa/Cairo",
    "Atlantic/Azores", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kwajalein", "Africa/Monrovia",
]  # fmt: skip
ZONES = st.one_of(st.sampled_from(ODD_ZONES), st.sampled_from(sorted(available_timezones())))


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def hours(interval) -> float:
    return (utc(interval.end) - utc(interval.start)) / timedelta(hours=1)


@pytest.mark.parametrize(
    ("expected", "text", "unit", "zone"),
    [
        (
            "2026-03-29 00:00+01:00 → 2026-03-30 00:00+02:00 (Europe/Berlin, 23 h)",
            "2026-03-29",
            "day",
            "Europe/Berlin",
        ),
        (
            "2026-10-25 00:00+02:00 → 2026-10-26 00:00+01:00 (Europe/Berlin, 25 h)",
            "2026-10-25",
            "day",
            "Europe/Berlin",
        ),
        (
            "2026-03-23 00:00+01:00 → 2026-03-30 00:00+02:00 (Europe/Berlin, 167 h)",
            "2026-03-23",
            "week",
            "Europe/Berlin",
        ),
        ("2026-02-01 00:00+00:00 → 2026-03-01 00:00+00:00 (UTC, 672 h)", "2026-02-01", "month", "UTC"),
        (
            "2018-11-04 01:00-02:00 → 2018-11-05 00:00-02:00 (America/Sao_Paulo, 23 h)",
            "2018-11-04",
            "day",
            "America/Sao_Paulo",
        ),
        (
            "2018-02-17 00:00-02:00 → 2018-02-18 00:00-03:00 (America/Sao_Paulo, 25 h)",
            "2018-02-17",
            "day",
            "America/Sao_Paulo",
        ),
        (
            "2026-03-29 01:00+03:00 → 2026-03-30 00:00+03:00 (Asia/Beirut, 23 h)",
            "2026-03-29",
            "day",
            "Asia/Beirut",
        ),
        (
            "2025-11-02 00:00-04:00 → 2025-11-03 00:00-05:00 (America/Havana, 25 h)",
            "2025-11-02",
            "day",
            "America/Havana",
        ),
        (
            "2011-12-29 00:00-10:00 → 2011-12-31 00:00+14:00 (Pacific/Apia, 24 h)",
            "2011-12-29",
            "day",
            "Pacific/Apia",
        ),
        (
            "2026-10-25 02:00+02:00 → 2026-10-25 02:00+01:00 (Europe/Berlin, 1 h)",
            "2026-10-25T02+02:00",
            "hour",
            "Europe/Berlin",
        ),
        (
            "2026-10-25 02:00+01:00 → 2026-10-25 03:00+01:00 (Europe/Berlin, 1 h)",
            "2026-10-25T02+01:00",
            "hour",
            "Europe/Berlin",
        ),
        (
            "2026-03-29 01:00+01:00 → 2026-03-29 03:00+02:00 (Europe/Berlin, 1 h)",
            "2026-03-29T01",
            "hour",
            "Europe/Berlin",
        ),
        (
            "2026-03-29 05:00+05:45 → 2026-03-29 06:00+05:45 (Asia/Kathmandu, 1 h)",
            "2026-03-29T05",
            "hour",
            "Asia/Kathmandu",
        ),
    ],
)
def test_names(expected, text, unit, zone):
    """A name stands for the span between two local midnights, Mondays, firsts or full hours, in elapsed time."""
    assert expected == interval_named(text, unit, ZoneInfo(zone), NOW).describe()


@pytest.mark.parametrize(
    ("expected", "text", "unit"),
    [
        ("--date '' is not a date; write YYYY-MM-DD, such as 2026-03-29", "", "day"),
        ("--date '20260101' is not a date; write YYYY-MM-DD, such as 2026-03-29", "20260101", "day"),
        ("--date '2026-W01-1' is not a date; write YYYY-MM-DD, such as 2026-03-29", "2026-W01-1", "day"),
        ("--date '2026-01-01\\n' is not a date; write YYYY-MM-DD, such as 2026-03-29", "2026-01-01\n", "day"),
        ("--date '٢٠٢٦-01-01' is not a date; write YYYY-MM-DD, such as 2026-03-29", "٢٠٢٦-01-01", "day"),
        (
            "--date '2026-03-29T02' is not a date; write YYYY-MM-DD, such as 2026-03-29",
            "2026-03-29T02",
            "day",
        ),
        ("--date 2026-02-29: there is no such day in the calendar", "2026-02-29", "day"),
        ("--date 0001-01-01: the year is not between 1900 and 9998", "0001-01-01", "day"),
        ("--date 9999-12-31: the year is not between 1900 and 9998", "9999-12-31", "day"),
        ("--date 9999-12-31T23: the year is not between 1900 and 9998", "9999-12-31T23", "hour"),
        (
            "--date 2026-03-25: a week begins on Monday; the week of that day is 2026-03-23",
            "2026-03-25",
            "week",
        ),
        (
            "--date 2026-03-25: a month begins on the first; the month of that day is 2026-03-01",
            "2026-03-25",
            "month",
        ),
        (
            "--date '2026-03-29' names a day, and this job is hourly; write YYYY-MM-DDTHH, such as 2026-03-29T02",
            "2026-03-29",
            "hour",
        ),
        (
            "--date '2026-03-29T2' is not an hour; write YYYY-MM-DDTHH, such as 2026-03-29T02",
            "2026-03-29T2",
            "hour",
        ),
        ("--date 2026-03-29T24: there is no such hour in the calendar", "2026-03-29T24", "hour"),
        ("--date 2026-03-29T02: there is no such hour in Europe/Berlin", "2026-03-29T02", "hour"),
        ("--date 2026-10-25T02+05:00: there is no such hour in Europe/Berlin", "2026-10-25T02+05:00", "hour"),
        (
            (
                "--date 2026-10-25T02: that hour comes twice in Europe/Berlin; "
                "write 2026-10-25T02+02:00 or 2026-10-25T02+01:00"
            ),
            "2026-10-25T02",
            "hour",
        ),
        (
            (
                "--date 2026-11-21: this day ends at 2026-11-22 00:00+01:00 and is not over yet; "
                "the latest complete one is 2026-11-20"
            ),
            "2026-11-21",
            "day",
        ),
        (
            (
                "--date 2027-01-04: this week ends at 2027-01-11 00:00+01:00 and is not over yet; "
                "the latest complete one is 2026-11-09"
            ),
            "2027-01-04",
            "week",
        ),
    ],
)
def test_refused_names(expected, text, unit):
    """What names no complete interval is refused in one line that says what a valid name is."""
    with pytest.raises(IntervalError) as error:
        interval_named(text, unit, BERLIN, NOW)
    assert expected == str(error.value)


def test_a_date_the_zone_skipped():
    """A date that clocks jumped over as a whole is no interval."""
    with pytest.raises(IntervalError) as error:
        interval_named("2011-12-30", "day", ZoneInfo("Pacific/Apia"), NOW)
    assert "--date 2011-12-30: that day was skipped in Pacific/Apia" == str(error.value)


def test_over_at_its_end():
    """An interval is over at the very moment it ends, and not a microsecond before."""
    end = datetime(2026, 11, 21, tzinfo=BERLIN)
    before = (utc(end) - timedelta(microseconds=1)).astimezone(BERLIN)
    assert date(2026, 11, 20) == latest_complete("day", BERLIN, end).date
    assert date(2026, 11, 19) == latest_complete("day", BERLIN, before).date


@pytest.mark.parametrize(
    ("expected", "day"),
    [
        (["01:00", "02:30", "03:00"], date(2026, 10, 4)),
        (["01:00", "01:30", "02:00"], date(2026, 4, 5)),
    ],
)
def test_half_hour_daylight_saving(expected, day):
    """Where clocks move by half an hour, the hour they move in is cut at the change."""
    zone = ZoneInfo("Australia/Lord_Howe")
    each = interval_containing(datetime.combine(day, time(1), zone), "hour", zone)
    starts = []
    for _ in expected:
        starts.append(f"{each.start:%H:%M}")
        each = interval_containing(each.end, "hour", zone)
    assert expected == starts


@given(
    zone=ZONES,
    moment=st.datetimes(datetime(1960, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001
    unit=st.sampled_from(["hour", "day", "week", "month"]),
)
@settings(max_examples=300, deadline=None)
def test_tiling(zone, moment, unit):
    """In every zone a moment lies in its interval, and the next interval begins where it ends."""
    place = ZoneInfo(zone)
    instant = moment.replace(tzinfo=UTC)
    interval = interval_containing(instant, unit, place)
    following = interval_containing(interval.end, unit, place)
    assert utc(interval.start) <= instant < utc(interval.end)
    assert utc(interval.end) == utc(following.start)
    assert interval == interval_containing(utc(interval.end) - SECOND, unit, place)


def changes(zone: ZoneInfo) -> list[datetime]:
    """Every third day's noon of six years around which the zone's offset differs from the day before."""
    noon = datetime(2007, 1, 1, 12, tzinfo=UTC)
    days = [noon + timedelta(days=count) for count in range(365 * 6)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [days[at] for at in range(1, len(days)) if offsets[at] != offsets[at - 1]]


@pytest.mark.parametrize("zone", [*ODD_ZONES, "Europe/Berlin", "America/New_York", "Africa/Casablanca"])
def test_tiling_over_clock_changes(zone):
    """Around each change of the clocks days and hours follow one another, and each label names its own."""
    place = ZoneInfo(zone)
    for change in changes(place):
        for unit, back, count in (("day", 2, 5), ("hour", 1, 30)):
            each = interval_containing(change - timedelta(days=back), unit, place)
            for _ in range(count):
                following = interval_containing(each.end, unit, place)
                assert utc(each.end) == utc(following.start)
                assert 0 < hours(each) <= (1 if unit == "hour" else 49)
                assert each == interval_named(each.label, unit, place, NOW)
                each = following
