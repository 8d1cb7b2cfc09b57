"""What becomes of a chunk: its good rows as predictions, its bad ones with key, reason and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.errors import JobError
from storage.runs import ChunkCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.model import Quarantined
    from jobs.plan import Plan

# One float32 matrix of 20 columns is then 1.3 MB, which stays in a core's second-level cache; some models get
# slower above 16k to 64k rows, and calls of 1k rows and more cost next to nothing each.
DEFAULT_BATCH_ROWS = 16_384

_ARROW_TYPES = {
    "bigint": pa.int64(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
}


class NullKeyError(JobError):
    """The source gave a row without a key: it could be neither published nor named in quarantine."""


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk as it is written: predictions in the order of the job's columns, and the rows set aside."""

    predictions: pa.Table
    quarantined: list[tuple[dict[str, Any], str, dict[str, Any]]]
    counts: ChunkCounts


def score_chunk(plan: Plan, rows: pa.Table) -> ScoredChunk:
    """Score the rows of one chunk, in batches. Raises NullKeyError and ModelError."""
    key = [column.name for column in plan.table.key]
    for name in key:
        if rows[name].null_count:
            raise NullKeyError(
                f"{plan.source.where}: key column {name} is NULL in {rows[name].null_count} row(s); "
                f"add `WHERE {name} IS NOT NULL` to the query, or mend the source"
            )
    batch_rows = plan.job_file.job.batch_size or DEFAULT_BATCH_ROWS
    scored = plan.model.model.score(rows, plan.scoring, batch_rows)
    keys = rows.select(key).take(pa.array(scored.rows))
    columns = [*keys.columns, *scored.columns.columns]
    predictions = pa.table(
        [
            values.cast(_ARROW_TYPES[column.type])
            for values, column in zip(columns, plan.table.columns, strict=True)
        ],
        names=[column.name for column in plan.table.columns],
    )
    return ScoredChunk(
        predictions,
        _set_aside(rows, key, [column.name for column in plan.features], scored.quarantined),
        ChunkCounts(rows.num_rows, predictions.num_rows, len(scored.quarantined)),
    )


def _set_aside(
    rows: pa.Table, key: Sequence[str], features: Sequence[str], quarantined: Sequence[Quarantined]
) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    taken = rows.take(pa.array([each.row for each in quarantined], pa.int64())).to_pylist()
    return [
        (
            {name: _plain(row[name]) for name in key},
            each.reason,
            {name: _plain(row[name]) for name in features},
        )
        for row, each in zip(taken, quarantined, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Write a value as JSON can hold it: dates, NaN and infinities as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
