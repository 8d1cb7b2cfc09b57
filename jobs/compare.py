"""Two models on the same rows of a job's interval: those a run and its shadow have scored, or read once for this.

jobs/comparison.py says what is told of them. Nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.compare_runs import compare_runs, label_of, truths
from jobs.comparison import MOVED, Comparison, of_scores
from jobs.errors import JobError
from jobs.pipeline import cut_into_chunks
from jobs.plan import make_plan
from jobs.score import scored_rows
from jobs.unreadable import set_unreadable_aside
from storage import shadows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Plan, Runtime
    from storage.database import Connection, Row


def compare_models(
    runtime: Runtime,
    connection: Connection,
    job_file: JobFile,
    interval: Interval,
    refs: tuple[str, str],
    *,
    label: str | None = None,
    anew: bool = False,
) -> Comparison:
    """Compare two models on an interval of a job: what a run and its shadow scored, else score it with both.

    `anew` scores in any case. Scored here, scores and keys of all rows are held in memory; else two scores a row.
    Raises BatchpredError where either model does not fit the job, or the query yields no column `label`.
    """
    plans = [make_plan(runtime, connection, job_file, interval, model_ref=ref) for ref in refs]
    if not anew and (pair := _pair(connection, plans)) is not None:
        given = truths(runtime, job_file, interval, label) if label is not None else None
        return compare_runs(connection, pair, truth=given)
    names = tuple(f"{plan.model.name}/{plan.model.version or plan.model.sha256[:12]}" for plan in plans)
    comparison = Comparison(job_file.job.name, interval.label, (names[0], names[1]))
    reads = list(dict.fromkeys(column for plan in plans for column in plan.reads))
    if label is not None:
        described = {column.name: column for column in plans[0].source.describe()}
        reads = list(dict.fromkeys([*reads, label_of(job_file, plans[0].source, described, label)]))
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
        most = np.argsort(-np.abs(new - old), kind="stable")[:MOVED]
        moved = keys.take(pa.array(both[most])).to_pylist()
        figures["moved_most"] = [
            {**row, "was": float(old[at]), "is": float(new[at])}
            for row, at in zip(moved, most, strict=True)
            if old[at] != new[at]
        ]
        comparison.outputs[column.column] = figures
        if truth is not None:
            known = ~np.array([value is None or value != value for value in truth[both]])  # noqa: PLR0124  # NaN
            comparison.add_metrics(column.column, old[known], new[known], np.array(list(truth[both][known])))


def _pair(connection: Connection, plans: list[Plan]) -> Row | None:
    """The newest run of the job's interval that asked the same question, with the other model as its shadow."""
    champion, candidate = plans
    return shadows.find_pair(
        connection,
        job=champion.slot.job,
        interval_start=champion.slot.interval_start,
        definition=champion.pin.definition_sha256,
        champion=champion.model.sha256,
        shadow=candidate.model.sha256,
    )


def _vectors(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of one length as a matrix [N, D]."""
    numbers: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), -1)
