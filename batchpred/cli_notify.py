"""`batchpred notify`: what was told of a job and what has not got there, a test, and another try."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from storage.database import Row

app = typer.Typer(
    no_args_is_help=True, help="Messages about jobs: list, test, deliver.", rich_markup_mode=None
)

# How long a person waits for all of them; a dead receiver takes four seconds.
_PATIENCE_SECONDS = 60.0


@app.command(name="list")
def list_deliveries(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what has got there.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List messages that have not got there.

    Those that wait and those that were given up, newest first; with --all every one.
    """
    from storage import deliveries

    database = Settings.read().database()
    with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
        rows = deliveries.list_deliveries(connection, job, everything=everything, limit=limit)
    if as_json:
        console.print_json({"deliveries": rows})
        return
    console.print_table([_line(row) for row in rows])
    if not rows:
        console.out.print("no messages yet" if everything else "nothing waits")


@app.command(name="test")
def send_test(
    job: Annotated[str, typer.Argument(metavar="JOB")], project: Project = Path(), as_json: Json = False
) -> None:
    """Send every target of a job a made-up message.

    A ping is sent as a success. Nothing is recorded, and no database is needed. Exit code 1 where a target could
    not be reached.
    """
    from jobs import senders
    from jobs.interval import latest_complete
    from jobs.jobfile import choose_jobs
    from jobs.news import about

    (job_file,), _ = choose_jobs(project, [job], Settings.read().environ)
    targets = job_file.job.notify
    if not targets:
        raise ConfigurationError(f"{job_file.path.name} has no `notify` list: there is nobody to tell")
    interval = latest_complete(job_file.job.interval, job_file.job.zone, datetime.now(UTC))
    message = {
        **about(job_file, interval.start, interval.end),
        "error": "this is a test: nothing is wrong",
        "look": f"batchpred plan {job}",
    }
    rows: list[dict[str, Any]] = []
    for target in targets:
        began, fault = time.monotonic(), None
        try:
            senders.send(
                target, message_id=uuid.uuid4(), kind="test", happened_at=datetime.now(UTC), message=message
            )
        except senders.NotDeliveredError as error:
            fault = str(error)
        rows.append(
            {
                "target": target.label,
                "told of": ", ".join(target.wanted),
                "status": "failed" if fault else "delivered",
                "seconds": round(time.monotonic() - began, 2),
                "error": fault,
            }
        )
    if as_json:
        console.print_json({"targets": rows})
    else:
        console.print_table(rows)
    raise typer.Exit(1 if any(row["error"] for row in rows) else 0)


@app.command()
def deliver(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB", help="Every job if left out.")] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Send now what has not got there.

    What waits for its next attempt, and what was given up. Exit code 1 where something still has not got there.
    """
    from jobs.deliver import look_and_deliver
    from jobs.jobfile import choose_jobs
    from storage import deliveries

    settings = Settings.read()
    chosen, faults = choose_jobs(project, jobs or [], settings.environ)
    for fault in faults:
        console.print_error(str(fault))
    database, names = settings.database(), [each.job.name for each in chosen]
    with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
        tried = deliveries.retry(connection, names)
    logging.getLogger("batchpred.notify").setLevel("ERROR")  # the table says it
    look_and_deliver(database, chosen, within=_PATIENCE_SECONDS)
    with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
        rows = [row for name in names for row in deliveries.list_deliveries(connection, name)]
    if as_json:
        console.print_json({"tried": tried, "undelivered": rows})
    else:
        console.print_table([_line(row) for row in rows])
        console.out.print(f"{tried} tried, {len(rows)} not delivered")
    raise typer.Exit(console.worst_exit_code([fault.exit_code for fault in faults] + [1] * bool(rows)))


def _line(row: Row) -> dict[str, Any]:
    return {
        "event": row["event_id"],
        "job": row["job"],
        "kind": row["kind"],
        "interval": row["message"]["interval"]["date"],
        "happened": row["happened_at"],
        "target": row["target"],
        "status": row["status"],
        "attempts": row["attempts"],
        "next": row["next_attempt_at"],
        "error": row["error"],
    }
