"""The job file's contract: every key, its type, its default and what it means, checked strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)  # fmt: skip

from jobs.errors import JobFileError
from storage.views import RESERVED_COLUMNS

DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string",
)  # fmt: skip

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SYSTEM_COLUMNS = ("cmax", "cmin", "ctid", "tableoid", "xmax", "xmin")
_CRON_ALIASES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


@dataclass(frozen=True)
class OutputRef:
    """A model output, or element `index` (from 0) of each of its rows."""

    name: str
    index: int | None


def parse_output_ref(text: str) -> OutputRef:
    """Parse `label` or `probabilities[1]`. Raises JobFileError."""
    found = re.fullmatch(r"([^\[\]\s](?:[^\[\]]*[^\[\]\s])?)(?:\[([0-9]{1,6})\])?", text)
    if not found:
        raise JobFileError(f"{text!r} is no model output; write its name, or NAME[INDEX] for one element")
    return OutputRef(found.group(1), int(found.group(2)) if found.group(2) else None)


def check_job_name(name: str) -> str:
    """Return the name, or raise JobFileError: it becomes the name of a view and of an URL's part."""
    # 55 characters, so that NAME_history fits PostgreSQL's 63 bytes: a longer one would be cut in silence.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,54}", name) or name.endswith("_history"):
        raise JobFileError(
            f"{name!r} cannot name a job: a lower-case letter, then up to 54 of a-z, 0-9 and _, "
            "not ending in _history"
        )
    return name


