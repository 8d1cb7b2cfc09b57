"""The sample rows an estimator is pushed with: their names and dtypes, and each form a converter or model wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_ENOUGH = 50  # rows below which a wrong conversion has too little chance to show


@dataclass(frozen=True)
class Sample:
    """Rows of an estimator's own input: `given` as the estimator takes it, `table` as a job's source gives it.

    `dtypes` maps each column to the dtype of the model's input: float32, float64, int64 or string.
    """

    given: Any
    table: pa.Table
    dtypes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Any,
        *,
        columns: Sequence[str] | None = None,
        float_dtype: str = "float32",
        dtypes: Mapping[str, str] | None = None,
    ) -> Sample:
        """Take a pandas DataFrame, or a matrix [N, F] with the names of its columns.

        Numbers and booleans become `float_dtype` inputs, text becomes string inputs; `dtypes` says otherwise for a
        column. Raises ModelError.
        """
        if hasattr(rows, "detach"):  # a tensor
            rows = rows.detach().cpu().numpy()
        if hasattr(rows, "dtypes") and hasattr(rows, "columns"):
            table = _table_of_frame(rows)
        else:
            table = _table_of_matrix(np.asarray(rows), columns)
        if len(table) < _ENOUGH:
            raise ModelError(
                f"X_sample has {len(table)} rows; give at least {_ENOUGH}, better thousands: the conversion is "
                "compared with the estimator on them"
            )
        chosen = dict(dtypes or {})
        for column in chosen:
            if column not in table.column_names:
                raise ModelError(f"dtypes names {column!r}, but X_sample has {', '.join(table.column_names)}")
        return cls(
            rows,
            table,
            {name: chosen.get(name) or _dtype(table[name], name, float_dtype) for name in table.column_names},
        )

    @property
    def names(self) -> list[str]:
        """The columns, in the estimator's order."""
        return list(self.dtypes)

    @property
    def matrix_dtype(self) -> str:
        """The dtype of a matrix of all columns: string, int64, or the wider float. Raises ModelError."""
        found = set(self.dtypes.values())
        if "string" in found and found != {"string"}:
            text = [name for name, dtype in self.dtypes.items() if dtype == "string"]
            raise ModelError(
                f"columns {', '.join(text)} are text and others are numbers; encode the text within the estimator "
                "(scikit-learn: a ColumnTransformer in a Pipeline)"
            )
        if found in ({"string"}, {"int64"}):
            return found.pop()
        return "float64" if "float64" in found else "float32"

    def matrix(self, dtype: str = "float32") -> NDArray[Any]:
        """The rows as a matrix [N, F]; NULL is NaN."""
        columns = [self.table[name].to_numpy(zero_copy_only=False).astype(dtype) for name in self.names]
        return np.column_stack(columns)


def _table_of_frame(frame: Any) -> pa.Table:
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ModelError("X_sample has two columns of one name")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False).rename_columns(names)
    except pa.ArrowException as error:
        raise ModelError(f"X_sample cannot be read as a table: {str(error).splitlines()[0]}") from error
    return table


def _table_of_matrix(matrix: NDArray[Any], columns: Sequence[str] | None) -> pa.Table:
    if matrix.ndim != 2:
        raise ModelError(f"X_sample has the shape {list(matrix.shape)}; it must be [rows, columns]")
    names = [f"x{i}" for i in range(matrix.shape[1])] if columns is None else list(columns)
    if len(names) != matrix.shape[1] or len(set(names)) < len(names):
        raise ModelError(
            f"columns gives {len(set(names))} names for the {matrix.shape[1]} columns of X_sample"
        )
    return pa.table({name: pa.array(matrix[:, i]) for i, name in enumerate(names)})


def _dtype(column: pa.ChunkedArray, name: str, float_dtype: str) -> str:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return float_dtype
    raise ModelError(
        f"column {name!r} of X_sample is {kind}; a model's input is a number, a boolean or text: make numbers "
        "of it before the estimator, in the job's query too"
    )
