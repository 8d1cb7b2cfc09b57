"""What becomes of a model's answers: columns of predictions, and the rows whose prediction is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import arrow_of
from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jobs.signature import OutputColumn


@dataclass(frozen=True)
class Quarantined:
    """A row that could not be scored, by its index within the rows given to `Model.score`, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Scored:
    """The predictions of `rows` (int64, ascending indices within the input), and the rows that have none."""

    columns: pa.RecordBatch
    rows: NDArray[np.int64]
    quarantined: list[Quarantined]


def column_of(returned: Any, output: OutputColumn, size: int) -> NDArray[Any]:
    """One [size] column of what the model returned for `size` rows; [size, D] where whole vectors are kept."""
    shape = np.shape(returned)
    if not shape or shape[0] != size:
        raise ModelError(
            f"the model returned {output.output_name!r} of shape {list(shape)} for {size} rows; "
            "it must return one prediction per row"
        )
    if output.is_vector:
        if len(shape) != 2:
            raise ModelError(
                f"the model returned {output.output_name!r} of shape {list(shape)}; {output.output_name}[:] keeps "
                "one vector a row, which is [N, D]"
            )
        return np.ascontiguousarray(returned)
    index = output.index or 0
    if len(shape) > 2 or (
        len(shape) == 2 and (index >= shape[1] or (output.index is None and shape[1] != 1))
    ):
        raise ModelError(
            f"the model returned {output.output_name!r} of shape {list(shape)}, which has no one {output.ref}"
        )
    # A copy, so that one wanted column does not keep the whole matrix in memory.
    return np.ascontiguousarray(returned if len(shape) == 1 else returned[:, index])


def joined(
    outputs: Sequence[OutputColumn],
    kept: Sequence[NDArray[np.int64]],
    parts: Sequence[Sequence[NDArray[Any]]],
    faults: dict[int, str],
) -> Scored:
    """Join the batches and take out the rows whose prediction is not finite."""
    rows = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    columns = [
        np.concatenate([part[i] for part in parts])
        if parts
        else np.empty(0, dtype=object if output.dtype == "string" else output.dtype)
        for i, output in enumerate(outputs)
    ]
    good = np.ones(len(rows), dtype=np.bool_)
    for output, column in zip(outputs, columns, strict=True):
        if column.dtype.kind != "f":
            continue
        finite = np.isfinite(column)
        if column.ndim == 2:
            finite = finite.all(axis=1)
        good &= finite
        for position in np.flatnonzero(~finite):
            what = "NaN" if np.isnan(column[position]).any() else "infinity"
            faults.setdefault(int(rows[position]), f"the model returned {what} for {output.column}")
    if not good.all():
        rows, columns = rows[good], [column[good] for column in columns]
    arrays = [_arrow(column, output) for output, column in zip(outputs, columns, strict=True)]
    names = [output.column for output in outputs]
    quarantined = [Quarantined(row, reason) for row, reason in sorted(faults.items())]
    return Scored(pa.RecordBatch.from_arrays(arrays, names=names), rows, quarantined)


def _arrow(column: NDArray[Any], output: OutputColumn) -> pa.Array:
    """[N] as it is, [N, D] as lists of D values; a float16 vector as float32, which PostgreSQL has."""
    if not output.is_vector:
        if output.dtype == "string":
            return pa.array(column, type=pa.string())
        return arrow_of(column.astype(output.dtype, copy=False))
    dtype = "float32" if output.dtype == "float16" else output.dtype
    rows, width = column.shape if column.ndim == 2 else (0, 0)
    if rows * width > np.iinfo(np.int32).max:
        raise ModelError(f"a chunk has {rows} vectors of {width}: too many for one column; lower chunk_rows")
    offsets = arrow_of(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
    return pa.ListArray.from_arrays(offsets, arrow_of(column.astype(dtype, copy=False).ravel()))
