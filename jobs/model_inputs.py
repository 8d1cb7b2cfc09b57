"""How Arrow columns become what a model is given: dtypes, NULL, and which rows do not fit."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import arrow_of, nulls_in, numpy_of, whole
from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from jobs.signature import FeatureColumn


def check_columns(schema: pa.Schema, columns: Iterable[FeatureColumn]) -> None:
    """Compare the source's columns with the model's inputs before a row is read.

    Raises ModelError that lists every column that is missing, ambiguous, or of a type that cannot become
    the input's dtype without guessing.
    """
    wrong: list[str] = []
    for feature in columns:
        name = feature.column
        found = schema.get_all_field_indices(name)
        if not found:
            near = get_close_matches(name, schema.names, n=1)
            wrong.append(f"{name!r} is missing" + (f" (did you mean {near[0]!r}?)" if near else ""))
        elif len(found) > 1:
            wrong.append(f"{name!r} is there {len(found)} times")
        elif not _convertible(schema.field(found[0]).type, feature.dtype):
            wrong.append(f"{name!r} is {schema.field(found[0]).type} and the model takes {feature.dtype}")
    if wrong:
        raise ModelError(f"the source's columns do not fit the model: {'; '.join(wrong)}")


def _convertible(source: pa.DataType, dtype: str) -> bool:
    types = pa.types
    if types.is_dictionary(source):
        source = source.value_type
    if types.is_null(source):
        return True
    if dtype == "string":
        return bool(types.is_string(source) or types.is_large_string(source) or types.is_string_view(source))
    if dtype == "bool":
        return bool(types.is_boolean(source))
    number = types.is_integer(source) or types.is_floating(source) or types.is_boolean(source)
    # A decimal becomes float as any number does; into an integer it would silently pass through float64.
    return bool(number or (dtype.startswith("float") and types.is_decimal(source)))


def values_of(
    column: pa.Array | pa.ChunkedArray, feature: FeatureColumn, faults: dict[int, str]
) -> NDArray[Any] | _Text:
    """The column as [N] of the input's dtype, uncopied where Arrow has it so; bad rows go to `faults`."""
    array = whole(column)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if feature.dtype.startswith("float"):
        return _floats(array, feature, faults)
    if pa.types.is_null(array.type):
        array = array.cast(pa.string() if feature.dtype == "string" else pa.from_numpy_dtype(feature.dtype))
    if array.null_count:
        reason = f"{feature.column} is NULL and {_input(feature)} takes no NULL"
        for row in np.flatnonzero(nulls_in(array)):
            faults.setdefault(int(row), reason)
    if feature.dtype == "string":
        return _strings(array, feature, faults)
    values = numpy_of(array, null=0)
    return values if feature.dtype == "bool" else _integers(values, feature, faults)


def _floats(array: pa.Array, feature: FeatureColumn, faults: dict[int, str]) -> NDArray[Any]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    elif not pa.types.is_floating(array.type) and not pa.types.is_integer(array.type):
        array = array.cast(pa.float64())
    values = numpy_of(array)
    with np.errstate(over="ignore"):
        converted: NDArray[Any] = values.astype(feature.dtype, copy=False)
    for row in np.flatnonzero(np.isinf(converted)):
        value = values[row]
        too_large = f"{float(value):g}".replace("e+", "e")
        faults.setdefault(
            int(row),
            f"{feature.column} is infinite"
            if np.isinf(value)
            else f"{feature.column} {too_large} does not fit {feature.dtype}",
        )
    return converted


def _integers(values: NDArray[Any], feature: FeatureColumn, faults: dict[int, str]) -> NDArray[Any]:
    limits = np.iinfo(feature.dtype)
    if values.dtype in (limits.dtype, np.bool_):
        return values.astype(feature.dtype, copy=False)
    if values.dtype == np.float16:
        values = values.astype(np.float32)  # which can hold the limits
    # The upper limit is exclusive, a power of two: 2**63 - 1 itself is no float64.
    good = (values >= limits.min) & (values < limits.max + 1)
    if values.dtype.kind == "f":
        good &= values == np.trunc(values)
    if good.all():
        return values.astype(feature.dtype)
    for row in np.flatnonzero(~good):
        faults.setdefault(int(row), f"{feature.column} {values[row]!s} does not fit {_input(feature)}")
    return np.where(good, values, 0).astype(feature.dtype)


def _strings(array: pa.Array, feature: FeatureColumn, faults: dict[int, str]) -> NDArray[Any] | _Text:
    try:
        array.validate(full=True)  # that each is UTF-8, which becomes a Python string without a fault
    except pa.ArrowInvalid:
        values = np.full(len(array), None, dtype=object)
        for row, value in enumerate(array):
            try:
                values[row] = value.as_py()
            except UnicodeDecodeError:
                faults.setdefault(row, f"{feature.column} is not valid UTF-8")
        return values
    # Of string_view Arrow cannot take rows yet.
    return _Text(array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array)


class _Text:
    """A text column that becomes Python strings a batch at a time.

    ONNX Runtime takes text as Python strings and looks into each. Those of one batch are then still in the
    processor's cache: over arrays that were prepared before, 200,000 rows with three text columns and a logistic
    regression took 3.7 times as long with whole columns, 1.0 to 1.2 times so (benchmarks/text_inputs.py).
    """

    dtype = np.dtype(object)

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[Any]:
        """The rows of a slice without step, or of ascending positions, as [n] objects."""
        if isinstance(chosen, slice):
            part = self._array.slice(chosen.start, chosen.stop - chosen.start)
        else:
            part = self._array.take(arrow_of(chosen))
        values: NDArray[Any] = part.to_numpy(zero_copy_only=False)
        return values


def _input(feature: FeatureColumn) -> str:
    return f"the model's input {feature.input_name!r} ({feature.dtype})"


class Feed:
    """Batches for a session: positions count the rows that passed validation, `rows`, or all if None."""

    def __init__(
        self,
        features: Sequence[FeatureColumn],
        values: Sequence[NDArray[Any] | _Text],
        rows: NDArray[np.int64] | None,
    ) -> None:
        self._rows = rows
        self._inputs: dict[str, list[tuple[FeatureColumn, NDArray[Any] | _Text]]] = {}
        for feature, column in zip(features, values, strict=True):
            self._inputs.setdefault(feature.input_name, []).append((feature, column))

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The inputs of the positions [start, stop), each C-contiguous and of its input's rank."""
        chosen = slice(start, stop) if self._rows is None else self._rows[start:stop]
        size = stop - start
        batch: dict[str, NDArray[Any]] = {}
        for name, columns in self._inputs.items():
            feature, values = columns[0]
            if len(columns) == 1:
                batch[name] = values[chosen].reshape((size, 1) if feature.rank == 2 else (size,))
                continue
            matrix = np.empty((size, feature.width), dtype=values.dtype)
            for feature, values in columns:
                matrix[:, feature.position] = values[chosen]
            batch[name] = matrix
        return batch
