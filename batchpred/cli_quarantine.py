"""`batchpred quarantine`: the rows that were set aside, and another try at their interval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.cli_runs import Date, interval_start
from batchpred.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Rows that were set aside: list, retry.", rich_markup_mode=None)
Job = Annotated[str, typer.Argument(metavar="JOB")]


@app.command(name="list")
def list_rows(
    job: Job,
    date: Date = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000)] = 100,
    as_json: Json = False,
) -> None:
    """List the rows set aside in an interval, the newest one without --date: key, reason and values."""
    from storage import moves

    database = Settings.read().database()
    with database.errors("quarantine"), database.connect(purpose="quarantine", as_writer=True) as connection:
        moves.calendar(connection, job)
        rows = moves.quarantined(connection, job, interval_start(connection, job, date), limit)
    if as_json:
        console.print_json({"quarantine": rows})
        return
    console.print_table(
        [
            {"run": row["run_id"], "interval": row["as_of_date"], **row["key"], "reason": row["reason"]}
            for row in rows
        ]
    )
    if not rows:
        console.out.print("nothing is in quarantine")


@app.command()
def retry(
    job: Job,
    date: Date = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Read an interval with rows in quarantine anew and score it whole, once its source or model is mended.

    Whole, so that rows of two moments are never published together; readers keep what they see until it is done.
    """
    from jobs.deliver import watching
    from jobs.interval import interval_containing
    from jobs.jobfile import choose_jobs
    from jobs.run import run_job
    from storage import moves

    settings = Settings.read()
    (job_file,), _ = choose_jobs(project, [job], settings.environ)
    runtime = settings.runtime()
    with (
        runtime.database.errors("quarantine"),
        runtime.database.connect(purpose="quarantine", as_writer=True) as connection,
    ):
        start = interval_start(connection, job, date)
        rows = moves.quarantined(connection, job, start, limit=1)
        before = moves.show_run(connection, rows[0]["run_id"]) if rows else None
    if before is None:
        console.out.print("nothing is in quarantine")
        return
    interval = interval_containing(before["interval_start"], job_file.job.interval, job_file.job.zone)
    with watching(runtime.database, [job_file]):
        report = run_job(runtime, job_file, interval, force=True)
    if as_json:
        console.print_json({"runs": [report.as_json()], "quarantined_before": before["rows_quarantined"]})
    else:
        console.print_table([report.line])
        console.out.print(
            f"in quarantine before: {before['rows_quarantined']}, now: {report.rows['quarantined']}"
        )
    if report.error:
        console.print_error(report.error)
    raise typer.Exit(report.exit_code)
