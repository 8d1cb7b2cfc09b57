"""What becomes of a chunk: its good rows as predictions, its bad ones with key, reason and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import arrow_of, nulls_in, numpy_of, whole
from jobs.model import Quarantined, Scored
from jobs.transform import LEFT_OUT, rows_left_out
from storage.runs import ChunkCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from jobs.drift_counts import Counts
    from jobs.plan import Plan
    from storage.job_table import Column

ARROW_TYPES = {
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
MAX_KEY_BYTES = 1_000


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk as it is written: predictions in the order of the job's columns, and the rows set aside.

    `places` [N] are those of the predictions among the chunk's rows; `canary` is what of `counts` is the canary's.
    """

    predictions: pa.Table
    quarantined: list[tuple[dict[str, Any], str, dict[str, Any]]]
    counts: ChunkCounts
    places: NDArray[np.int64]
    canary: ChunkCounts | None = None
    drift_counts: Counts | None = None


def score_chunk(plan: Plan, rows: pa.Table) -> ScoredChunk:
    """Score the rows of one chunk, in batches; rows whose key no prediction can have are set aside unscored.

    Raises TransformError and ModelError.
    """
    key = [column.name for column in plan.table.key]
    unnamed = _unnamed(plan.table.key, rows)
    named = np.delete(np.arange(rows.num_rows), [each.row for each in unnamed])
    given = rows.take(named) if unnamed else rows
    seen: list[pa.Table] = []
    scored = scored_rows(plan, given, seen.append)
    kept, unwritable = _writable(plan.table.outputs, scored)
    good, kept_rows = arrow_of(scored.rows[kept]), arrow_of(kept)
    columns = [*given.select(key).take(good).columns, *scored.columns.filter(kept_rows).columns]
    predictions = pa.table(
        [
            values.cast(ARROW_TYPES[column.type])
            for values, column in zip(columns, plan.table.columns, strict=True)
        ],
        names=[column.name for column in plan.table.columns],
    )
    unscored = [Quarantined(int(named[each.row]), each.reason) for each in scored.quarantined + unwritable]
    quarantined = sorted(unnamed + unscored, key=lambda each: each.row)
    return ScoredChunk(
        predictions,
        _set_aside(rows, plan.table.key, [column.name for column in plan.features], quarantined),
        ChunkCounts(rows.num_rows, predictions.num_rows, len(quarantined)),
        named[scored.rows[kept]],
        drift_counts=plan.drift.count_chunk(seen[0], predictions) if plan.drift else None,
    )


def last_named(key: Sequence[Column], rows: pa.Table) -> int | None:
    """Return the place of the last row whose key a prediction can have; None where there is none."""
    unnamed = {each.row for each in _unnamed(key, rows)}
    return next((row for row in range(rows.num_rows - 1, -1, -1) if row not in unnamed), None)


def _unnamed(key: Sequence[Column], rows: pa.Table) -> list[Quarantined]:
    """The rows whose key names nothing: NULL, a date without an end, text that no index can hold."""
    reasons: dict[int, str] = {}
    for column in key:
        values = whole(rows.column(column.name))
        faults = [(np.flatnonzero(nulls_in(values)), "is NULL")]
        if column.type == "date":
            # 'infinity' arrives as a day count that no calendar has.
            days = numpy_of(values.view(pa.int32()))
            outside = (days < _DAYS[0]) | (days > _DAYS[1])
            faults.append((np.flatnonzero(outside), "lies outside the years 1 to 9999"))
        if column.type == "text":
            faults.append((_longer(values, MAX_KEY_BYTES), f"is longer than {MAX_KEY_BYTES} bytes"))
            faults.append((_with_nul(values), "holds a NUL character, which text cannot"))
        for bad, what in faults:
            for row in bad.tolist():
                reasons.setdefault(row, f"key column {column.name} {what}")
    return [Quarantined(row, reason) for row, reason in sorted(reasons.items())]


