"""`batchpred models profile`: the reference of drift for a version that was pushed without one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the command to `batchpred models`."""
    app.command()(profile)


def profile(
    ref: Annotated[str, typer.Argument(metavar="REF", help="NAME/N or NAME@ALIAS")],
    job: Annotated[str, typer.Option(metavar="JOB", help="Whose rows it is made of.")],
    date: Annotated[
        str | None, typer.Option(metavar="D", help="The interval that starts on this local date; the latest.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where the version has a profile already.")
    ] = False,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Make the reference profile of a version from a job's rows: what `drift` compares its runs with.

    For versions pushed as a file; `batchpred.push` makes it of the sample it is given. The rows of the interval, or
    evenly a part of them (50,000 at least), are read and scored with the version. Who made it of what is on record.
    """
    from jobs.interval import interval_named, latest_complete
    from jobs.jobfile import choose_jobs
    from jobs.profiling import profile_of
    from storage import drift, registry

    settings = Settings.read()
    (job_file,), _ = choose_jobs(project, [job], settings.environ)
    unit, zone, now = job_file.job.interval, job_file.job.zone, datetime.now(UTC)
    interval = interval_named(date, unit, zone, now) if date else latest_complete(unit, zone, now)
    runtime = settings.runtime()
    database = runtime.database
    with database.errors("profile"), database.connect(purpose="profile", as_writer=True) as connection:
        version = registry.resolve(connection, registry.ModelRef.parse(ref))
        drift.refuse_profiled(version, replace=replace)
        made = profile_of(runtime, connection, job_file, interval, version)
        drift.keep_profile(connection, version, made, job=job, interval=interval.label, replace=replace)
    if as_json:
        console.print_json({"model": str(version), "job": job, "interval": interval.label, "profile": made})
        return
    console.out.print(
        f"{version} has a reference profile of {made['rows']:,} rows of {job}, {interval.label}: "
        f"{len(made['features'])} feature(s), {len(made['outputs'])} score(s)",
        markup=False,
        soft_wrap=True,
    )
