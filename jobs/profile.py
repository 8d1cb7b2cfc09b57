"""The reference profile: what features and scores looked like when a version was made, small enough to keep.

A profile is plain JSON: {"version": 1, "rows": N, "features": {column: P}, "outputs": {column: P}}, where P is

    {"kind": "number", "nulls": share, "edges": [e1 … ek], "shares": [s0 … sk], "min": …, "max": …, "mean": …}
        bin i holds the values v with e[i] <= v < e[i+1], the first and the last bin being open; shares are of
        the values that are there, so they add up to 1. Edges lie a millionth below the deciles: a decile is often
        a value that many rows have, and the same score may end in another digit on another machine. A value that
        several deciles fall on (a constant, the zeros of an amount, a boolean) has a bin of its own: without it a
        column that is 0 in 95 of 100 rows would have one bin, and nothing that became of it would show
    {"kind": "text", "nulls": share, "values": {value: share}, "other": share}
        the 50 commonest values, and the share of all others together

NaN counts as NULL; an infinity lies in the first or the last bin. A boolean is the number 0 or 1. Features are
named as the model's columns are, scores as a job file names outputs: `label`, `probabilities[1]`.
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
# How far an edge lies from its decile, by the decile and the spread of all: some ten steps of a float32.
_WIDTH, _LEAST_WIDTH = 1e-6, 1e-30


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
    present = values[~np.isnan(values)]
    finite = present[np.isfinite(present)]
    nulls = float(np.isnan(values).mean()) if len(values) else 0.0
    if not len(finite):
        return {
            "kind": "number",
            "nulls": nulls,
            "edges": [],
            "shares": [],
            "min": None,
            "max": None,
            "mean": None,
        }
    edges = _edges(np.quantile(finite, np.arange(1, BINS) / BINS))
    counts = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
    return {
        "kind": "number",
        "nulls": nulls,
        "edges": [float(edge) for edge in edges],
        "shares": [float(share) for share in counts / len(present)],
        "min": float(finite.min()),
        "max": float(finite.max()),
        "mean": float(finite.mean()),
    }


def _edges(deciles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The deciles, each once and a little below; also a little above those that are there several times."""
    values, times = np.unique(deciles, return_counts=True)
    with np.errstate(over="ignore"):
        width = np.maximum(_WIDTH * np.maximum(np.abs(values), deciles[-1] - deciles[0]), _LEAST_WIDTH)
        edges: NDArray[np.float64] = np.unique(np.concatenate([values - width, (values + width)[times > 1]]))
    finite: NDArray[np.float64] = edges[np.isfinite(edges)]
    return finite


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
