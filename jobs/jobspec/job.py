"""The job itself: a model of the whole file."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from jobs.device import PROVIDERS
from jobs.errors import JobFileError
from jobs.jobspec.checks import Checks, Drift
from jobs.jobspec.notify import Target, labels_differ
from jobs.jobspec.output import Output, Retention
from jobs.jobspec.schedule import Ready, Schedule
from jobs.jobspec.source import Source
from jobs.jobspec.values import ColumnName, Strict
from jobs.remote_models import is_remote
from storage.files.pattern import parse_path
from storage.registry import ModelNameError, ModelRef

DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string",
)  # fmt: skip


def check_job_name(name: str) -> str:
    """Return the name, or raise JobFileError: it becomes the name of a view and of an URL's part."""
    # 55 characters, so that NAME_history fits PostgreSQL's 63 bytes: a longer one would be cut in silence.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,54}", name) or name.endswith(("_history", "_vectors")):
        raise JobFileError(
            f"{name!r} cannot name a job: a lower-case letter, then up to 54 of a-z, 0-9 and _, "
            "not ending in _history or _vectors"
        )
    return name


def _feature(name: str) -> str:
    if not name or "\0" in name or '"' in name or len(name.encode()) > 63:
        raise ValueError(
            f"{name!r} cannot name a source column: 1 to 63 bytes, without quotation marks and NUL"
        )
    return name


def _name(text: str) -> str:
    try:
        return check_job_name(text)
    except JobFileError as error:
        raise ValueError(str(error)) from None


_DEVICES = ("auto", *PROVIDERS)


def _devices(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, (list, tuple)) else [value]
    for name in names:
        if name not in _DEVICES:
            near = get_close_matches(str(name), _DEVICES, n=1)
            raise ValueError(
                f"{name!r} is no device; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(_DEVICES)}")
            )
    if not names or len(set(names)) < len(names) or ("auto" in names and len(names) > 1):
        raise ValueError("device: name each once, the preferred first; auto stands alone")
    return tuple(names)


def _transform(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ValueError(f"transform {text!r} is not MODULE:FUNCTION, such as mypackage.features:build")
    return text


def _shadow(ref: str) -> str:
    if not ref.startswith("file:") and not is_remote(ref):
        try:
            ModelRef.parse(ref)
        except ModelNameError as error:
            raise ValueError(f"shadow: {error}") from None
    return ref


def _version(value: Any) -> Any:
    # true and 1.0 are equal to 1 in Python; Literal would let them pass.
    if type(value) is not int or value != 1:
        raise ValueError("version: write 1, the only one there is")
    return value


class Job(Strict):
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
    after: list[Annotated[str, AfterValidator(_name)]] = Field(
        default_factory=list,
        max_length=20,
        description="Jobs whose published intervals must cover one of this job before the schedule runs it.",
    )
    ready: Ready | None = None
    source: Source
    key: list[ColumnName] = Field(
        min_length=1, max_length=8, description="The columns that name a prediction."
    )
    features: dict[Annotated[str, AfterValidator(_feature)], Literal[DTYPES] | None] = Field(  # type: ignore[valid-type]
        default_factory=dict,
        description="Source columns and their dtypes: needed, in order, for one matrix input.",
    )
    transform: Annotated[str, AfterValidator(_transform)] | None = Field(
        None,
        description="MODULE:FUNCTION, from DataFrame to DataFrame: applied to each chunk before the model.",
    )
    model: str = Field(
        min_length=1,
        description="NAME@ALIAS, NAME/VERSION, file:PATH.onnx, mlflow:NAME@ALIAS, mlflow:NAME/VERSION, s3://… "
        "or hf:OWNER/REPO/PATH.onnx@COMMIT",
    )
    shadow: Annotated[str, AfterValidator(_shadow)] | None = Field(
        None,
        min_length=1,
        description="A model that scores the same rows beside `model`, into a hidden run to compare with.",
    )
    output: Output
    checks: Checks = Field(default_factory=Checks)
    drift: Drift | None = None
    retention: Retention | None = None
    notify: Annotated[list[Target], AfterValidator(labels_differ)] = Field(
        default_factory=list, description="Who is told when the job fails, is blocked, is late and recovers."
    )
    device: Annotated[
        tuple[str, ...],
        BeforeValidator(
            _devices,
            json_schema_input_type=Literal[_DEVICES] | list[Literal[_DEVICES]],
        ),
    ] = Field(
        ("auto",),
        description="Where the model runs: that or nothing. In a list, the first that takes the model.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="Rows given to the model in one call; measured if left out."
    )
    chunk_rows: int = Field(
        100_000, ge=1, le=10_000_000, description="Rows read, scored and committed as one unit."
    )

    @property
    def zone(self) -> ZoneInfo:
        """The zone at whose midnights or hours intervals are cut."""
        return ZoneInfo(self.schedule.timezone if self.schedule else "UTC")

    @field_validator("after")
    @classmethod
    def _not_after_itself(cls, after: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("name") in after:
            raise ValueError(f"after: {info.data['name']} cannot wait for itself")
        return after

    @field_validator("key")
    @classmethod
    def _columns_differ(cls, key: list[str]) -> list[str]:
        twice = next((name for name in key if key.count(name) > 1), None)
        if twice:
            raise ValueError(f"key: column {twice!r} stands there twice")
        return key

    @field_validator("shadow")
    @classmethod
    def _shadow_is_another(cls, shadow: str | None, info: ValidationInfo) -> str | None:
        if shadow is not None and shadow == info.data.get("model"):
            raise ValueError(f"shadow: {shadow} is the job's model already; name another, or leave it out")
        return shadow

    @field_validator("output")
    @classmethod
    def _outputs_beside_key(cls, output: Output, info: ValidationInfo) -> Output:
        both = sorted(set(info.data.get("key", ())) & set(output.columns))
        if both:
            raise ValueError(f"output: column {both[0]!r} is in the key already")
        return output

    @model_validator(mode="after")
    def _path_is_bounded(self) -> Job:
        source = self.source
        if source.path is None or source.time_column is not None or not source.bounded:
            return self
        if not parse_path(source.path).tells_apart(self.interval):
            needed = "{date} and {hour}" if self.interval == "hour" else "{date}"
            raise ValueError(
                f"source: every {self.interval} would score the same files; put {needed} into the path, name the "
                "`time_column` that tells them apart, or say `bounded: false` if that is meant"
            )
        return self

    @model_validator(mode="after")
    def _types_are_the_keys(self) -> Job:
        other = next((name for name in self.source.types if name not in self.key), None)
        if other is not None:
            raise ValueError(
                f"source: types says what {other} is, which is not in the key; the model says what it takes"
            )
        return self
