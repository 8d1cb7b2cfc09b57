"""`batchpred models compare`: what a candidate would change, on a job's own rows."""

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
    app.command()(compare)


def compare(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Whose rows are scored.")],
    candidate: Annotated[
        str, typer.Argument(metavar="REF", help="The model to look at: NAME/N, NAME@ALIAS, …")
    ],
    champion: Annotated[
        str | None, typer.Option("--with", metavar="REF", help="The other model; the job's own if left out.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="D", help="The interval that starts on this local date; the latest.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A column of the query with the truth: metrics of both are told.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw which deciles rows move between.")
    ] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Score a job's rows with two models, reading them once, and tell what differs; nothing is written."""
    from jobs.compare import compare_models
    from jobs.interval import interval_named, latest_complete
    from jobs.jobfile import choose_jobs

    settings = Settings.read()
    (job_file,), _ = choose_jobs(project, [job], settings.environ)
    unit, zone, now = job_file.job.interval, job_file.job.zone, datetime.now(UTC)
    interval = interval_named(date, unit, zone, now) if date else latest_complete(unit, zone, now)
    runtime = settings.runtime()
    database = runtime.database
    with database.errors("compare"), database.connect(purpose="compare", as_writer=True) as connection:
        refs = (champion or job_file.job.model, candidate)
        found = compare_models(runtime, connection, job_file, interval, refs, label=label)
    if picture is not None:
        from batchpred.compare_picture import picture as draw

        picture.write_text(draw(found), encoding="utf-8")
    if as_json:
        console.print_json(vars(found))
        return
    old, new = found.models
    scored = ", ".join(f"{name} scored {count:,}" for name, count in found.scored.items())
    console.out.print(f"{found.job}, {found.interval}: {found.rows:,} rows read; {scored}")
    for output, figures in found.outputs.items():
        console.out.print()
        shown = {name: value for name, value in figures.items() if name not in ("deciles", "moved_most")}
        console.print_table([{output: name, " ": value} for name, value in shown.items()])
        if figures.get("moved_most"):
            console.out.print()
            console.out.print("the keys that move most:")
            keys = [name for name in figures["moved_most"][0] if name not in ("was", "is")]
            console.print_table(
                [
                    {**{name: row[name] for name in keys}, old: row["was"], new: row["is"]}
                    for row in figures["moved_most"]
                ]
            )
    if found.metrics:
        console.out.print()
        console.print_table([{"metrics of": name, **each} for name, each in found.metrics.items()])
    if picture is not None:
        console.out.print(f"\ndrawn in {picture}")
