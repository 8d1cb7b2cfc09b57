"""The first minutes: `batchpred demo`, `init` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(demo)
    app.command()(init)
    app.command()(doctor)


def demo(
    folder: Annotated[Path, typer.Option(help="Where to put the demo's project.", file_okay=False)] = Path(
        "rides"
    ),
) -> None:
    """Make a project, score three days, say what is next."""
    from batchpred import demo as rides

    settings = Settings.read()
    console.err.print(
        "making the demo's project, database and rides; a few seconds the first time", markup=False
    )
    for path in rides.make_project(folder):
        console.out.print(f"wrote {path}")
    reports = rides.run_demo(settings, folder)
    console.out.print()
    console.print_table([report.line for report in reports])
    failed = [report for report in reports if report.error]
    for report in failed:
        console.print_error(str(report.error))
    if failed:
        raise typer.Exit(failed[0].exit_code)
    key = rides.sample_key()
    console.out.print(
        "\nWhat to try next:\n"
        f"  batchpred get rides {key}\n"
        '  psql "$(batchpred db url)" -c "SELECT * FROM predictions.rides ORDER BY tip DESC LIMIT 5"\n'
        f"  batchpred plan rides -C {folder}\n"
        f"  batchpred run rides -C {folder} --force\n"
        f"  batchpred serve    # then: curl http://127.0.0.1:8000/v1/jobs/rides/predictions/{key}\n"
        "  batchpred init churn    # a project of your own",
        soft_wrap=True,
    )


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job's name: a-z, 0-9 and _.")],
    project: Annotated[
        Path, typer.Option("--project", "-C", help="The project folder.", file_okay=False)
    ] = Path(),
) -> None:
    """Write a job file and a query to start from.

    Nothing that exists is touched.
    """
    from batchpred.scaffold import scaffold

    for path in scaffold(project, name):
        console.out.print(f"wrote {path}")
    console.out.print(
        "\nNext:\n"
        f"  edit {name}.sql to select your rows, and {name}.job.yaml to name key, model and outputs\n"
        f"  batchpred models push {name} FILE.onnx --alias champion\n"
        f"  batchpred plan {name}    # shows everything a run would do\n"
        f"  batchpred run {name}",
        soft_wrap=True,
    )


def doctor(
    project: Annotated[
        Path, typer.Option("--project", "-C", help="The project folder.", file_okay=False)
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Check what a run needs, and say how to mend it."""
    from batchpred.doctor import examine

    findings = examine(Settings.read(), project)
    if as_json:
        console.print_json({"checks": [vars(finding) for finding in findings]})
    else:
        rows = [{"": each.mark, "check": each.check, "found": each.found} for each in findings]
        console.print_table(rows)
        for finding in findings:
            if finding.mend:
                console.out.print(f"{finding.check}: {finding.mend}", soft_wrap=True)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
