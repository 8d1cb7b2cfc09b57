"""Two models on the same rows: a job's interval is read once and scored by both, and nothing is written.

What is told, for each floating-point output: how far scores differ, whether they put rows in the same order
(Spearman's rank correlation, ties sharing their mean rank), how many rows change their decile, and which keys move
most. Deciles are those of each model's own scores, 0 the lowest. Other outputs are compared for being equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import JobError
from jobs.evaluate import metrics_of
from jobs.pipeline import cut_into_chunks
from jobs.plan import make_plan
from jobs.score import scored_rows
from jobs.unreadable import set_unreadable_aside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Plan, Runtime
    from storage.database import Connection

_MOVED = 10
_ONCE = 1e-6  # scores of [0, 1] that differ by less are the same to whoever acts on them


@dataclass
class Comparison:
    """What two models say of the same rows: counts, each output's figures, and the decile tables by output."""

    job: str
    interval: str
    models: tuple[str, str]
    rows: int = 0
    scored: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def compare_models(
    runtime: Runtime,
    connection: Connection,
    job_file: JobFile,
    interval: Interval,
    refs: tuple[str, str],
    *,
    label: str | None = None,
) -> Comparison:
    """Score an interval of a job with two models and compare. Scores and keys of all rows are held in memory.

    Raises BatchpredError where either model does not fit the job, or the query yields no column `label`.
    """
    plans = [make_plan(runtime, connection, job_file, interval, model_ref=ref) for ref in refs]
    names = tuple(f"{plan.model.name}/{plan.model.version or plan.model.sha256[:12]}" for plan in plans)
    comparison = Comparison(job_file.job.name, interval.label, (names[0], names[1]))
    reads = list(dict.fromkeys(column for plan in plans for column in plan.reads))
    if label is not None:
        described = {column.name: column for column in plans[0].source.describe()}
        if label not in described:
            raise JobError(f"{plans[0].source.where}: the query yields no column {label!r} for the label")
        reads = list(dict.fromkeys([*reads, described[label]]))
    key = [column.name for column in plans[0].key]
    keys: list[pa.Table] = []
    truth: list[NDArray[Any]] = []
    parts: list[tuple[list[NDArray[np.int64]], list[pa.RecordBatch]]] = [([], []), ([], [])]
    with plans[0].source.read(tuple(reads), plans[0].key) as batches:
        for rows in cut_into_chunks(batches, job_file.job.chunk_rows):
            table, _ = set_unreadable_aside(plans[0], rows)
            keys.append(table.select(key))
            if label is not None:
                truth.append(table[label].to_numpy())
            for plan, (places, scored) in zip(plans, parts, strict=True):
                found = scored_rows(plan, table)
                places.append(found.rows + comparison.rows)
                scored.append(found.columns)
            comparison.rows += table.num_rows
    if not comparison.rows:
        raise JobError(f"{job_file.job.name}: the query gave no rows for {interval.describe()}")
    comparison.scored = {name: sum(map(len, part[0])) for name, part in zip(names, parts, strict=True)}
    _compare(comparison, plans[0], pa.concat_tables(keys), parts, np.concatenate(truth) if truth else None)
    return comparison


def _compare(
    comparison: Comparison,
    plan: Plan,
    keys: pa.Table,
    parts: list[tuple[list[NDArray[np.int64]], list[pa.RecordBatch]]],
    truth: NDArray[Any] | None,
) -> None:
    places = [np.concatenate(part[0]) for part in parts]
    both, ours, theirs = np.intersect1d(places[0], places[1], assume_unique=True, return_indices=True)
    if not len(both):
        raise JobError("no row was scored by both models")
    tables = [pa.Table.from_batches(part[1]) for part in parts]
    for column in plan.scoring.outputs:
        if column.is_vector:
            pair = [
                _vectors(table[column.column])[at] for table, at in zip(tables, (ours, theirs), strict=True)
            ]
            same = pair[0].shape == pair[1].shape and (pair[0] == pair[1]).all(axis=1).mean()
            comparison.outputs[column.column] = {"equal": float(same)}
            continue
        old = tables[0][column.column].to_numpy()[ours]
        new = tables[1][column.column].to_numpy()[theirs]
        if old.dtype.kind != "f" or new.dtype.kind != "f":
            comparison.outputs[column.column] = {"equal": float(np.mean(old == new))}
            continue
        figures = of_scores(old.astype(np.float64), new.astype(np.float64))
        most = np.argsort(-np.abs(new - old), kind="stable")[:_MOVED]
        moved = keys.take(pa.array(both[most])).to_pylist()
        figures["moved_most"] = [
            {**row, "was": float(old[at]), "is": float(new[at])}
            for row, at in zip(moved, most, strict=True)
            if old[at] != new[at]
        ]
        comparison.outputs[column.column] = figures
        if truth is not None:
            known = ~np.array([value is None or value != value for value in truth[both]])  # noqa: PLR0124  # NaN
            actual = np.array(list(truth[both][known]))
            is_probability = bool(np.isin(actual, (0, 1)).all())
            for name, scores in zip(comparison.models, (old, new), strict=True):
                found = metrics_of(scores[known], actual, is_probability=is_probability)
                comparison.metrics[f"{column.column} by {name}"] = found


def _vectors(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of one length as a matrix [N, D]."""
    numbers: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), -1)


def of_scores(old: NDArray[np.float64], new: NDArray[np.float64]) -> dict[str, Any]:
    """Figures of two scores [N] of the same rows; `deciles[i][j]` counts rows that went from decile i to j."""
    change = np.abs(new - old)
    deciles = np.zeros((10, 10), dtype=np.int64)
    places = _decile(old), _decile(new)
    np.add.at(deciles, places, 1)
    return {
        "same": float(np.mean(change <= _ONCE)),
        "mean_change": float(change.mean()),
        "largest_change": float(change.max()),
        "rank_correlation": rank_correlation(old, new),
        "changed_decile": float(np.mean(places[0] != places[1])),
        "moved_two_or_more": float(np.mean(np.abs(places[0] - places[1]) >= 2)),
        "deciles": deciles.tolist(),
    }


def rank_correlation(old: NDArray[np.float64], new: NDArray[np.float64]) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, ties sharing their mean; None where a score is constant."""
    ranks = _ranks(old), _ranks(new)
    spreads = [float(each.std()) for each in ranks]
    if not all(spreads):
        return None
    mean = float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())))
    return mean / (spreads[0] * spreads[1])


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _decile(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    # By rank, so that ties stay together and each decile has a tenth where there are none.
    share = (_ranks(scores) - 0.5) / len(scores)
    return np.minimum((share * 10).astype(np.int64), 9)
