"""How text becomes values: cast as a column says, with the values that are none of its kind told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from storage.files.columns import TimeSpan

TRUE = ["true", "True", "TRUE", "t", "T", "1"]
FALSE = ["false", "False", "FALSE", "f", "F", "0"]

_WORDS = {"double": "number", "int64": "whole number", "bool": "true or false", "date32[day]": "date"}
# A moment with its offset from UTC; without one it shows the clock of the job's zone.
_ZONED = r"\d:\d.*(Z|[+-]\d\d(:?\d\d)?)$"
_UUID = r"^\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?$"
_NANOSECONDS = r"(\.\d{6})\d+"


def parse(text: pa.Array, target: pa.DataType) -> tuple[pa.Array, pa.BooleanArray]:
    """Cast text (string or binary) to a type; also tell which values are none of it: those are NULL.

    Spaces around a number are nothing, and so is a number of no characters: NULL.
    """
    values, bad = _bisect(text, pa.string())
    if pa.types.is_string(target):
        return values, bad
    values = pc.utf8_trim_whitespace(values)
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    if pa.types.is_boolean(target):
        found = pc.index_in(values, pa.array(TRUE + FALSE))
        parsed = pc.less(found, len(TRUE))
        return parsed, pc.or_(bad, pc.and_(pc.is_valid(values), pc.is_null(found)))
    if pa.types.is_timestamp(target):
        values = pc.replace_substring_regex(values, _NANOSECONDS, r"\1")
    parsed, unparsed = _bisect(values, target)
    return parsed, pc.or_(bad, unparsed)


def uuids(text: pa.Array) -> tuple[pa.Array, pa.BooleanArray]:
    """Write uuids as PostgreSQL does: lower case, hyphens, no braces; also tell which are none: those are NULL.

    A key has one spelling, or it would be found by one of them only, and stand there twice.
    """
    values, bad = parse(text, pa.string())
    values = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    good = pc.match_substring_regex(values, _UUID)
    none = pc.fill_null(pc.invert(good), fill_value=False)
    plain = pc.replace_substring_regex(values, _UUID, r"\1-\2-\3-\4-\5")
    return pc.if_else(none, pa.scalar(None, pa.string()), plain), pc.or_(bad, none)


def checked(values: pa.Array) -> tuple[pa.Array, list[int]]:
    """Make NULL of what a file calls text and is no UTF-8; return the places too. Other types pass as they are.

    Parquet's and Arrow's readers take a writer's word for it; PostgreSQL and Python do not.
    """
    if not pa.types.is_string(values.type):
        return values, []
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        good, bad = parse(values.cast(pa.binary()), pa.string())
        return good, [int(place) for place in pc.indices_nonzero(bad).to_pylist()]
    return values, []


def what(target: pa.DataType) -> str:
    """Name a type for a person: a whole number, a date."""
    return "UTF-8 text" if pa.types.is_string(target) else _WORDS.get(str(target), str(target))


def inside(text: pa.Array, span: TimeSpan) -> tuple[pa.BooleanArray, pa.BooleanArray]:
    """Tell which of some moments written as text lie in an interval, and which are no moments."""
    values, bad = _bisect(text, pa.string())
    values = pc.utf8_trim_whitespace(values)
    is_date = pc.less_equal(pc.utf8_length(values), 10)
    is_zoned = pc.match_substring_regex(values, _ZONED)
    is_face = pc.and_not(pc.invert(is_date), is_zoned)
    lies = pa.array([False], pa.bool_()).take(pa.array([0] * len(text), pa.int64()))
    kinds = (
        (is_date, pa.date32()), (is_zoned, pa.timestamp("us", "UTC")), (is_face, pa.timestamp("us")),
    )  # fmt: skip
    for chosen, type_ in kinds:
        if not pc.any(chosen).as_py():
            continue
        parsed, unparsed = parse(pc.if_else(chosen, values, pa.scalar(None, pa.string())), type_)
        lies, bad = pc.or_(lies, span.mask(parsed)), pc.or_(bad, unparsed)
    return lies, bad


def _bisect(values: pa.Array, target: pa.DataType) -> tuple[pa.Array, pa.BooleanArray]:
    """Cast all at once where all are good; else halve until each bad value stands alone."""
    try:
        good = values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(values) == 1:
            return pa.nulls(1, target), pa.array([True])
        middle = len(values) // 2
        parts = [_bisect(part, target) for part in (values.slice(0, middle), values.slice(middle))]
        return pa.concat_arrays([part[0] for part in parts]), pa.concat_arrays([part[1] for part in parts])
    return good, pc.invert(pc.is_null(pa.nulls(len(values))))