def _zone(name: str) -> str:
    # "localtime" and "Factory" are names of this machine alone; PostgreSQL does not know them.
    if name not in available_timezones() - {"localtime", "Factory"}:
        near = get_close_matches(name, available_timezones(), n=1)
        raise ValueError(f"unknown time zone {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return name


def _cron(text: str) -> str:
    fields = _CRON_ALIASES.get(text, text)
    # CronSim takes a sixth field for seconds, in front, where cron has none.
    if len(fields.split()) != 5 or len(fields) > 200:
        raise ValueError(
            f"{text[:40]!r} is no cron schedule: it has five fields, minute, hour, day, month and weekday, "
            f"or is one of {', '.join(_CRON_ALIASES)}"
        )
    try:
        CronSim(fields, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        said = str(error).replace("Bad ", "there is no such ")
        raise ValueError(f"{text!r} is no cron schedule: {said}") from None
    return text


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


def _feature(name: str) -> str:
    if not name or "\0" in name or '"' in name or len(name.encode()) > 63:
        raise ValueError(
            f"{name!r} cannot name a source column: 1 to 63 bytes, without quotation marks and NUL"
        )
    return name


def _output_ref(text: str) -> str:
    try:
        parse_output_ref(text)
    except JobFileError as error:
        raise ValueError(str(error)) from None
    return text


def _name(text: str) -> str:
    try:
        return check_job_name(text)
    except JobFileError as error:
        raise ValueError(str(error)) from None


def _version(value: Any) -> Any:
    # true and 1.0 are equal to 1 in Python; Literal would let them pass.
    if type(value) is not int or value != 1:
        raise ValueError("version: write 1, the only one there is")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty; write it, or leave the key out")
    return value


def _secret_not_empty(value: SecretStr) -> SecretStr:
    # An empty address would be libpq's default: some other database than the one meant.
    _not_empty(value.get_secret_value())
    return value


def _parameter_value(value: Any) -> Any:
    # A moment without an offset would be read in whatever zone the session has.
    if isinstance(value, datetime) or not isinstance(value, (str, int, float, bool, date, type(None))):
        raise ValueError("a parameter's value is text, a number, true, false, a date or null")  # noqa: TRY004  # pydantic reports ValueErrors alone
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)]
ColumnName = Annotated[str, AfterValidator(_column)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Schedule(_Strict):
    """When the job runs, and in which zone its days begin."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(description="Five fields as in cron(5), or @daily.")
    timezone: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="Of cron and intervals.")
    late_after: Duration | None = Field(
        None,
        description="How long after the end of the next interval a missing one may take before the job is late.",
    )

    @property
    def cron_fields(self) -> str:
        """The schedule in five fields."""
        return _CRON_ALIASES.get(self.cron, self.cron)


class Source(_Strict):
    """Where the rows come from: one SELECT in PostgreSQL."""

    query: Annotated[str, AfterValidator(_not_empty)] | None = Field(
        None, description="The query itself; or query_file."
    )
    query_file: str | None = Field(None, description="A .sql file, relative to the job file.")
    dsn: Annotated[SecretStr, AfterValidator(_secret_not_empty)] | None = Field(
        None, description="Another PostgreSQL to read from; batchpred's own if left out."
    )
    params: dict[str, Annotated[Any, AfterValidator(_parameter_value)]] = Field(
        default_factory=dict, description="Values the query binds as :name, beside the interval's."
    )
    bounded: bool = Field(
        True,
        description="false: the query deliberately binds neither :interval_start, :interval_end nor :date.",
    )

    @model_validator(mode="after")
    def _one_query(self) -> Source:
        if (self.query is None) == (self.query_file is None):
            raise ValueError("give either query or query_file")
        taken = {"interval_start", "interval_end", "date"} & set(self.params)
        if taken:
            raise ValueError(f"params: {', '.join(sorted(taken))} is the interval's own")
        return self


class Output(_Strict):
    """What is kept of the model's outputs, and what readers see as current."""

    columns: dict[ColumnName, Annotated[str, AfterValidator(_output_ref)]] = Field(
        min_length=1,
        description="Column in PostgreSQL: model output NAME, or one element of it, NAME[INDEX].",
    )
    mode: Literal["snapshot", "incremental"] = Field(
        "snapshot",
        description="snapshot: current is the newest interval's run; incremental: each key's newest row.",
    )


class Checks(_Strict):
    """What must hold before a run is published."""

    min_rows: int = Field(1, ge=0, description="Predictions a run must have.")
    max_rows_change: float | None = Field(None, gt=0, description="Largest change of the count, as a share.")
    max_null_rate: Share | None = Field(None, description="Largest share of NULL in any output column.")
    score_range: list[float] | None = Field(
        None, min_length=2, max_length=2, description="[low, high] for every floating-point output."
    )
    max_quarantined: Share = Field(0.01, description="Largest share of rows that may be in quarantine.")

    @model_validator(mode="after")
    def _ordered(self) -> Checks:
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range: the low end comes first")
        return self


class Drift(_Strict):
    """How far scores and features may move; declared, not acted on yet."""

    metric: Literal["psi"] = "psi"
    warn: float = Field(0.1, gt=0)
    alert: float = Field(0.25, gt=0)
    on_alert: Literal["warn", "block"] = "warn"

    @model_validator(mode="after")
    def _not_a_false_guard(self) -> Drift:
        if self.on_alert == "block":
            raise ValueError("on_alert: block would promise a guard this version does not have; write warn")
        if self.warn > self.alert:
            raise ValueError("warn is above alert; it comes first")
        return self


class Retention(_Strict):
    """How long published predictions are kept after their interval; `batchpred gc` drops older ones."""

    predictions: Duration


class Job(_Strict):
    """A job: which rows, which model, which columns, when, and what must hold."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(
        description="The version of this format."
    )
    name: Annotated[str, AfterValidator(_name)] = Field(
        description="Also the name of the views and the file."
    )
    description: str = Field("", description="What one prediction says; shown to analysts.")
    schedule: Schedule | None = None
    interval: Literal["hour", "day", "week", "month"] = Field("day", description="What one run is about.")
    source: Source
    key: list[ColumnName] = Field(
        min_length=1, max_length=8, description="The columns that name a prediction."
    )
    features: dict[Annotated[str, AfterValidator(_feature)], Literal[DTYPES] | None] = Field(  # type: ignore[valid-type]
        default_factory=dict,
        description="Source columns and their dtypes: needed, in order, for one matrix input.",
    )
    model: str = Field(min_length=1, description="NAME@ALIAS, NAME/VERSION or file:PATH.onnx.")
    output: Output
    checks: Checks = Field(default_factory=Checks)
    drift: Drift | None = None
    retention: Retention | None = None
    batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="Rows given to the model in one call."
    )
    chunk_rows: int = Field(
        100_000, ge=1, le=10_000_000, description="Rows read, scored and committed as one unit."
    )

    @property
    def zone(self) -> ZoneInfo:
        """The zone at whose midnights or hours intervals are cut."""
        return ZoneInfo(self.schedule.timezone if self.schedule else "UTC")

    @field_validator("key")
    @classmethod
    def _columns_differ(cls, key: list[str]) -> list[str]:
        twice = next((name for name in key if key.count(name) > 1), None)
        if twice:
            raise ValueError(f"key: column {twice!r} stands there twice")
        return key

    @field_validator("output")
    @classmethod
    def _outputs_beside_key(cls, output: Output, info: ValidationInfo) -> Output:
        both = sorted(set(info.data.get("key", ())) & set(output.columns))
        if both:
            raise ValueError(f"output: column {both[0]!r} is in the key already")
        return output
