"""What several parts of a job file are made of: strict models, durations, names and shares."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from storage.views import RESERVED_COLUMNS

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SYSTEM_COLUMNS = ("cmax", "cmin", "ctid", "tableoid", "xmax", "xmin")


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f"{value!r} is no duration; write a number and s, m, h, d or w, such as 2h")
    return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})


def _column(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
        raise ValueError(
            f"{name!r} cannot name a column: up to 63 of a-z, 0-9 and _, not beginning with a digit"
        )
    if name in _SYSTEM_COLUMNS:
        raise ValueError(f"{name!r} cannot name a column: PostgreSQL has one of that name in every table")
    if name in RESERVED_COLUMNS:
        raise ValueError(f"{name!r} cannot name a column: every view has one of that name already")
    return name


def not_empty(value: str) -> str:
    """Return the text, or raise ValueError where it is blank."""
    if not value.strip():
        raise ValueError("it is empty; write it, or leave the key out")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)]
NotEmpty = Annotated[str, AfterValidator(not_empty)]
ColumnName = Annotated[str, AfterValidator(_column)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A part of a job file: unknown keys are refused, and no type is guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
