"""A loaded model: rows of Arrow columns go in, predictions come out, and rows it cannot score are named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import ModelDamagedError, ModelError
from jobs.onnx_file import open_session, reason_of
from jobs.signature import FeatureColumn, OutputColumn, Signature
from jobs.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoringPlan:
    """The source columns a model is given and the prediction columns it fills, both from its signature."""

    features: tuple[FeatureColumn, ...]
    outputs: tuple[OutputColumn, ...]


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


class Model:
    """One model in memory; `score` may be called from several threads at once."""

    def __init__(self, session: Any, *, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256
        self.signature = Signature.of_session(session)
        self.provider: str = session.get_providers()[0]
        self._session = session
        # Set for good by the first row that is scored: from then on a failing batch is the rows' fault.
        self._works = False

    @classmethod
    def load(cls, data: bytes, *, sha256: str, name: str, threads: int | None = None) -> Model:
        """The model in `data`, whose digest must be `sha256`; `threads` is the size of its pool.

        The digest is taken of the very bytes that are loaded: 899 of 1,000 single flipped bits loaded
        without complaint and changed scores. Raises ModelDamagedError where it differs, and ModelError where
        ONNX Runtime refuses the model or gives it another provider.
        """
        actual = hashlib.sha256(data).hexdigest()
        if actual != sha256.lower():
            raise ModelDamagedError(
                f"model {name} is damaged: its sha256 should be {sha256} and is {actual}; the file was not "
                "used. Fetch it again, or push it anew"
            )
        return cls(open_session(data, threads or available_cpus()), name=name, sha256=actual)

    def score(self, features: pa.RecordBatch | pa.Table, plan: ScoringPlan, batch_size: int) -> Scored:
        """The predictions of N rows, `batch_size` of them at a time; no prediction depends on that size.

        `features` holds at least the columns of `plan.features`, in any order. A NULL in a float input
        becomes NaN; a row whose values do not fit an input, that the model fails on, or whose prediction is
        not finite is quarantined. Raises ModelError where columns do not fit the model, where it fails on
        every row of the first batch (of more than one row, and before it ever scored any), and where it does
        not return one prediction per row.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        check_columns(features.schema, plan.features)
        faults: dict[int, str] = {}
        values = [_values(features.column(f.column), f, faults) for f in plan.features]
        rows = _without(features.num_rows, faults)
        feed = _Feed(plan.features, values, rows if faults else None)
        wanted = list(dict.fromkeys(output.output_name for output in plan.outputs))
        kept: list[NDArray[np.int64]] = []
        parts: list[list[NDArray[Any]]] = []
        for first in range(0, len(rows), batch_size):
            last = min(first + batch_size, len(rows))
            failed: dict[int, str] = {}
            for start, stop, returned in self._run(feed, wanted, first, last, failed):
                by_name = dict(zip(wanted, returned, strict=True))
                parts.append([_column(by_name[o.output_name], o, stop - start) for o in plan.outputs])
                kept.append(rows[start:stop])
            if len(failed) < last - first:
                self._works = True
            elif len(failed) > 1 and not self._works:
                raise ModelError(
                    f"model {self.name} fails on every row of the first batch, {len(failed)} rows: "
                    f"{failed[first]}"
                )
            faults.update(
                (int(rows[position]), f"the model fails on this row: {reason}")
                for position, reason in failed.items()
            )
        return _scored(plan.outputs, kept, parts, faults)

    def _run(
        self, feed: _Feed, wanted: list[str], first: int, last: int, failed: dict[int, str]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Score the positions [first, last); halve what fails until each bad one stands alone in `failed`."""
        pending = [(first, last)]
        while pending:
            start, stop = pending.pop()
            try:
                returned = self._session.run(wanted, feed.batch(start, stop))
            except Exception as error:  # noqa: BLE001  # ONNX Runtime's errors share no other parent
                if stop - start == 1:
                    failed[start] = reason_of(error)
                else:
                    middle = (start + stop) // 2
                    pending += [(middle, stop), (start, middle)]
            else:
                yield start, stop, returned


def available_providers() -> list[str]:
    """The execution providers this build of ONNX Runtime offers, the preferred one first."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


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


def _values(
    column: pa.Array | pa.ChunkedArray, feature: FeatureColumn, faults: dict[int, str]
) -> NDArray[Any]:
    """The column as [N] of the input's dtype, uncopied where Arrow has it so; bad rows go to `faults`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if feature.dtype.startswith("float"):
        return _floats(array, feature, faults)
    if pa.types.is_null(array.type):
        array = array.cast(pa.string() if feature.dtype == "string" else pa.from_numpy_dtype(feature.dtype))
    if array.null_count:
        reason = f"{feature.column} is NULL and {_input(feature)} takes no NULL"
        for row in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
            faults.setdefault(int(row), reason)
    if feature.dtype == "string":
        return _strings(array, feature, faults)
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    values = array.to_numpy(zero_copy_only=False)
    return values if feature.dtype == "bool" else _integers(values, feature, faults)


def _floats(array: pa.Array, feature: FeatureColumn, faults: dict[int, str]) -> NDArray[Any]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    elif not pa.types.is_floating(array.type) and not pa.types.is_integer(array.type):
        array = array.cast(pa.float64())
    values = array.to_numpy(zero_copy_only=False)  # NULL becomes NaN
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


def _strings(array: pa.Array, feature: FeatureColumn, faults: dict[int, str]) -> NDArray[Any]:
    try:
        values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, UnicodeDecodeError):
        values = np.full(len(array), None, dtype=object)
        for row, value in enumerate(array):
            try:
                values[row] = value.as_py()
            except UnicodeDecodeError:
                faults.setdefault(row, f"{feature.column} is not valid UTF-8")
    return values


def _input(feature: FeatureColumn) -> str:
    return f"the model's input {feature.input_name!r} ({feature.dtype})"


def _without(count: int, faults: Iterable[int]) -> NDArray[np.int64]:
    good = np.ones(count, dtype=np.bool_)
    good[list(faults)] = False
    return np.flatnonzero(good).astype(np.int64, copy=False)


class _Feed:
    """Batches for a session: positions count the rows that passed validation, `rows`, or all if None."""

    def __init__(
        self,
        features: Sequence[FeatureColumn],
        values: Sequence[NDArray[Any]],
        rows: NDArray[np.int64] | None,
    ) -> None:
        self._rows = rows
        self._inputs: dict[str, list[tuple[FeatureColumn, NDArray[Any]]]] = {}
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


def _column(returned: Any, output: OutputColumn, size: int) -> NDArray[Any]:
    """One [size] column of what the model returned for `size` rows."""
    shape = np.shape(returned)
    if not shape or shape[0] != size:
        raise ModelError(
            f"the model returned {output.output_name!r} of shape {list(shape)} for {size} rows; "
            "it must return one prediction per row"
        )
    index = output.index or 0
    if len(shape) > 2 or (
        len(shape) == 2 and (index >= shape[1] or (output.index is None and shape[1] != 1))
    ):
        asked = output.output_name if output.index is None else f"{output.output_name}[{output.index}]"
        raise ModelError(
            f"the model returned {output.output_name!r} of shape {list(shape)}, which has no one {asked}"
        )
    # A copy, so that one wanted column does not keep the whole matrix in memory.
    return np.ascontiguousarray(returned if len(shape) == 1 else returned[:, index])


def _scored(
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
        good &= finite
        for position in np.flatnonzero(~finite):
            what = "NaN" if np.isnan(column[position]) else "infinity"
            faults.setdefault(int(rows[position]), f"the model returned {what} for {output.column}")
    if not good.all():
        rows, columns = rows[good], [column[good] for column in columns]
    arrays = [
        pa.array(column, type=pa.string() if output.dtype == "string" else pa.from_numpy_dtype(output.dtype))
        for output, column in zip(outputs, columns, strict=True)
    ]
    names = [output.column for output in outputs]
    quarantined = [Quarantined(row, reason) for row, reason in sorted(faults.items())]
    return Scored(pa.RecordBatch.from_arrays(arrays, names=names), rows, quarantined)
