"""What PostgreSQL's binary COPY sends, as Arrow: blocks of whole rows, decoded column by column.

A row is the number of its fields in two bytes, and of each field its length in four (-1: NULL) and its bytes, all
big-endian. Where every field has the same length in every row a column lies at equal distances in the block, and
is one strided view of it; else the place of a field follows from the lengths of those before it, row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Arrow type -> how its values arrive. Text has no fixed length.
_SENT: dict[str, np.dtype[Any]] = {
    "int16": np.dtype(">i2"),
    "int32": np.dtype(">i4"),
    "int64": np.dtype(">i8"),
    "float": np.dtype(">f4"),
    "double": np.dtype(">f8"),
    "bool": np.dtype("?"),
    "date32": np.dtype(">i4"),
}
# PostgreSQL counts days from 2000 on, Arrow from 1970 on. By that the two infinities, the least and the greatest
# integer, become days outside every calendar, by which a job knows them.
_DAYS = np.int32(10_957)
# A value is looked at behind its length word even where it is NULL and the last of the block.
_MARGIN = bytes(max(dtype.itemsize for dtype in _SENT.values()))


class RowsUnlikeColumnsError(ValueError):
    """Rows are not of the columns they were to be of: somebody changed a table or a view meanwhile."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the columns have changed since they were asked for")


class RowDecoder:
    """Decodes rows of these columns: names and Arrow types, as storage.sources.SourceColumn has them.

    Arrow types: int16, int32, int64, float, double, bool, date32 and string.
    """

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        self._types = [kind for _, kind in columns]
        self._schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns])
        self._row = None
        if all(kind in _SENT for kind in self._types):
            fields: list[tuple[str, Any]] = [("fields", ">i2")]
            for place, kind in enumerate(self._types):
                fields += [(f"length {place}", ">i4"), (f"value {place}", _SENT[kind])]
            self._row = np.dtype(fields)

    def decode(self, block: bytearray, sizes: Sequence[int]) -> pa.RecordBatch:
        """Decode a block of rows that follow each other, of so many bytes each; the block is used up.

        Raises RowsUnlikeColumnsError.
        """
        arrays = self._equal(block, sizes) or self._any(block, sizes)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _equal(self, block: bytearray, sizes: Sequence[int]) -> list[pa.Array] | None:
        """Decode rows in which no field is NULL and none is text; None where there is one."""
        if self._row is None or sizes.count(self._row.itemsize) != len(sizes):
            return None
        rows = np.frombuffer(block, self._row)
        for place, kind in enumerate(self._types):
            if (rows[f"length {place}"] != _SENT[kind].itemsize).any():
                return None
        return [
            _array(kind, rows[f"value {place}"].astype(_SENT[kind].newbyteorder("=")), None)
            for place, kind in enumerate(self._types)
        ]

    def _any(self, block: bytearray, sizes: Sequence[int]) -> list[pa.Array]:
        """Decode rows of any kind."""
        rows = np.array(sizes, np.int64)
        ends = np.cumsum(rows)
        at = ends - rows
        block += _MARGIN
        if (_every_byte(block, ">i2")[at] != len(self._types)).any():
            raise RowsUnlikeColumnsError("a row has another number of fields than there are columns")
        at += 2
        lengths_at = _every_byte(block, ">i4")
        arrays = []
        for kind in self._types:
            lengths = lengths_at[at].astype(np.int64)
            at += 4
            valid = lengths >= 0
            present = None if valid.all() else valid
            if present is not None:
                lengths[~valid] = 0
            if kind == "string":
                arrays.append(_texts(block, at, lengths, present))
            else:
                dtype = _SENT[kind]
                if (lengths[valid] != dtype.itemsize).any():
                    raise RowsUnlikeColumnsError(f"a value has another length than one of {kind}")
                values = _every_byte(block, dtype)[at].astype(dtype.newbyteorder("="))
                if present is not None:
                    values[~valid] = 0
                arrays.append(_array(kind, values, present))
            at += lengths
        if (at != ends).any():
            raise RowsUnlikeColumnsError("a row has another length than its fields")
        return arrays


def _every_byte(block: bytearray, dtype: Any) -> NDArray[Any]:
    """The values that would begin at each byte of a block."""
    size = np.dtype(dtype).itemsize
    return np.ndarray((len(block) - size + 1,), dtype, block, strides=(1,))


def _array(kind: str, values: NDArray[Any], present: NDArray[np.bool_] | None) -> pa.Array:
    """Make an Arrow array of values in this machine's order; where `present` says no they are NULL."""
    count = len(values)
    if kind == "bool":
        values = np.packbits(values, bitorder="little")
    elif kind == "date32":
        values += _DAYS
    buffers = [_bits(present), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.type_for_alias(kind), count, buffers)


def _texts(
    block: bytearray, at: NDArray[np.int64], lengths: NDArray[np.int64], present: NDArray[np.bool_] | None
) -> pa.Array:
    """Gather texts: each stretch of the block, text or what lies between two, is a value, and every second taken.

    Measured: 0.02 s for a million texts of 20 bytes, against 0.05 s by numpy with an index of every byte.
    """
    bounds = np.empty(2 * len(at), np.int32)
    bounds[::2] = at
    bounds[1::2] = at + lengths
    stretches = pa.Array.from_buffers(
        pa.string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(block)]
    )
    texts = stretches.take(pa.array(np.arange(0, len(bounds), 2)))
    _, offsets, data = texts.buffers()
    return pa.Array.from_buffers(pa.string(), len(at), [_bits(present), offsets, data])


def _bits(present: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
