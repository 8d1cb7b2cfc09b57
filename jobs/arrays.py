"""Numbers between Arrow and numpy, over the same memory where they can be.

pyarrow's own ways (`to_numpy`, `array`, `scalar`) import pandas wherever it is installed: 0.2 processor seconds at
the first row of every run, in which no row is read. A run of numbers gets by without them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array; one that lies in one piece is not copied, as `combine_chunks` would."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def nulls_in(array: pa.Array) -> NDArray[np.bool_]:
    """Which of N values are NULL, as [N]."""
    if not array.null_count:
        return np.zeros(len(array), dtype=np.bool_)
    if (bitmap := array.buffers()[0]) is None:  # an array of the type null has none
        return np.ones(len(array), dtype=np.bool_)
    return ~_bits(bitmap, array)


def numpy_of(array: pa.Array, null: float = math.nan) -> NDArray[Any]:
    """The array as [N], with `null` where it is NULL; without NULL, integers and floats are not copied.

    For NaN to stand in them, integers and booleans with NULL become float64.
    """
    types = pa.types
    if types.is_boolean(array.type) and len(array):
        values: NDArray[Any] = _bits(array.buffers()[1], array)
    elif (types.is_integer(array.type) or types.is_floating(array.type)) and len(array):
        last = array.offset + len(array)
        data = array.buffers()[1]
        values = np.frombuffer(data, array.type.to_pandas_dtype(), count=last)[array.offset :]
    else:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if array.null_count:
        values = values.astype(np.float64 if math.isnan(null) and values.dtype.kind != "f" else values.dtype)
        values[nulls_in(array)] = null
    return values


def arrow_of(values: NDArray[Any]) -> pa.Array:
    """An array of [N] numbers or booleans; without a copy where they are contiguous numbers."""
    if values.dtype == np.bool_:
        data: NDArray[Any] = np.packbits(values, bitorder="little")
    else:
        data = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(data)])


def _bits(bitmap: pa.Buffer, array: pa.Array) -> NDArray[np.bool_]:
    """The bits of a bitmap that belong to an array."""
    last = array.offset + len(array)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=last, bitorder="little")
    return bits[array.offset :].view(np.bool_)
