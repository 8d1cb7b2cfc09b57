"""When a job runs: cron and time zone, which intervals are made up, what is waited for, how often it tries."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field

from jobs.jobspec.values import Duration, NotEmpty, Strict

_CRON_ALIASES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


@cache
def _zones() -> frozenset[str]:
    # Looking through the system's files takes 25 ms, and a scheduler reads its job files again and again.
    # "localtime" and "Factory" are names of this machine alone; PostgreSQL does not know them.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _zone(name: str) -> str:
    if name not in _zones():
        near = get_close_matches(name, _zones(), n=1)
        raise ValueError(f"unknown time zone {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return name


def _cron(text: str) -> str:
    fields = _CRON_ALIASES.get(text, text)
    # CronSim takes a sixth field for seconds, in front, where cron has none.
    if len(fields.split()) != 5 or len(fields) > 200:
        raise ValueError(
            f"{text[:40]!r} is no cron schedule: it has five fields, minute, hour, day, month and weekday, "
            f"or is one of {', '.join(_CRON_ALIASES)}"
        )
    try:
        CronSim(fields, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        said = str(error).replace("Bad ", "there is no such ")
        raise ValueError(f"{text!r} is no cron schedule: {said}") from None
    return text


def _start_date(value: Any) -> Any:
    # A moment is a date too in Python, and would lose its time.
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError("start_date is a date, such as 2026-01-01, without quotation marks")  # noqa: TRY004  # pydantic reports ValueErrors alone
    if not 1900 <= value.year < 9999:
        raise ValueError(f"start_date: nobody scores rows of the year {value.year}")
    return value


class Ready(Strict):
    """What must be true of the data before an interval is run."""

    query: NotEmpty = Field(
        description="A SELECT of one true or false; it binds what the source query may bind, and runs where that "
        "runs."
    )
    timeout: Duration = Field(
        timedelta(hours=24), description="How long it is waited for before the interval counts as failed."
    )


class Schedule(Strict):
    """When the job runs, in which zone its days begin, and what becomes of intervals that were missed or failed."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(description="Five fields as in cron(5), or @daily.")
    timezone: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="Of cron and intervals.")
    late_after: Duration | None = Field(
        None,
        description="How long after the end of the next interval a missing one may take before the job is late.",
    )
    target: Literal["previous", "current"] = Field(
        "previous",
        description="previous: a slot is about what is over by then; current: about what has begun by then.",
    )
    start_date: Annotated[date, BeforeValidator(_start_date)] | None = Field(
        None,
        description="The first interval there should be; if left out, the one due when the schedule first ran.",
    )
    catchup: Literal["all", "newest_first", "latest", "none"] = Field(
        "all",
        description="Missed intervals: all, the oldest first; all, newest_first; only the latest one; or none, and "
        "a slot that was missed by more than an hour is let go.",
    )
    lookback: int = Field(
        0,
        ge=0,
        le=1000,
        description="At each slot the last N intervals are scored anew where their rows changed.",
    )
    max_active: int = Field(1, ge=1, le=100, description="Runs of this job at once, over all schedulers.")
    retries: int = Field(
        5, ge=0, le=100, description="Further attempts after a failure that may pass, before the next slot's."
    )
    retry_backoff: Duration = Field(
        timedelta(seconds=30),
        description="Wait before the first of them; doubled for each further one, at most an hour, ± half.",
    )
    deadline: Duration | None = Field(
        None, description="A run that takes longer is stopped; the next one goes on where it was."
    )

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)

    @property
    def cron_fields(self) -> str:
        """The schedule in five fields."""
        return _CRON_ALIASES.get(self.cron, self.cron)