def scored_rows(plan: Plan, rows: pa.Table, see: Callable[[pa.Table], None] = lambda _made: None) -> Scored:
    """Score the rows, or what the job's transform makes of them; either way by their places among `rows`.

    `see` is shown what the model is given.
    """
    if plan.transform is None:
        see(rows)
        return plan.model.model.score(rows, plan.scoring, plan.batches)
    made, places = plan.transform.apply(rows)
    see(made)
    scored = plan.model.model.score(made, plan.scoring, plan.batches)
    reason = LEFT_OUT.format(plan.transform.name)
    quarantined = [Quarantined(int(places[each.row]), each.reason) for each in scored.quarantined]
    quarantined += [Quarantined(int(row), reason) for row in rows_left_out(rows.num_rows, places)]
    return Scored(scored.columns, places[scored.rows], sorted(quarantined, key=lambda each: each.row))


def _writable(outputs: Sequence[Column], scored: Scored) -> tuple[NDArray[np.bool_], list[Quarantined]]:
    """Tell which scored rows PostgreSQL can hold, and set the others aside with the reason."""
    kept = np.ones(len(scored.rows), dtype=np.bool_)
    reasons: dict[int, str] = {}
    for column, values in zip(outputs, scored.columns.columns, strict=True):
        if pa.types.is_uint64(values.type):
            bad, reason = np.flatnonzero(numpy_of(values) > 2**63 - 1), "does not fit bigint"
        elif pa.types.is_string(values.type):
            bad, reason = _with_nul(values), "holds a NUL character, which text cannot"
        else:
            continue
        for place in bad.tolist():
            reasons.setdefault(place, f"the model's {column.name} {reason}")
        kept[bad] = False
    return kept, [Quarantined(int(scored.rows[place]), reason) for place, reason in sorted(reasons.items())]


# pyarrow.compute is imported here, not above: jobs/rows.py sees to it while PostgreSQL sorts the first rows.


def _longer(values: pa.StringArray, most: int) -> NDArray[Any]:
    """The places of the texts of more bytes."""
    import pyarrow.compute as pc

    return np.flatnonzero(numpy_of(pc.binary_length(values)) > most)


def _with_nul(values: pa.StringArray) -> NDArray[Any]:
    """The places of the texts that hold a NUL character."""
    import pyarrow.compute as pc

    return numpy_of(pc.indices_nonzero(pc.match_substring(values, "\0")))


def _set_aside(
    rows: pa.Table, key: Sequence[Column], features: Sequence[str], quarantined: Sequence[Quarantined]
) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    if not quarantined:
        return []
    taken = rows.take(pa.array([each.row for each in quarantined], pa.int64()))
    for column in key:
        if column.type == "date":  # as text: one without an end is no date of Python's
            place = taken.schema.get_field_index(column.name)
            taken = taken.set_column(place, column.name, _days_as_text(taken.column(place)))
    names = [column.name for column in key]
    return [
        (
            {name: _plain(row[name]) for name in names},
            each.reason,
            {name: _plain(row[name]) for name in features},
        )
        for row, each in zip(taken.to_pylist(), quarantined, strict=True)
    ]


def _days_as_text(values: pa.ChunkedArray) -> pa.Array:
    def text(days: int | None) -> str | None:
        if days is None:
            return None
        if not _DAYS[0] <= days <= _DAYS[1]:
            return "infinity" if days > 0 else "-infinity"
        return (date(1970, 1, 1) + timedelta(days=days)).isoformat()

    return pa.array([text(days) for days in values.cast(pa.int32()).to_pylist()], pa.string())


def _plain(value: Any) -> Any:
    """Write a value as jsonb can hold it: dates, NaN and infinities as text, and of a long text its beginning."""
    if isinstance(value, str):
        shown = value if len(value) <= MAX_KEY_BYTES else value[:MAX_KEY_BYTES]
        more = f"… ({len(value)} characters)" if len(value) > len(shown) else ""
        return shown.replace("\0", "\N{SYMBOL FOR NULL}") + more
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
