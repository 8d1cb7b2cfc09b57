"""`batchpred tick` and `batchpred schedule`: run what is due, once or for ever."""

from __future__ import annotations

import logging
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchpred import console
from batchpred.settings import Settings
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from jobs.run import RunReport
    from jobs.schedule import Ticker

Project = Annotated[
    Path, typer.Option("--project", "-C", help="The folder with the *.job.yaml files.", file_okay=False)
]
log = logging.getLogger("batchpred.schedule")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(tick)
    app.command()(schedule)


def tick(
    project: Project = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Run what is due and missing, once; for cron."""
    from jobs.schedule import Ticker

    settings = Settings.read()
    reports, faults = _pass(Ticker(settings.runtime()), settings, project)
    if as_json:
        console.print_json({"runs": [report.as_json() for report in reports]})
    elif reports:
        console.print_table([report.line for report in reports])
    else:
        console.out.print("nothing is due")
    for report in reports:
        if report.error:
            console.print_error(report.error)
    raise typer.Exit(
        console.worst_exit_code([each.exit_code for each in reports] + [each.exit_code for each in faults])
    )


def schedule(
    project: Project = Path(),
    every: Annotated[int, typer.Option(min=1, help="Seconds between two looks at what is due.")] = 30,
) -> None:
    """Keep running what is due, until a signal.

    Several at once share the work: each interval is run by one of them.
    """
    from apscheduler.schedulers.blocking import BlockingScheduler

    from jobs.schedule import Ticker

    settings = Settings.read()
    ticker = Ticker(settings.runtime())
    # A timer and no more: what is due and what is missing is for the ledger to say, so a late or doubled tick
    # is harmless, and nothing is stored or dropped as misfired.
    timer = BlockingScheduler(
        timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
    )
    timer.add_job(
        _tick_and_log, "interval", [ticker, settings, project], seconds=every, next_run_time=datetime.now(UTC)
    )
    for name in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the run in progress; it may not be called from the timer's own thread.
        signal.signal(name, lambda *_: timer.shutdown())
    log.info("scheduler started", extra={"project": str(project), "every_seconds": every})
    timer.start()


def _pass(ticker: Ticker, settings: Settings, project: Path) -> tuple[list[RunReport], list[BatchpredError]]:
    """Read the job files anew, so that an edit counts from the next tick on, and run what is due."""
    from jobs.jobfile import load_project

    job_files, faults = load_project(project, settings.environ)
    for fault in faults:
        log.error("job file refused", extra={"error": str(fault)})
    with ticker.watching(job_files):
        return ticker.tick(job_files, datetime.now(UTC)), list(faults)


def _tick_and_log(ticker: Ticker, settings: Settings, project: Path) -> None:
    try:
        _pass(ticker, settings, project)
    except BatchpredError as error:  # the database is away, say: the next tick tries again
        log.error("tick failed", extra={"error": str(error)})  # noqa: TRY400  # the message is the whole story
