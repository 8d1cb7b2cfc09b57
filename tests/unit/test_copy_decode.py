"""Blocks of binary COPY, decoded to Arrow."""

import struct

import pytest

from storage.copy_decode import RowDecoder, RowsUnlikeColumnsError


def row(*fields):
    """What PostgreSQL sends for a row of these bytes; None is NULL."""
    sent = struct.pack(">h", len(fields))
    for field in fields:
        sent += struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field
    return sent


def decode(columns, rows):
    return RowDecoder(columns).decode(bytearray(b"".join(rows)), [len(each) for each in rows])


EIGHT, FOUR = bytes(8), bytes(4)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ([("a", "int64"), ("b", "int32")], [row(FOUR, EIGHT)]),
        ([("a", "int64"), ("b", "int32")], [row(EIGHT, FOUR), row(FOUR, EIGHT)]),
        ([("a", "int64"), ("b", "int32")], [row(EIGHT)]),
        ([("a", "int64")], [row(EIGHT, FOUR)]),
        ([("a", "int64")], [row(EIGHT) + b"\0"]),
        ([("a", "string")], [row(b"abc"), row(b"abc") + b"\0"]),
        ([("a", "string"), ("b", "int64")], [row(b"abc", FOUR)]),
    ],
)
def test_rows_of_other_columns_are_refused(columns, rows):
    """Fields that are not what was announced are never taken for it, also where the row's length is right."""
    with pytest.raises(RowsUnlikeColumnsError, match="the columns have changed since"):
        decode(columns, rows)


def test_what_lies_under_a_null_is_zero():
    """Bytes of the next field do not shine through, so that equal rows are equal in memory."""
    batch = decode([("a", "int64"), ("b", "int64")], [row(None, b"\1" * 8), row(b"\2" * 8, None)])
    a, b = (column.buffers()[1].to_pybytes() for column in batch.columns)
    assert (bytes(8) + b"\2" * 8, b"\1" * 8 + bytes(8)) == (a, b)
    assert ([None, 0x0202020202020202], 1) == (batch["a"].to_pylist(), batch["b"].null_count)
