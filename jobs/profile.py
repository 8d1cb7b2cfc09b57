"""The reference profile: what features and scores looked like when a version was made, small enough to keep.

A profile is plain JSON: {"version": 1, "rows": N, "features": {column: P}, "outputs": {column: P}}, where P is

    {"kind": "number", "nulls": share, "edges": [e1 … ek], "shares": [s0 … sk], "min": …, "max": …, "mean": …}
        bin i holds the values v with e[i] <= v < e[i+1], the first and the last bin being open; edges are the
        deciles, equal ones once, and shares are of the values that are there, so they add up to 1
    {"kind": "text", "nulls": share, "values": {value: share}, "other": share}
        the 50 commonest values, and the share of all others together

NaN counts as NULL, and infinity is not counted. A boolean is the number 0 or 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINS = 10
_COMMONEST = 50
_LONGEST = 200  # characters of a text value


def make_profile(features: pa.Table, outputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Profile the columns of a sample and the scores that were given to it."""
    return {
        "version": 1,
        "rows": features.num_rows,
        "features": {name: _column(features[name]) for name in features.column_names},
        "outputs": {name: _column(pa.chunked_array([pa.array(values)])) for name, values in outputs.items()},
    }


def _column(column: pa.ChunkedArray) -> dict[str, Any]:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    types = pa.types
    if types.is_string(array.type) or types.is_large_string(array.type) or types.is_string_view(array.type):
        return _text(array)
    if not (types.is_floating(array.type) or types.is_integer(array.type)):
        array = array.cast(pa.float64())
    return _numbers(array.to_numpy(zero_copy_only=False).astype(np.float64))


def _numbers(values: NDArray[np.float64]) -> dict[str, Any]:
    present = values[np.isfinite(values)]
    nulls = float(np.isnan(values).mean()) if len(values) else 0.0
    if not len(present):
        return {
            "kind": "number",
            "nulls": nulls,
            "edges": [],
            "shares": [],
            "min": None,
            "max": None,
            "mean": None,
        }
    edges = np.unique(np.quantile(present, np.arange(1, BINS) / BINS))
    counts = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
    return {
        "kind": "number",
        "nulls": nulls,
        "edges": [float(edge) for edge in edges],
        "shares": [float(share) for share in counts / len(present)],
        "min": float(present.min()),
        "max": float(present.max()),
        "mean": float(present.mean()),
    }


def _text(array: pa.Array) -> dict[str, Any]:
    present = array.drop_null()
    counted = sorted(
        ((pair["values"].as_py(), pair["counts"].as_py()) for pair in pc.value_counts(present)),
        key=lambda pair: (-pair[1], pair[0]),
    )
    total = len(present) or 1
    kept: dict[str, float] = {}
    for value, count in counted[:_COMMONEST]:
        # PostgreSQL's jsonb holds no NUL character.
        name = value[:_LONGEST].replace("\0", "\ufffd")
        kept[name] = kept.get(name, 0.0) + count / total
    return {
        "kind": "text",
        "nulls": array.null_count / len(array) if len(array) else 0.0,
        "values": kept,
        "other": sum(count for _, count in counted[_COMMONEST:]) / total,
    }
