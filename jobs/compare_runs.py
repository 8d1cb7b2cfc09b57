"""A run beside its shadow: what two models said of the same rows, as it was written; nothing is scored again.

With a label the job's query is read for keys and truth alone: labels often come later than scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from jobs.comparison import MOVED, Comparison, of_scores
from jobs.errors import JobError
from jobs.interval import interval_containing
from jobs.job_source import key_columns, source_of
from jobs.pipeline import cut_into_chunks
from jobs.score import ARROW_TYPES
from storage.job_table import JobTable
from storage.shadows import Pair
from storage.sources import FAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from storage.database import Connection, Row
    from storage.sources import Source, SourceColumn


def interval_of(pair: Row) -> Interval:
    """The interval that the run of a pair is about."""
    kept = pair["job_table"]
    return interval_containing(pair["interval_start"], kept["interval_unit"], ZoneInfo(kept["timezone"]))


def compare_runs(connection: Connection, pair: Row, *, truth: Iterator[pa.Table] | None = None) -> Comparison:
    """Compare a run and its shadow, a row of `shadows.find_pair`, by the outputs that both have.

    `truth` yields tables of the key and, last, the label; two scores a row are held in memory. Raises JobError
    where no key was scored by both, and ModelError where the truth does not fit the scores.
    """
    table, other = JobTable.from_json(pair["job_table"]), JobTable.from_json(pair["shadow_table"])
    names = (
        _name(pair["model_name"], pair["model_version"], pair["model_sha256"]),
        _name(pair["shadow_name"], pair["shadow_version"], pair["shadow_sha256"]),
    )
    found = Comparison(table.name, interval_of(pair).label, names, pair["rows_read"])
    found.scored = {names[0]: pair["rows_scored"], names[1]: pair["shadow_scored"]}
    found.runs = (pair["run_id"], pair["shadow_id"])
    key = [column.name for column in table.key]
    both = Pair(connection, key, *found.runs, has_canary=table.has_canary)
    types = {column.name: column.type for column in other.outputs}
    with both.at_one_moment():
        if truth is not None and not both.give_truth(table, (_typed(rows, table) for rows in truth)):
            raise JobError(f"{table.name}: the query has no rows for {found.interval} any more, so no labels")
        for column in table.outputs:
            name = column.name
            if column.type != types.get(name):
                found.outputs[name] = {"equal": 0.0}
            elif column.type != "double precision":
                rows, equal = both.equal(name)
                found.outputs[name] = {"equal": equal / rows if rows else 0.0}
            else:
                old, new = both.scores(name)
                if not len(old):
                    raise JobError(
                        f"no key was scored by both run {found.runs[0]} and its shadow {found.runs[1]}"
                    )
                most = both.moved_most(name, MOVED)
                found.outputs[name] = {**of_scores(old, new), "moved_most": most}
                if truth is not None:
                    found.add_metrics(name, *both.labelled(name))
    return found


def truths(runtime: Runtime, job_file: JobFile, interval: Interval, label: str) -> Iterator[pa.Table]:
    """Read key and label of a job's rows, chunk by chunk. Raises what `label_of` raises."""
    source = source_of(runtime, job_file, interval)
    yielded = {column.name: column for column in source.describe()}
    truth = label_of(job_file, source, yielded, label)
    key = key_columns(job_file, source, yielded)
    with source.read((*key, truth), key) as batches:
        for rows in cut_into_chunks(batches, job_file.job.chunk_rows):
            read = rows.filter(pc.is_null(rows[FAULT])) if FAULT in rows.column_names else rows
            yield read.select([*(column.name for column in key), label])


def label_of(
    job_file: JobFile, source: Source, yielded: Mapping[str, SourceColumn], label: str
) -> SourceColumn:
    """Find the column that holds the truth of a score. Raises JobError where it is not there, or can be none."""
    found = yielded.get(label)
    if found is None:
        raise JobError(f"{source.where}: {source.yields} no column {label!r} for the label")
    if label in job_file.job.key:
        raise JobError(f"{source.where}: {label} is part of the key, and no label")
    if found.arrow is None or not _is_number(found.arrow):
        raise JobError(
            f"{source.where}: label {label} is {found.type}, and the truth of a score is a number or a boolean: "
            f"{source.mend}"
        )
    return found


def _is_number(arrow: str) -> bool:
    return arrow == "bool" or arrow.startswith(("int", "uint", "float", "double", "half"))


def _typed(rows: pa.Table, job: JobTable) -> pa.Table:
    """Cast the key to what the job's tables have, and the label to one of three types."""
    label = rows.schema.types[-1]
    if pa.types.is_integer(label):
        label = pa.int64()
    elif pa.types.is_floating(label):
        label = pa.float64()
    types = [*(ARROW_TYPES[column.type] for column in job.key), label]
    return pa.table(
        [values.cast(type_) for values, type_ in zip(rows.columns, types, strict=True)],
        names=rows.column_names,
    )


def _name(name: str, version: int | None, sha256: str) -> str:
    return f"{name}/{version or sha256[:12]}"
