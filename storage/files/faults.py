"""Rows that could not even be read, travelling with the others: a column beside theirs says what is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.files.columns import arrow_type
from storage.sources import FAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.sources import SourceColumn


@dataclass(frozen=True)
class Fault:
    """A bad row: its place in the batch (None: it has none of the columns), why, and what it said."""

    row: int | None
    reason: str
    values: dict[str, Any]


def with_faults(
    columns: Sequence[SourceColumn], rows: pa.RecordBatch, faults: Sequence[Fault]
) -> pa.RecordBatch:
    """Add the column of faults to a batch, and a row of NULLs for each bad row that has no place in it."""
    placed: list[str | None] = [None] * rows.num_rows if any(f.row is not None for f in faults) else []
    apart = [fault for fault in faults if fault.row is None]
    for fault in faults:
        if fault.row is not None:
            placed[fault.row] = _text(fault)
    said = pa.array(placed, pa.string()) if placed else pa.nulls(rows.num_rows, pa.string())
    arrays = list(rows.columns)
    if apart:
        arrays = [
            pa.concat_arrays([values, pa.nulls(len(apart), arrow_type(column))])
            for values, column in zip(arrays, columns, strict=True)
        ]
        said = pa.concat_arrays([said, pa.array([_text(fault) for fault in apart], pa.string())])
    return pa.RecordBatch.from_arrays([*arrays, said], names=[*(column.name for column in columns), FAULT])


def _text(fault: Fault) -> str:
    return json.dumps(
        {"reason": _plain(fault.reason), "values": {k: _plain(v) for k, v in fault.values.items()}}
    )


def _plain(value: Any) -> Any:
    """Write a value as jsonb can hold it: NaN and infinities as text, no NUL."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value).replace("\0", "\N{SYMBOL FOR NULL}")
