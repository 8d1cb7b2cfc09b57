"""Canaries: versions that score a share of the keys beside the one an alias points at; how they begin and end.

    begins     by `batchpred release --canary`; one alias has one at most, and a new one takes its place
    stands     in the runs of every job that names the alias: each is pinned to the one there was as it was planned
    ends       promoted, where the alias is pointed at it; or withdrawn: by a person, by a move of the alias
               elsewhere, or by itself, where the first run of a job with it was blocked, or was made without it

An end leaves the alias where it is. Beginning and end are in the model's history (model_events). What was published
with a canary stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from storage.errors import ConfigurationError
from storage.holder import this_person
from storage.job_table import CANARY, JobTable
from storage.model_life import record
from storage.predictions import run_table
from storage.queries import load
from storage.registry import ModelNameError, ModelRef

if TYPE_CHECKING:
    from datetime import datetime

    from storage.database import Connection, Row
    from storage.registry import ModelVersion

_SQL, _MODELS = load("canaries"), load("models")


class NoCanaryError(ConfigurationError):
    """No canary stands beside the alias, or none can."""


@dataclass(frozen=True)
class Canary:
    """A canary as it stands: which version has which share of the keys (0 to 1), since when and by whom."""

    name: str
    alias: str
    version: int
    share: float
    started_at: datetime
    started_by: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def percent(self) -> str:
        """The share as people write it."""
        return percent(self.share)


def percent(share: float) -> str:
    """Write a share as people do: 0.05 is `5%`."""
    return f"{100 * share:.4g}%"


def beside(run: Row) -> str:
    """Name a run's canary behind its model, such as `, churn/4 5%`; nothing where one version scored all."""
    if run["canary_version"] is None:
        return ""
    return f", {run['model_name']}/{run['canary_version']} {percent(run['canary_share'])}"


def standing(connection: Connection, name: str, alias: str) -> Canary | None:
    """Return the canary that stands beside an alias now."""
    row = connection.execute(_SQL["standing"], {"name": name, "alias": alias}).fetchone()
    return Canary(**row) if row else None


def of_ref(connection: Connection, ref: str) -> Canary | None:
    """Return the canary of runs whose job names this model; None where that is no alias of the registry."""
    try:
        asked = ModelRef.parse(ref)
    except ModelNameError:
        return None
    return standing(connection, asked.name, asked.alias) if asked.alias else None


def begin(connection: Connection, version: ModelVersion, alias: str, share: float) -> Canary:
    """Let a version score a share of the keys of the jobs that name the alias, from their next runs on.

    Raises NoCanaryError where the alias points at it, or at nothing.
    """
    ids = {"name": version.name, "alias": alias}
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute(_MODELS["lock_name"], ids)
        champion = connection.execute(_MODELS["alias_target"], ids).fetchone()
        if champion is None:
            raise no_champion(version.name, alias)
        if champion["version"] == version.version:
            raise NoCanaryError(
                f"{version} is what {version.name}@{alias} points at, and scores every key already"
            )
        values = {**ids, "version": version.version, "share": share, "by": this_person()}
        row = connection.execute(_SQL["begin"], values).fetchone()
        assert row is not None  # noqa: S101  # INSERT … RETURNING
        canary = Canary(**row)
        record(connection, version.name, version.version, "canary", {"alias": alias, "share": canary.percent})
    return canary


def no_champion(name: str, alias: str) -> NoCanaryError:
    """Say that there is nothing a canary could stand beside."""
    return NoCanaryError(
        f"{name}@{alias} points at no version yet, and a canary stands beside one; release {name} without --canary"
    )


def withdraw(connection: Connection, canary: Canary, why: str | None) -> bool:
    """End a canary; False where it has ended, or another one has begun in its place."""
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute(_MODELS["lock_name"], {"name": canary.name})
        ended = connection.execute(_SQL["end"], vars(canary)).fetchone() is not None
        if ended:
            details = {"alias": canary.alias, "share": canary.percent, **({"why": why} if why else {})}
            record(connection, canary.name, canary.version, "canary withdrawn", details)
    return ended


def is_new(connection: Connection, canary: Canary, job: str) -> bool:
    """Tell whether no run of the job that the canary had a share in was published since it began."""
    return connection.execute(_SQL["published_since"], {**vars(canary), "job": job}).fetchone() is None


def sides(connection: Connection, run_id: int, job: JobTable) -> list[Row]:
    """Tell how many rows champion and canary scored in a run whose table is there, and how their scores lie.

    A row each, the champion's first: `is_canary`, `rows`, and for each score its least, deciles 1, 5 and 9, mean
    and greatest, such as `score p50`.
    """
    scores = [column.name for column in job.outputs if column.type == "double precision"]
    figures = [
        sql.SQL(", {} AS {}").format(
            sql.SQL(figure).format(sql.Identifier(name)), sql.Identifier(f"{name} {label}")
        )
        for name in scores
        for label, figure in _FIGURES.items()
    ]
    statement = sql.SQL(_SQL["sides"].decode().rstrip(";")).format(
        canary=sql.Identifier(CANARY.name),
        figures=sql.SQL("").join(figures),
        run_table=run_table(run_id),
    )
    return connection.execute(statement).fetchall()


_FIGURES = {
    "min": "min({})",
    "p10": "percentile_disc(0.1) WITHIN GROUP (ORDER BY {})",
    "p50": "percentile_disc(0.5) WITHIN GROUP (ORDER BY {})",
    "mean": "avg({})",
    "p90": "percentile_disc(0.9) WITHIN GROUP (ORDER BY {})",
    "max": "max({})",
}
