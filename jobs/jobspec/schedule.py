"""When a job runs: cron, time zone and the promise of freshness."""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from jobs.jobspec.values import Duration, Strict

_CRON_ALIASES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


def _zone(name: str) -> str:
    # "localtime" and "Factory" are names of this machine alone; PostgreSQL does not know them.
    if name not in available_timezones() - {"localtime", "Factory"}:
        near = get_close_matches(name, available_timezones(), n=1)
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


class Schedule(Strict):
    """When the job runs, and in which zone its days begin."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(description="Five fields as in cron(5), or @daily.")
    timezone: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="Of cron and intervals.")
    late_after: Duration | None = Field(
        None,
        description="How long after the end of the next interval a missing one may take before the job is late.",
    )

    @property
    def cron_fields(self) -> str:
        """The schedule in five fields."""
        return _CRON_ALIASES.get(self.cron, self.cron)
