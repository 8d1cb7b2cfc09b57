"""`batchpred gc` and `batchpred forget`: throw away what nobody can reach, and forget a key everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(gc)
    app.command()(forget)


def gc(
    project: Annotated[
        Path,
        typer.Option(
            "--project", "-C", help="The folder with the *.job.yaml files: their retention.", file_okay=False
        ),
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Drop what nobody can reach and what is past retention.

    No reader waits.
    """
    from jobs.jobfile import load_project
    from storage import garbage

    settings = Settings.read()
    job_files, faults = load_project(project, settings.environ)
    for fault in faults:
        console.print_error(str(fault))
    retention = {
        each.job.name: each.job.retention.predictions for each in job_files if each.job.retention is not None
    }
    database = settings.database()
    with database.errors("gc"), database.connect(purpose="gc", as_writer=True) as connection:
        collected = garbage.collect(database, connection, retention)
    if as_json:
        console.print_json(vars(collected))
    else:
        for name, what in vars(collected).items():
            console.out.print(
                f"{name:>9}  {', '.join(map(str, what)) or 'none'}", markup=False, soft_wrap=True
            )
    raise typer.Exit(2 if faults else 0)


def forget(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="One value a key column.")],
    as_json: Json = False,
) -> None:
    """Delete a key: its predictions, its rows in quarantine, and errors on record that name it.

    Take it out of the source first: the next run would score it again. Servers may answer it for a second more.
    Messages that were sent, logs and backups are out of its reach, and so are reasons that a person wrote down.
    """
    from storage import garbage, reads

    database = Settings.read().database()
    with database.errors("forget"), database.connect(purpose="forget", as_writer=True) as connection:
        served = reads.served_job(connection, job)
        values = reads.parse_key(served, key)
        named = {name: value for (name, _), value in zip(served.key, values, strict=True)}
        deleted = garbage.forget(database, connection, job, named)
    if as_json:
        console.print_json(deleted)
    else:
        console.out.print(
            f"{deleted['predictions']} prediction(s) and {deleted['quarantined']} row(s) in quarantine deleted"
        )
