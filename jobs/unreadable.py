"""Rows that a file gave and that could not be read: they skip the model and go to quarantine."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from storage.runs import ChunkCounts
from storage.sources import FAULT

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.plan import Plan
    from jobs.score import ScoredChunk

Quarantined = tuple[dict[str, Any], str, dict[str, Any]]


def set_unreadable_aside(plan: Plan, rows: pa.Table) -> tuple[pa.Table, list[Quarantined]]:
    """Part a chunk into the rows that were read and, with key, reason and values, those that could not be."""
    if FAULT not in rows.column_names:
        return rows, []
    faults = rows[FAULT]
    rows = rows.drop_columns([FAULT])
    if faults.null_count == len(faults):
        return rows, []
    key = [column.name for column in plan.key]
    features = [column.name for column in plan.features]
    aside = []
    for text in faults.drop_null().to_pylist():
        fault = json.loads(text)
        values = fault["values"]
        # A row of the wrong length has no columns; then its line is all there is.
        said = (
            {name: values[name] for name in features if name in values} if set(key) & set(values) else values
        )
        aside.append((_key_of(plan, values), fault["reason"], said))
    return rows.filter(faults.is_null()), aside


def _key_of(plan: Plan, values: dict[str, Any]) -> dict[str, Any]:
    """The key as every other row's is written: who has one forgotten names a number as a number."""
    key = {}
    for column in plan.table.key:
        value = values.get(column.name)
        if column.type == "bigint" and isinstance(value, str):
            with suppress(ValueError):
                value = int(value)
        key[column.name] = value
    return key


def with_unreadable(scored: ScoredChunk, unreadable: list[Quarantined]) -> ScoredChunk:
    """Add rows that could not be read to what became of their chunk."""
    if not unreadable:
        return scored
    counts = scored.counts
    return replace(
        scored,
        quarantined=[*unreadable, *scored.quarantined],
        counts=ChunkCounts(
            counts.read + len(unreadable), counts.scored, counts.quarantined + len(unreadable)
        ),
    )
