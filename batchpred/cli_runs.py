"""`batchpred runs` and `batchpred rollback`: look at runs, stop one, go back to one, publish one all the same."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings
from batchpred.shown_run import print_run
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from jobs.jobfile import JobFile
    from storage.database import Connection, Row
    from storage.moves import Move

app = typer.Typer(
    no_args_is_help=True, help="The ledger: list, show, logs, cancel, publish runs.", rich_markup_mode=None
)

Date = Annotated[
    str | None, typer.Option(metavar="D", help="The interval that starts on this local date of the job.")
]


def add_to(parent: typer.Typer) -> None:
    """Add the commands to the application."""
    parent.add_typer(app, name="runs")
    parent.command()(rollback)


@app.command(name="list")
def list_runs(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]")] = None,
    date: Date = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first: what became of each."""
    from storage import moves

    database = Settings.read().database()
    with database.errors("runs"), database.connect(purpose="runs", as_writer=True) as connection:
        start = interval_start(connection, job, date)
        found = moves.list_runs(connection, job, start, limit)
    if as_json:
        console.print_json({"runs": found})
        return
    console.print_table([_line(run) for run in found])
    if not found:
        console.out.print("no runs yet")


@app.command()
def show(run_id: Annotated[int, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Show one run: rows, model, drift, reasons in quarantine, and every move of the pointer to it or from it.

    Of a run with a canary also how many rows champion and canary scored, and how their scores lie. Of drift the
    columns that moved most; --json has all of them.
    """
    from storage import canaries, moves
    from storage.job_table import JobTable

    database = Settings.read().database()
    with database.errors("show"), database.connect(purpose="runs", as_writer=True) as connection:
        run = moves.show_run(connection, run_id)
        if run["canary_version"] and run["has_table"]:
            run["sides"] = canaries.sides(connection, run_id, JobTable.from_json(run["job_table"]))
    if as_json:
        console.print_json(run)
        return
    print_run(run)


@app.command()
def logs(run_id: Annotated[int, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Tell what happened to a run, in order: starts and stops, chunks, errors, moves of the pointer."""
    from storage import run_log

    database = Settings.read().database()
    with database.errors("logs"), database.connect(purpose="runs", as_writer=True) as connection:
        events = run_log.events(connection, run_id)
    if as_json:
        console.print_json({"events": events})
        return
    console.print_table(
        [
            {
                "at": each["happened_at"],
                "event": each["event"],
                "details": "  ".join(f"{name}={value}" for name, value in each["details"].items()),
            }
            for each in events
        ]
    )


@app.command()
def cancel(run_id: Annotated[int, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Stop a run that is at work, within seconds; what it has done is kept, and who asked is recorded.

    A schedule does not start the interval again; `batchpred run` does, and goes on where it was.
    """
    from storage import run_log

    database = Settings.read().database()
    with database.errors("cancel"), database.connect(purpose="cancel", as_writer=True) as connection:
        holder = run_log.cancel(connection, run_id)
    if as_json:
        console.print_json({"run_id": run_id, "holder": holder})
        return
    console.out.print(f"process {holder['pid']} on {holder['host']} was asked to stop run {run_id}")


@app.command()
def publish(
    run_id: Annotated[int, typer.Argument(metavar="RUN")],
    override: Annotated[str, typer.Option(metavar="WHY", help="Why the check does not count; recorded.")],
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Publish a run that a check blocked; who did it and why are recorded.

    Whom the job file in the project's folder notifies is told.
    """
    from jobs import news
    from jobs.deliver import watching
    from jobs.interval import interval_containing
    from storage import moves

    if not override.strip():
        raise ConfigurationError("--override is empty: say why the check does not count; it is recorded")
    settings = Settings.read()
    database = settings.database()
    with database.errors("publish"), database.connect(purpose="publish", as_writer=True) as connection:
        run = moves.show_run(connection, run_id)
        told = _job_files(project, run["job"], settings)
        with watching(database, told):
            publish_blocked = partial(moves.publish_blocked, database, connection, run_id, override)
            if told:
                job = told[0].job
                interval = interval_containing(run["interval_start"], job.interval, job.zone)
                move = publish_blocked(tell=partial(news.published, job_file=told[0], interval=interval))
            else:
                move = publish_blocked()
    _say(move, as_json=as_json)


def rollback(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    date: Date = None,
    to: Annotated[int | None, typer.Option(metavar="RUN", help="Go back to this run.")] = None,
    why: Annotated[str | None, typer.Option(help="Recorded with the move.")] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Let readers see the run before the current one again.

    Nothing is scored, and nobody waits.

    Without --date the newest published interval; where it has no earlier run it is withdrawn, and current falls
    back to the interval before. Whom the job file in the project's folder notifies is told of what that changes.
    """
    from jobs.deliver import watching
    from storage import moves

    settings = Settings.read()
    database = settings.database()
    with (
        watching(database, _job_files(project, job, settings)),
        database.errors("rollback"),
        database.connect(purpose="rollback", as_writer=True) as connection,
    ):
        start = interval_start(connection, job, date)
        move = moves.rollback(connection, job, interval_start=start, to_run=to, why=why)
    _say(move, as_json=as_json)


def _job_files(project: Path, job: str, settings: Settings) -> list[JobFile]:
    """Read the job's file, to tell whom it names; none where it is not here or faulty: the next look tells."""
    from jobs.jobfile import load_project

    return [each for each in load_project(project, settings.environ)[0] if each.job.name == job]


def interval_start(connection: Connection, job: str | None, date: str | None) -> datetime | None:
    """Find where the interval of a job that a date names begins; None without a date.

    Raises IntervalError and UnknownRunError.
    """
    from jobs.interval import interval_named
    from storage import moves

    if job is None or date is None:
        return None
    calendar = moves.calendar(connection, job)
    zone = ZoneInfo(calendar["timezone"])
    return interval_named(date, calendar["interval_unit"], zone, datetime.now(UTC)).start


def _say(move: Move, *, as_json: bool) -> None:
    if as_json:
        console.print_json(vars(move))
        return
    before = f"run {move.from_run}" if move.from_run else "no run"
    now = f"run {move.to_run}" if move.to_run else "no run: the interval is withdrawn"
    console.out.print(
        f"{move.job}, interval from {move.interval_start.isoformat()}: readers saw {before} and see {now}",
        markup=False,
        soft_wrap=True,
    )


def _line(run: Row) -> dict[str, Any]:
    from storage.canaries import beside

    version = f"/{run['model_version']}" if run["model_version"] else ""
    return {
        "run": run["run_id"],
        "job": run["job"],
        "interval": run["as_of_date"],
        "status": run["status"] + (f", shadow of {run['shadow_of']}" if run["shadow_of"] else ""),
        "model": run["model_name"] + version + beside(run),
        "scored": run["rows_scored"],
        "quarantined": run["rows_quarantined"],
        "started": run["started_at"],
        "error": (run["error"] or "")[:80],
    }
