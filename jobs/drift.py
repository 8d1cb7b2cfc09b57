"""Whether a run's features and scores have drifted from the reference profile of its model version.

The measure is the population stability index over the bins of the reference, NULL being one of them:

    PSI = Σ (p − q) · ln(p / q)      p: share of the run's rows in a bin, q: share of the reference's
                                     (Siddiqi, Credit Risk Scorecards, Wiley 2006, chapter on monitoring)

A bin that is empty on one side counts as half a row there, one that is empty on both is left out. By convention
0.1 is worth a look and 0.25 a shift, but a small sample is that far away by chance: with n and m rows and B bins
PSI is distributed as (1/n + 1/m) · χ²(B − 1) where nothing has drifted (Yurdakul and Naranjo, Statistical
properties of the population stability index, Journal of Risk Model Validation 14(4), 2020). So a column has moved
only where its PSI is above the threshold of the job and above what chance exceeds in one of a hundred runs, of
all their columns together. The quantile is Wilson and Hilferty's (1931), within 2 %.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.drift_counts import Reference
from jobs.errors import JobFileError
from storage import drift, model_life

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from jobs.drift_counts import Bins, Counts
    from jobs.jobfile import JobFile
    from jobs.jobspec.checks import Drift
    from jobs.model import ScoringPlan
    from jobs.plan import Plan
    from storage.database import Connection
    from storage.registry import ModelVersion

# Below this many rows a run is not judged: bins of fewer than ten rows are no distribution.
MIN_ROWS = 100
# Of all runs in which nothing has drifted, the share that may have a column beyond its limit all the same.
_CHANCE = 0.01
# Columns that a message names.
SHOWN = 3


class NoReferenceError(JobFileError):
    """The job asks that drift block its runs, and there is nothing to tell drift from."""


def reference_of(
    connection: Connection, job_file: JobFile, version: ModelVersion | None, scoring: ScoringPlan
) -> tuple[Reference | None, tuple[str, ...]]:
    """Find what a job's runs are compared with, and say what is missing of it.

    None for a job without `drift`, a model that is not in the registry, and a version without a profile.
    """
    job = job_file.job
    if job.drift is None:
        return None, ()
    profile = model_life.profile(connection, version) if version else None
    if version is None or profile is None:
        return None, (_no_profile(job_file, version),)
    found = Reference.of(str(version), profile, scoring, job.key)
    if found is None:
        return None, (f"drift: the reference profile of {version} has none of this job's columns",)
    if found.missing:
        named = ", ".join(found.missing)
        return found, (f"drift: the reference profile of {version} says nothing of {named}; not judged",)
    return found, ()


def require(plan: Plan) -> None:
    """Raise NoReferenceError where drift is to block and cannot be judged: the guard would not be there."""
    asked = plan.job_file.job.drift
    if asked is not None and asked.on_alert == "block" and plan.drift is None:
        said = next(each for each in plan.warnings if each.startswith("drift: "))
        raise NoReferenceError(f"{plan.job_file.path.name}: {said}; or write `on_alert: warn`")


def unguarded(
    connection: Connection, job_files: Iterable[JobFile], alias: str, version: ModelVersion
) -> list[str]:
    """Say of each job that scores with `alias` (NAME@ALIAS) whether it would refuse to run with this version."""
    jobs = [each for each in job_files if each.job.model == alias]
    blocking = [each for each in jobs if each.job.drift and each.job.drift.on_alert == "block"]
    if not blocking or model_life.profile(connection, version) is not None:
        return []
    return [f"job {each.job.name} will not run: {_no_profile(each, version)}" for each in blocking]


def _no_profile(job_file: JobFile, version: ModelVersion | None) -> str:
    if version is None:
        return "drift: only versions in the registry have a reference profile; push the model"
    make = f"batchpred models profile {version} --job {job_file.job.name}"
    return f"drift: {version} has no reference profile, so it is not judged; make one with: {make}"


def judge(connection: Connection, run_id: int, plan: Plan) -> dict[str, Any] | None:
    """Judge a run whose chunks are all there, and keep what was found with it; None for a job without `drift`.

    The verdict is plain JSON: its `level` (none, warn, alert, or unjudged) and `columns`, those that moved most
    first. Call it in a transaction that ends with a look at the fence.
    """
    asked = plan.job_file.job.drift
    if asked is None or plan.drift is None:
        return None
    found = verdict(plan.drift, drift.counts(connection, run_id), asked)
    drift.note(connection, run_id, found)
    return found


def verdict(reference: Reference, chunks: Iterable[Counts], asked: Drift) -> dict[str, Any]:
    """Compare the counts of a run's chunks with the reference, column by column."""
    total = reference.sum(chunks)
    columns = [_column(reference, bins, total, asked) for bins in reference.bins]
    columns.sort(key=lambda each: (-_RANK.index(each["level"]), -(each["psi"] or 0.0), each["column"]))
    return {
        "metric": asked.metric,
        "reference": reference.name,
        "reference_rows": reference.rows,
        "warn": asked.warn,
        "alert": asked.alert,
        "level": columns[0]["level"],
        "not_in_reference": list(reference.missing),
        "columns": columns,
    }


_RANK = ("unjudged", "none", "warn", "alert")


