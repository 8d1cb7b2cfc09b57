"""`batchpred backfill`: score a range of past intervals, resumably."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings

if TYPE_CHECKING:
    from jobs.backfill import Backfill, Step
    from jobs.report import RunReport
    from storage.database import Database


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(backfill)


def backfill(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    first: Annotated[str, typer.Option("--from", metavar="A", help="The first interval, included.")],
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="B", help="The last, included; the latest complete one if left out."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="REF", help="Score with this model instead of the job's.")
    ] = None,
    as_of_date: Annotated[
        bool,
        typer.Option(
            "--model-as-of-date", help="Score with the version that the alias named when each ended."
        ),
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Intervals at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Score anew even what is published.")] = False,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Score a range of past intervals, both ends included.

    The oldest comes first, and what is published is left as it is.

    Interrupted or killed, the same command goes on where it was. Intervals that fail stop nothing: they are listed
    at the end, with the command that does them again. A newer prediction is never hidden.
    """
    from jobs.backfill import Backfill, named
    from jobs.jobfile import choose_jobs

    settings = Settings.read()
    ((job_file,), _) = choose_jobs(project, [job], settings.environ)
    begin, end = named(job_file, first, last, datetime.now(UTC), model_ref=model, as_of_date=as_of_date)
    asked = Backfill(job_file, begin, end, model, as_of_date, force, parallel, str(project))
    if dry_run:
        planned = _steps(settings.database(), asked)
        lines = [{**step.line, "model": step.model_ref or job_file.job.model} for step in planned]
        if as_json:
            console.print_json({"steps": lines})
        else:
            console.print_table(lines)
            console.out.print(f"\n{_count(planned)}; nothing was done")
        return
    _do(settings, asked, as_json=as_json)


def _do(settings: Settings, asked: Backfill, *, as_json: bool) -> None:
    from jobs.backfill import backfill as do
    from jobs.backfill import redo
    from jobs.deliver import watching

    runtime = settings.runtime()
    planned = _steps(runtime.database, asked)
    skipped = sum(step.is_done for step in planned)
    lock, name = threading.Lock(), asked.job_file.job.name
    with watching(runtime.database, [asked.job_file]), console.progress(name) as counter:

        def advance(rows: int) -> None:
            with lock:
                counter(rows)

        reports = do(runtime, asked, planned, on_progress=advance)
    failed = [report for report in reports if report.exit_code]
    commands = redo(asked, failed, planned)
    if as_json:
        found = [report.as_json() for report in reports]
        console.print_json({"runs": found, "skipped": skipped, "redo": commands})
    else:
        console.print_table([report.line for report in reports])
        console.out.print(f"\n{_said(reports, skipped, failed)}")
    for report in failed:
        console.print_error(f"{report.label}: {report.error}")
    if commands:
        console.err.print("\nto do the failed ones again:", soft_wrap=True)
        for command in commands:
            console.err.print(f"  {command}", soft_wrap=True)
    raise typer.Exit(console.worst_exit_code([report.exit_code for report in reports]))


def _steps(database: Database, asked: Backfill) -> list[Step]:
    from jobs.backfill import steps

    with database.errors("backfill"), database.connect(purpose="backfill", as_writer=True) as connection:
        return steps(connection, asked)


def _count(planned: list[Step]) -> str:
    acts = [str(step.line["do"]) for step in planned]
    said = ", ".join(f"{acts.count(act)} to {act}" for act in ("run", "rebuild", "skip") if act in acts)
    return f"{len(planned)} intervals: {said or 'none that can be done'}"


def _said(reports: list[RunReport], skipped: int, failed: list[RunReport]) -> str:
    done = [report for report in reports if report.status == "published"]
    rows = sum(report.rows["scored"] for report in done)
    return f"{len(done)} published ({rows:,} predictions), {skipped} were there already, {len(failed)} failed"
