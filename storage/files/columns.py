"""What a file's columns become: the Arrow type each is read as, how it is cast, which rows are the interval's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.sources import SourceColumn

if TYPE_CHECKING:
    from datetime import date

# What a job file says of a key column whose type the files do not tell, and what it is read as.
KEY_TYPES = {"integer": "int64", "text": "string", "uuid": "uuid", "date": "date32"}
# What a model's input takes, and what a column of text is read as for it: its widest kind, so that a value
# that does not fit is found and named by the model's own check.
_READ_AS = {"string": "string", "bool": "bool"}

_HEX = np.frombuffer("".join(f"{value:02x}" for value in range(256)).encode(), np.uint8).reshape(256, 2)
_UUID_GROUPS = (0, 4, 6, 8, 10, 16)


def described(name: str, found: pa.DataType) -> SourceColumn:
    """Describe a column by the type its file gives it; without an Arrow type where no model or key takes it."""
    plain = found.value_type if pa.types.is_dictionary(found) else found
    if pa.types.is_integer(plain) or pa.types.is_boolean(plain) or pa.types.is_floating(plain):
        return SourceColumn(name, str(plain), str(plain))
    if pa.types.is_decimal(plain):
        return SourceColumn(name, str(plain), "double")
    if pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
        return SourceColumn(name, "string", "string")
    if pa.types.is_date(plain):
        return SourceColumn(name, "date32", "date32")
    if _is_uuid(plain):
        return SourceColumn(name, "uuid", "string")
    return SourceColumn(name, str(plain), None)


def declared(name: str, key_type: str | None, dtype: str | None) -> SourceColumn | None:
    """Describe a column of text by what the job file calls it, or else by what the model takes; None by neither."""
    if key_type is not None:
        type_ = KEY_TYPES[key_type]
        return SourceColumn(name, type_, "string" if type_ == "uuid" else type_)
    if dtype is None:
        return None
    type_ = _READ_AS.get(dtype, "double" if dtype.startswith("float") else "int64")
    return SourceColumn(name, type_, type_)


def arrow_type(column: SourceColumn) -> pa.DataType:
    """The Arrow type a column is read as."""
    return pa.type_for_alias(str(column.arrow))


def cast(values: pa.Array, column: SourceColumn) -> pa.Array:
    """Make of a file's column what it is read as. Raises pa.ArrowInvalid where a value cannot be kept."""
    target = arrow_type(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.type == target:
        return values
    if column.type == "uuid" and _is_uuid(values.type):
        return _uuid_text(values)
    if pa.types.is_date64(values.type):
        values = values.cast(pa.date32())
    return values.cast(target)


def is_castable(found: pa.DataType, column: SourceColumn) -> bool:
    """Whether another file's column may stand for this one: the same kind, whatever its width."""
    other = described(column.name, found)
    if pa.types.is_null(found) or other.type == column.type:
        return True
    if other.arrow is None or "uuid" in (other.type, column.type):
        return False
    numbers = [
        pa.types.is_integer(each) or pa.types.is_floating(each) for each in map(arrow_type, (other, column))
    ]
    return other.arrow == column.arrow or all(numbers)


def _is_uuid(type_: pa.DataType) -> bool:
    return bool(getattr(type_, "extension_name", "") == "arrow.uuid") or type_ == pa.binary(16)


def _uuid_text(values: pa.Array) -> pa.StringArray:
    """Write 16 bytes as PostgreSQL writes a uuid, a column at a time: 36 characters, lower case."""
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    filled = storage.fill_null(bytes(16)) if storage.null_count else storage
    start = filled.offset * 16
    octets = np.frombuffer(filled.buffers()[1], np.uint8)[start : start + 16 * len(filled)].reshape(-1, 16)
    text = np.full((len(filled), 36), ord("-"), np.uint8)
    for group, (first, last) in enumerate(pairwise(_UUID_GROUPS)):
        text[:, 2 * first + group : 2 * last + group] = _HEX[octets[:, first:last]].reshape(len(filled), -1)
    offsets = np.arange(0, 36 * (len(filled) + 1), 36, dtype=np.int32)
    made = pa.StringArray.from_buffers(len(filled), pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
    return pc.if_else(storage.is_null(), pa.scalar(None, pa.string()), made) if storage.null_count else made


@dataclass(frozen=True)
class TimeSpan:
    """The interval as a time column is held against it: `column` in [start, end), aware moments.

    A column without a zone shows the clock of the job's zone. Where clocks are set back, its hour that comes
    twice is taken to be the first of the two, so that no row is in two intervals.
    """

    column: str
    start: datetime
    end: datetime

    def bounds(self, type_: pa.DataType) -> tuple[pa.Scalar, pa.Scalar] | None:
        """The two ends as scalars of a column's type; None where it is no timestamp or date."""
        if pa.types.is_date(type_):
            ends: tuple[Any, Any] = (self.start.date(), self._last_date())
        elif not pa.types.is_timestamp(type_):
            return None
        elif type_.tz is None:
            ends = (_face(self.start), _face(self.end))
        else:
            ends = (self.start.astimezone(UTC), self.end.astimezone(UTC))
        return pa.scalar(ends[0], type_), pa.scalar(ends[1], type_)

    def mask(self, values: pa.Array) -> pa.BooleanArray:
        """Tell which values lie in the interval; NULL does not."""
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        bounds = self.bounds(values.type)
        assert bounds is not None  # noqa: S101  # the type was looked at when the file was opened
        inside = pc.and_(pc.greater_equal(values, bounds[0]), pc.less(values, bounds[1]))
        return pc.fill_null(inside, fill_value=False)

    def text(self) -> str:
        """Write the condition, for a person."""
        return f"{self.column} >= {self.start.isoformat()} and {self.column} < {self.end.isoformat()}"

    def _last_date(self) -> date:
        # An hour lies inside a date: then no date column tells hours apart, which the plan refuses.
        return self.end.date()


def _face(moment: datetime) -> datetime:
    """What a clock shows at a moment, or, in an hour that comes again, what it had reached before."""
    again = moment.replace(fold=0).utcoffset(), moment.utcoffset()
    past = again[0] - again[1] if moment.fold and None not in again else None  # type: ignore[operator]
    face = moment.replace(tzinfo=None, fold=0)
    return face + past if past else face
