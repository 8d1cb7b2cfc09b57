"""`batchpred tick` and `batchpred schedule`: run what is due, once or for ever."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings

Parallel = Annotated[int, typer.Option(min=1, max=64, help="Runs at once, of different jobs or intervals.")]
log = logging.getLogger("batchpred.schedule")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(tick)
    app.command()(schedule)


def tick(
    project: Project = Path(),
    parallel: Parallel = 1,
    as_json: Json = False,
) -> None:
    """Run what is due and missing, once.

    For cron, a systemd timer or a CronJob.

    Several at once share the work: each interval is run by one of them. SIGTERM hands over what is at work.
    """
    from batchpred.scheduler import Project as JobFiles
    from jobs.schedule import Ticker

    settings = Settings.read()
    job_files = JobFiles(project, settings.environ)
    ticker = Ticker(settings.runtime(), job_files.load, parallel=parallel)
    signal.signal(signal.SIGTERM, lambda *_: ticker.stop())
    reports = ticker.tick()
    if as_json:
        console.print_json({"runs": [report.as_json() for report in reports]})
    elif reports:
        console.print_table([report.line for report in reports])
    else:
        console.out.print("nothing is due")
    for report in reports:
        if report.error:
            console.print_error(report.error)
    codes = [each.exit_code for each in reports] + [each.exit_code for each in job_files.faults]
    raise typer.Exit(console.worst_exit_code(codes) or (130 if ticker.is_stopping else 0))


def schedule(
    project: Project = Path(),
    every: Annotated[int, typer.Option(min=1, help="Seconds between two looks at what is due.")] = 30,
    parallel: Parallel = 2,
    health_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replaced at every look; older than a few of them: not alive."),
    ] = None,
) -> None:
    """Keep running what is due, until a signal.

    Several at once share the work: each interval is run by one of them. SIGTERM hands the runs at work over: a
    chunk that is being written is finished, and the next scheduler goes on there.
    """
    from batchpred.scheduler import HealthFile, run_for_ever
    from batchpred.scheduler import Project as JobFiles
    from jobs.schedule import LOOK_EVERY, Ticker

    settings = Settings.read()
    health = HealthFile(health_file.absolute()) if health_file else None
    ticker = Ticker(
        settings.runtime(),
        JobFiles(project, settings.environ).load,
        parallel=parallel,
        look_every=min(LOOK_EVERY, every),
        on_look=lambda active: health.say(active=active) if health else None,
    )
    log.info("scheduler started", extra={"project": str(project), "every_seconds": every})
    run_for_ever(ticker, every=every, **({"say": health.say} if health else {}))
    log.info("scheduler stopped")