def _column(reference: Reference, bins: Bins, total: Counts, asked: Drift) -> dict[str, Any]:
    counts: NDArray[np.int64] = total[bins.of][bins.column]
    rows = int(counts.sum())
    found: dict[str, Any] = dict.fromkeys(("psi", "by_chance", "gained_most", "share", "reference_share"))
    level = "unjudged"
    if rows >= MIN_ROWS:
        parts = psi_parts(counts, _expected(bins, reference.rows), reference.rows)
        psi, gained = float(parts.sum()), counts / rows - bins.shares
        chance = by_chance(rows, reference.rows, int(np.count_nonzero(parts)), len(reference.bins))
        is_beyond = [name for name in ("warn", "alert") if psi > max(getattr(asked, name), chance)]
        level = is_beyond[-1] if is_beyond else "none"
        found |= {"psi": psi, "by_chance": chance}
        if psi > 0:
            most = int(np.argmax(gained))
            found |= {"gained_most": _said_of(bins, most), "share": float(counts[most] / rows)}
            found["reference_share"] = bins.shares[most]
    new = sorted(total["new"].get((bins.of, bins.column), {}).items(), key=lambda each: (-each[1], each[0]))
    return {
        "column": bins.column,
        "of": bins.of.removesuffix("s"),
        "level": level,
        **found,
        "rows": rows,
        "null_share": float(counts[0] / rows) if rows else None,
        "reference_null_share": bins.shares[0],
        "new_values": dict(new[:SHOWN]),
    }


def _expected(bins: Bins, rows: int) -> NDArray[np.float64]:
    """The reference's share of each bin, as [B]; of a text what it never saw is not therefore 0.

    The values that it has once tell how much it has not seen: their number by its rows (Good, The population
    frequencies of species, Biometrika 40, 1953). Without it 40 values in 500 rows were beyond the limit by chance
    twice as often.
    """
    shares = np.array(bins.shares)
    if bins.edges is None:
        once = np.count_nonzero(np.round(shares[1:-1] * rows) == 1)
        shares[-1] = max(shares[-1], once / max(rows, 1))
    return shares


def psi_parts(counts: NDArray[np.int64], shares: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """What each of B bins adds to PSI, as [B]: `counts` of a run against `shares` of a reference of `rows` rows."""
    total = max(int(counts.sum()), 1)
    here, there = counts / total, shares
    parts = (here - there) * np.log(np.maximum(here, 0.5 / total) / np.maximum(there, 0.5 / max(rows, 1)))
    return np.where((counts == 0) & (shares * rows < 0.5), 0.0, parts)


def by_chance(rows: int, reference_rows: int, bins: int, columns: int) -> float:
    """The PSI that one of `columns` columns of `bins` bins exceeds by chance alone in one of a hundred runs."""
    from statistics import NormalDist  # here: a job without `drift` has no use for it

    freedom = max(bins - 1, 1)
    z = NormalDist().inv_cdf(1 - _CHANCE / columns)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + z * math.sqrt(spread)) ** 3
    return (1 / rows + 1 / max(reference_rows, 1)) * quantile


def _said_of(bins: Bins, place: int) -> str:
    """Say which values fall into a bin."""
    if place == 0:
        return "NULL"
    if bins.edges is None:
        known = [repr(value) if bins.is_named else "a value of it" for value in bins.values]
        return [*known, "other values"][place - 1]
    if not bins.edges:
        return "not NULL"
    edges = _told(bins.edges)
    if place == 1:
        return f"below {edges[0]}"
    if place <= len(edges):
        low, high = edges[place - 2 : place]
        return low if low == high else f"{low} to {high}"
    return f"above {edges[-1]}" if edges[-2:-1] == edges[-1:] else f"{edges[-1]} and more"


def _told(edges: Sequence[float]) -> list[str]:
    """The deciles that the edges lie a little beside (jobs/profile.py); of a value with a bin of its own twice."""
    spread = edges[-1] - edges[0]
    digits = [4 - math.floor(math.log10(min(max(abs(edge), spread, 1e-20), 1e300))) for edge in edges]
    return [f"{round(edge, places) + 0.0:.5g}" for edge, places in zip(edges, digits, strict=True)]


def moved(found: dict[str, Any]) -> str:
    """Name the columns beyond a limit, the worst first, each with its figures."""
    beyond = [each for each in found["columns"] if each["level"] == found["level"]]
    said = ", ".join(
        f"{each['column']} ({found['metric']} {each['psi']:.2f}; {each['gained_most']} in {each['share']:.0%} of "
        f"the rows, {each['reference_share']:.0%} in the reference)"
        for each in beyond[:SHOWN]
    )
    return said + (f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else "")


def failed(found: dict[str, Any] | None, asked: Drift | None) -> list[str]:
    """What blocks a run, as a check that failed says it."""
    if found is None or asked is None or asked.on_alert != "block" or found["level"] != "alert":
        return []
    return [f"drifted from {found['reference']}'s reference: {moved(found)} (drift.alert {asked.alert:g})"]


def warnings(found: dict[str, Any] | None, asked: Drift | None) -> list[str]:
    """What a run that is not blocked says of drift."""
    if found is None or asked is None or found["level"] not in ("warn", "alert"):
        return []
    if asked.on_alert == "block" and found["level"] == "alert":
        return []
    limit = f"drift.{found['level']} {getattr(asked, found['level']):g}"
    return [f"drift from {found['reference']}'s reference: {moved(found)} ({limit})"]


def line(found: dict[str, Any]) -> str:
    """Say the verdict to a person, in a line."""
    judged = [each for each in found["columns"] if each["psi"] is not None]
    if not judged:
        rows = max(each["rows"] for each in found["columns"])
        return f"drift not judged: {rows} rows are fewer than {MIN_ROWS}"
    worst = max(judged, key=lambda each: each["psi"])
    what = (
        f"{len(judged)} columns against {found['reference']}'s reference of {found['reference_rows']:,} rows"
    )
    return (
        f"drift {found['level']}: {what}, the most {found['metric']} {worst['psi']:.3f} ({worst['column']})"
    )
