"""What becomes of a chunk: its good rows as predictions, its bad ones with key, reason and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import JobError
from jobs.model import Quarantined, Scored
from jobs.transform import LEFT_OUT, rows_left_out
from storage.runs import ChunkCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.plan import Plan
    from storage.job_table import Column

_ARROW_TYPES = {
    "bigint": pa.int64(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "real[]": pa.list_(pa.float32()),
    "double precision[]": pa.list_(pa.float64()),
    "bigint[]": pa.list_(pa.int64()),
}


# The days of the years 1 to 9999, counted from 1970-01-01, which is what Python and most readers can show.
_DAYS = (-719_162, 2_932_896)
# A B-tree entry has 2,704 bytes at most, for all columns of a key together.
_MAX_KEY_BYTES = 1_000


class KeyValueError(JobError):
    """The source gave a row whose key could be neither published nor named in quarantine."""


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk as it is written: predictions in the order of the job's columns, and the rows set aside."""

    predictions: pa.Table
    quarantined: list[tuple[dict[str, Any], str, dict[str, Any]]]
    counts: ChunkCounts


def score_chunk(plan: Plan, rows: pa.Table) -> ScoredChunk:
    """Score the rows of one chunk, in batches. Raises KeyValueError, TransformError and ModelError."""
    for column in plan.table.key:
        _check_key(plan, column, rows[column.name])
    key = [column.name for column in plan.table.key]
    scored = _scored(plan, rows)
    kept, unwritable = _writable(plan.table.outputs, scored)
    good = pa.array(scored.rows).filter(kept)
    columns = [*rows.select(key).take(good).columns, *scored.columns.filter(kept).columns]
    predictions = pa.table(
        [
            values.cast(_ARROW_TYPES[column.type])
            for values, column in zip(columns, plan.table.columns, strict=True)
        ],
        names=[column.name for column in plan.table.columns],
    )
    quarantined = [*scored.quarantined, *unwritable]
    return ScoredChunk(
        predictions,
        _set_aside(rows, key, [column.name for column in plan.features], quarantined),
        ChunkCounts(rows.num_rows, predictions.num_rows, len(quarantined)),
    )


def _scored(plan: Plan, rows: pa.Table) -> Scored:
    """Score the rows, or what the job's transform makes of them; either way by their places among `rows`."""
    if plan.transform is None:
        return plan.model.model.score(rows, plan.scoring, plan.batches)
    made, places = plan.transform.apply(rows)
    scored = plan.model.model.score(made, plan.scoring, plan.batches)
    reason = LEFT_OUT.format(plan.transform.name)
    quarantined = [Quarantined(int(places[each.row]), each.reason) for each in scored.quarantined]
    quarantined += [Quarantined(int(row), reason) for row in rows_left_out(rows.num_rows, places)]
    return Scored(scored.columns, places[scored.rows], sorted(quarantined, key=lambda each: each.row))


def _check_key(plan: Plan, column: Column, values: pa.ChunkedArray) -> None:
    """Refuse keys that could be neither published nor named in quarantine: NULL, endless dates, very long text."""
    bad, what, mend = values.null_count, "is NULL", "IS NOT NULL"
    if not bad and column.type == "date":
        # 'infinity' arrives as a day count that no calendar has.
        days = values.cast(pa.int32())
        bad = pc.sum(pc.or_(pc.less(days, _DAYS[0]), pc.greater(days, _DAYS[1]))).as_py() or 0
        what, mend = "lies outside the years 1 to 9999", "BETWEEN '0001-01-01' AND '9999-12-31'"
    if not bad and column.type == "text":
        bad = pc.sum(pc.greater(pc.binary_length(values), _MAX_KEY_BYTES)).as_py() or 0
        what, mend = (
            f"is longer than {_MAX_KEY_BYTES} bytes",
            f"IS NOT NULL AND length(…) <= {_MAX_KEY_BYTES}",
        )
    if bad:
        raise KeyValueError(
            f"{plan.source.where}: key column {column.name} {what} in {bad} row(s); "
            f"add `WHERE {column.name} {mend}` to the query, or mend the source"
        )


def _writable(outputs: Sequence[Column], scored: Scored) -> tuple[pa.BooleanArray, list[Quarantined]]:
    """Tell which scored rows PostgreSQL can hold, and set the others aside with the reason."""
    kept = pa.array(np.ones(len(scored.rows), dtype=bool))
    reasons: dict[int, str] = {}
    for column, values in zip(outputs, scored.columns.columns, strict=True):
        if pa.types.is_uint64(values.type):
            bad, reason = pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())), "does not fit bigint"
        elif pa.types.is_string(values.type):
            bad, reason = pc.match_substring(values, "\0"), "holds a NUL character, which text cannot"
        else:
            continue
        bad = pc.fill_null(bad, fill_value=False)
        for place in pc.indices_nonzero(bad).to_pylist():
            reasons.setdefault(place, f"the model's {column.name} {reason}")
        kept = pc.and_(kept, pc.invert(bad))
    return kept, [Quarantined(int(scored.rows[place]), reason) for place, reason in sorted(reasons.items())]


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
