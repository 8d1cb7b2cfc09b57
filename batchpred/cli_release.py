"""`batchpred release`: from training to serving in one command that stops at the first gate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from batchpred import console, gating
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(release)


def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name in the registry.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The ONNX file; or what the training writes.")
    ] = None,
    run_training: Annotated[
        str | None,
        typer.Option(
            metavar="CMD", help="Train first; it writes to $BATCHPRED_MODEL_FILE or FILE, or calls push()."
        ),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(
            metavar="QUERY.sql", help="Rows with labels, to evaluate on.", exists=True, dir_okay=False
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="The holdout's column with the truth.")] = "label",
    score: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="The output to evaluate, such as 'probabilities[1]'.")
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(help="Take `features` and `transform` from this job, for the holdout's rows."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="JOB[:D]",
            help="Score this job's rows with candidate and champion; the gates' `shadow` counts.",
        ),
    ] = None,
    gates: Annotated[
        Path | None,
        typer.Option(help="The gates it must pass; the project's gates.yaml if there is one.", exists=True),
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias it is promoted to.")] = "champion",
    canary: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Promote nothing: let it score this share of the keys, such as 5%."
        ),
    ] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Train, store, evaluate, hold the gates, shadow the champion, promote a model; or let it be a canary.

    It stops at the first step that fails, with the champion untouched.

    The shadow step takes the job's newest published interval, or the one that starts on D; a run that the candidate
    was the shadow of answers, else both models score its rows, and nothing is written. Without --shadow it is done
    where gates.yaml asks for it and one job of the project scores with NAME@ALIAS.

    If the first run of the released version is blocked by its checks, the champion moves back by itself.

    With --canary it scores a share of the keys beside the champion, in every run of the jobs that name NAME@ALIAS;
    the others stay the champion's. `models promote` makes it champion, `models rollback --canary` withdraws it. If
    the first run of a job with it is blocked by its checks, it is withdrawn by itself.
    """
    from batchpred.release import Release
    from batchpred.release import release as do_release
    from batchpred.release_shadow import choose, show
    from jobs.gates import FILE
    from jobs.holdout import Holdout
    from jobs.jobfile import choose_jobs
    from jobs.transform import load_transform
    from storage.canaries import Canary
    from storage.model_life import AliasMove

    share = _share(canary) if canary is not None else None
    settings = Settings.read()
    database = settings.database()
    in_project = project / FILE
    gates = gates or (in_project if in_project.is_file() else None)
    asked = Release(name, file, run_training, score=score, gates=gates, alias=alias, canary_share=share)
    asked.shadow_on = choose(settings, project, shadow, f"{name}@{alias}", gates)
    if job is not None:
        job_file = choose_jobs(project, [job], settings.environ)[0][0]
        asked.features = job_file.job.features
        if job_file.job.transform is not None:
            asked.transform = load_transform(job_file.job.transform, job_file.path.parent)
    if holdout is not None:
        asked.holdout = Holdout.of(holdout, database, label)
    done = None
    try:
        with (
            database.errors("release"),
            database.connect(purpose="release", as_writer=True) as connection,
        ):
            done = do_release(settings, connection, asked)
            if isinstance(done, AliasMove) and asked.version:
                gating.warn_of_drift(settings, connection, project, f"{name}@{alias}", asked.version)
    finally:
        version = asked.version.version if asked.version else None
        if as_json:
            move = done if isinstance(done, AliasMove) else None
            begun = vars(done) if isinstance(done, Canary) else None
            document = {"name": name, "version": version, "promoted": move is not None, "canary": begun}
            told = {"steps": asked.steps, "metrics": asked.metrics, "shadow": asked.shadow}
            console.print_json({**document, **told})
        else:
            console.print_table(
                [
                    {"step": each["step"], "outcome": each["outcome"], "seconds": each.get("seconds", 0.0)}
                    for each in asked.steps
                ]
            )
            _show_metrics(asked.metrics)
            if asked.shadow is not None:
                show(asked.shadow)
    if as_json:
        return
    if isinstance(done, Canary):
        console.out.print(
            f"{done} scores {done.percent} of the keys beside {name}@{alias}, from the next run on; then: "
            f"batchpred models promote {done}, or batchpred models rollback {name} --canary",
            soft_wrap=True,
        )
    elif done is not None:
        was = f" (was {name}/{done.from_version})" if done.from_version and done.moved else ""
        console.out.print(
            f"{name}@{alias} points at {name}/{done.to_version}{was}; the next run scores with it"
        )


def _share(text: str) -> float:
    """Read a share of the keys, such as `5%`."""
    found = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,2})?)%", text.strip())
    if not found or not float(found.group(1)):
        raise typer.BadParameter(
            f"{text!r} is no share of the keys; write 0.01% to 99.99%, such as 5%", param_hint="--canary"
        )
    return float(found.group(1)) / 100


def _show_metrics(metrics: dict[str, dict[str, float]]) -> None:
    names = dict.fromkeys(name for each in metrics.values() for name in each)
    console.print_table(
        [{"metric": name, **{model: each.get(name) for model, each in metrics.items()}} for name in names]
    )
