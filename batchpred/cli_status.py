"""`batchpred status`: how every job stands, in one table; and the last thirty intervals of one, as a calendar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobs.interval import Interval
    from jobs.standing import Standing, State

# A sign for eyes without colour, and a colour for those with.
_SIGNS: dict[State, tuple[str, str]] = {
    "published": ("■", "green"),
    "backfilled": ("◆", "cyan"),
    "running": ("▶", "blue"),
    "blocked": ("!", "bold magenta"),
    "failed": ("✗", "bold red"),
    "withdrawn": ("–", "dim"),
    "missing": ("○", "bold yellow"),
    "none": ("·", "dim"),
}
_NAMES = {"none": "not asked for"}
# Intervals in a line of the calendar: weekdays, hours of half a day, and whole years' months.
_IN_A_LINE = {"day": 7, "hour": 12, "week": 10, "month": 12}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(status)


def status(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB", help="Every job if left out.")] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Show how jobs stand: published, late, missing, failed.

    With one JOB its last thirty intervals too, as a calendar. The exit code is 1 where a promise (`late_after`) is
    broken.
    """
    from jobs.jobfile import choose_jobs
    from jobs.standing import calendar, standing
    from storage import attempts

    settings = Settings.read()
    chosen, faults = choose_jobs(project, jobs or [], settings.environ)
    database = settings.database()
    with database.errors("status"), database.connect(purpose="status", as_writer=True) as connection:
        now = attempts.clock(connection)
        found = [standing(connection, job_file, now) for job_file in chosen]
        only = chosen[0] if jobs and len(chosen) == 1 else None
        last = calendar(connection, only, now) if only else []
    if as_json:
        told = [{"interval": interval.label, "state": state} for interval, state in last]
        console.print_json(
            {"jobs": [each.as_json() for each in found], **({"calendar": told} if only else {})}
        )
    else:
        console.print_table([_line(each, now) for each in found])
        for each in found:
            _print_more(each)
        if only:
            print_calendar(last, only.job.interval)
    for fault in faults:
        console.print_error(str(fault))
    broken = [1 for each in found if each.is_broken]
    raise typer.Exit(console.worst_exit_code(broken + [fault.exit_code for fault in faults]))


def _line(each: Standing, now: datetime) -> dict[str, Any]:
    return {
        "job": each.job,
        "published": each.published.label if each.published else "nothing yet",
        "age": _length(now - each.published_at) if each.published_at else "",
        "promise": _promise(each),
        "next due": f"{each.next_due:%Y-%m-%d %H:%M}" if each.next_due else "no schedule",
        "running": ", ".join(_progress(run) for run in each.running),
        "missing": _missing(each.missing),
    }


def _print_more(each: Standing) -> None:
    """Say in a line what holds a job up, and what a person can do about it."""
    if each.canary:
        canary = each.canary
        console.out.print(
            f"\n{each.job}: canary {canary} scores {canary.percent} of the keys beside "
            f"{canary.name}@{canary.alias}, since {canary.started_at:%Y-%m-%d %H:%M} UTC",
            soft_wrap=True,
        )
    if each.waits_for:
        console.out.print(f"\n{each.job} waits for {each.waits_for}", soft_wrap=True)
    if each.failure:
        failure = each.failure
        said = str(failure["error"] or failure["cause"]).splitlines()[0]
        first = said.removeprefix(f"{each.job}: ")
        again = _again(failure)
        console.out.print(
            f"\n{each.job}: last failure {failure['failed_at']:%Y-%m-%d %H:%M} UTC, {first}\n  {again}",
            soft_wrap=True,
        )


def _again(failure: dict[str, Any]) -> str:
    if failure["not_before"] is not None:
        return f"tried again from {failure['not_before']:%H:%M:%S} UTC on (attempt {failure['failures'] + 1})"
    return {
        "passing": "tried again at the job's next slot",
        "not_ready": "asked again at the job's next slot",
        "cancelled": "left to you: batchpred run takes it up where it stopped",
        None: "a person's run, or a backfill's",
    }.get(
        failure["cause"],
        "not tried again until the job file, query, transform, files or model change, or you run it",
    )


def _promise(each: Standing) -> str:
    if each.late_by is not None:
        return f"LATE by {_length(each.late_by)}"
    if each.late_at is None:
        return "none"
    return f"next by {each.late_at:%Y-%m-%d %H:%M}"


def _progress(run: dict[str, Any]) -> str:
    done, before = int(run["rows_done"]), run["rows_before"]
    share = f" ({min(99, 100 * done // before)} %)" if before else ""
    return f"{run['as_of_date']}: {done:,} rows{share}" + (" stopping" if run["cancelled_by"] else "")


def _missing(intervals: tuple[Interval, ...]) -> str:
    if not intervals:
        return ""
    if len(intervals) <= 2:
        return ", ".join(each.label for each in intervals)
    return f"{len(intervals)}: {intervals[0].label} … {intervals[-1].label}"


def _length(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min" if rest >= 60 else f"{seconds} s"


def print_calendar(last: list[tuple[Interval, State]], unit: str) -> None:
    """Print intervals as signs, a line a week (or so many hours, weeks or months), and what the signs mean."""
    width = _IN_A_LINE[unit]
    # A week of days begins on Monday, as calendars do.
    before = last[0][0].start.weekday() if unit == "day" else 0
    cells: list[tuple[Interval, State] | None] = [None] * before + list(last)
    console.out.print()
    if unit == "day":
        console.out.print(" " * 12 + " ".join("MTWTFSS"))
    for at in range(0, len(cells), width):
        line = cells[at : at + width]
        first = next(each for each in line if each is not None)
        text = Text(f"{first[0].label:<{12 if unit != 'hour' else 20}}")
        for cell in line:
            sign, style = _SIGNS[cell[1]] if cell else (" ", "")
            text.append(sign, style).append(" ")
        console.out.print(text)
    there = {state for _, state in last}
    legend = Text("\n")
    for state, (sign, style) in _SIGNS.items():
        if state in there:
            legend.append(sign, style).append(f" {_NAMES.get(state, state)}   ")
    console.out.print(legend)
