"""Rows that a file gave and that could not be read: they skip the model and go to quarantine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from storage.files.faults import FAULT
from storage.runs import ChunkCounts

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
        aside.append(({name: values.get(name) for name in key}, fault["reason"], said))
    return rows.filter(pc.is_null(faults)), aside


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
