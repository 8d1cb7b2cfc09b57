"""`batchpred models compare`: what a candidate would change, on a job's own rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json, Project
from batchpred.settings import Settings
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from jobs.comparison import Comparison
    from storage.database import Connection, Row


_WHAT = (
    "name what to compare: JOB REF (churn churn@candidate), two models that a run has scored with "
    "(churn@champion churn@candidate), or --run RUN"
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `batchpred models`."""
    app.command()(compare)


def compare(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB|REF", help="Whose rows; or the first of two models a run has scored with."
        ),
    ] = None,
    candidate: Annotated[
        str | None, typer.Argument(metavar="REF", help="The model to look at: NAME/N, NAME@ALIAS, …")
    ] = None,
    run: Annotated[
        int | None,
        typer.Option("--run", metavar="RUN", help="This run and its shadow; nothing else is named."),
    ] = None,
    champion: Annotated[
        str | None, typer.Option("--with", metavar="REF", help="The other model; the job's own if left out.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="D", help="The interval that starts on this local date; the latest.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A column of the query with the truth: metrics of both are told.")
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Score, even where a run and its shadow have.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw deciles rows move between, and spreads.")
    ] = None,
    project: Project = Path(),
    as_json: Json = False,
) -> None:
    """Tell what differs between two models on the same rows: those of a run and its shadow, else scored for this.

    As JOB REF, the job's rows of an interval: a run that REF was the shadow of answers, else both models score
    them, read once and held in memory. As REF REF the newest run with such a shadow. Nothing is written.
    """
    asked = _Asked(job, candidate, run, champion, date, label, anew=anew)
    found = asked.of_a_run(project) if run is not None or "@" in (job or "") or "/" in (job or "") else None
    found = found or asked.of_a_job(project)
    if picture is not None:
        from batchpred.compare_picture import picture as draw

        picture.write_text(draw(found), encoding="utf-8")
    if as_json:
        console.print_json(vars(found))
        return
    old, new = found.models
    scored = ", ".join(f"{name} scored {count:,}" for name, count in found.scored.items())
    by = f"run {found.runs[0]} and its shadow {found.runs[1]}" if found.runs else "scored for this"
    console.out.print(
        f"{found.job}, {found.interval}, {by}: {found.rows:,} rows read; {scored}", soft_wrap=True
    )
    for output, figures in found.outputs.items():
        console.out.print()
        shown = {
            name: value for name, value in figures.items() if name not in ("deciles", "moved_most", "spread")
        }
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
        changes = {f"{name}: change": each for name, each in found.changes.items()}
        console.print_table(
            [{"metrics of": name, **each} for name, each in (found.metrics | changes).items()]
        )
    if picture is not None:
        console.out.print(f"\ndrawn in {picture}")


@dataclass(frozen=True)
class _Asked:
    """What is to be compared, as it was asked for."""

    first: str | None
    second: str | None
    run: int | None
    champion: str | None
    date: str | None
    label: str | None
    anew: bool

    def of_a_job(self, project: Path) -> Comparison:
        """Compare on the rows of a job's interval."""
        from jobs.compare import compare_models
        from jobs.interval import interval_named, latest_complete
        from jobs.jobfile import choose_jobs

        if self.first is None or self.second is None:
            raise ConfigurationError(_WHAT)
        settings = Settings.read()
        (job_file,), _ = choose_jobs(project, [self.first], settings.environ)
        unit, zone, now = job_file.job.interval, job_file.job.zone, datetime.now(UTC)
        interval = (
            interval_named(self.date, unit, zone, now) if self.date else latest_complete(unit, zone, now)
        )
        runtime = settings.runtime()
        database = runtime.database
        with database.errors("compare"), database.connect(purpose="compare", as_writer=True) as connection:
            refs = (self.champion or job_file.job.model, self.second)
            return compare_models(
                runtime, connection, job_file, interval, refs, label=self.label, anew=self.anew
            )

    def of_a_run(self, project: Path) -> Comparison:
        """Compare what a run and its shadow have scored."""
        from jobs.compare_runs import compare_runs, interval_of, truths
        from jobs.jobfile import choose_jobs

        if self.champion or self.date or self.anew or (self.run is not None and self.first is not None):
            raise ConfigurationError(
                "a run and its shadow are named by --run RUN alone, or by two models; --with, --date and --anew go "
                "with a JOB"
            )
        settings = Settings.read()
        runtime = settings.runtime()
        database = runtime.database
        with database.errors("compare"), database.connect(purpose="compare", as_writer=True) as connection:
            pair = self._pair(connection)
            truth = None
            if self.label is not None:
                (job_file,), _ = choose_jobs(project, [pair["job"]], settings.environ)
                truth = truths(runtime, job_file, interval_of(pair), self.label)
            return compare_runs(connection, pair, truth=truth)

    def _pair(self, connection: Connection) -> Row:
        from storage import moves, registry, shadows

        if self.run is not None:
            moves.show_run(connection, self.run)  # says so where there is no such run
            pair = shadows.find_pair(connection, run_id=self.run)
            said = f"run {self.run} has no complete shadow, or its predictions are gone"
        elif self.first is None or self.second is None:
            raise ConfigurationError(_WHAT)
        else:
            refs = [registry.ModelRef.parse(text) for text in (self.first, self.second)]
            models = [registry.resolve(connection, ref) for ref in refs]
            if models[0].sha256 == models[1].sha256:
                raise ConfigurationError(f"{self.first} and {self.second} are both {models[0]}")
            pair = shadows.find_pair(connection, champion=models[0].sha256, shadow=models[1].sha256)
            said = f"no run of {models[0]} has {models[1]} as its shadow"
        if pair is None:
            raise ConfigurationError(
                f"{said}; make one with: batchpred run JOB --shadow REF, or score a job's rows for the comparison: "
                "batchpred models compare JOB REF"
            )
        return pair
