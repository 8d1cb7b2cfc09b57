"""Where a job's rows come from."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from jobs.jobspec.values import NotEmpty, Strict, not_empty
from storage.files.pattern import FilePathError, parse_path


def _secret_not_empty(value: SecretStr) -> SecretStr:
    # An empty address would be libpq's default: some other database than the one meant.
    not_empty(value.get_secret_value())
    return value


def _parameter_value(value: Any) -> Any:
    # A moment without an offset would be read in whatever zone the session has.
    if isinstance(value, datetime) or not isinstance(value, (str, int, float, bool, date, type(None))):
        raise ValueError("a parameter's value is text, a number, true, false, a date or null")  # noqa: TRY004  # pydantic reports ValueErrors alone
    return value


def _path(text: str) -> str:
    try:
        parse_path(not_empty(text))
    except FilePathError as error:
        raise ValueError(str(error)) from None
    return text


# What is said of files alone, and of a query alone.
_OF_FILES = ("time_column", "format", "delimiter", "types")
_OF_QUERIES = ("dsn", "params")


class Source(Strict):
    """Where the rows come from: one SELECT in PostgreSQL, or the files under a path."""

    query: NotEmpty | None = Field(None, description="The query itself; or query_file.")
    query_file: str | None = Field(None, description="A .sql file, relative to the job file.")
    dsn: Annotated[SecretStr, AfterValidator(_secret_not_empty)] | None = Field(
        None, description="Another PostgreSQL to read from; batchpred's own if left out."
    )
    params: dict[str, Annotated[Any, AfterValidator(_parameter_value)]] = Field(
        default_factory=dict, description="Values the query binds as :name, beside the interval's."
    )
    path: Annotated[str, AfterValidator(_path)] | None = Field(
        None,
        description="Parquet, CSV or Arrow files in place of a query: a file, a folder or a pattern with * and **, "
        "here or as s3://, gs://, abfs:// or az://; {date}, {year}, {month}, {day}, {hour}: the interval's start.",
    )
    time_column: NotEmpty | None = Field(
        None,
        description="Of the files: the timestamp or date that says to which interval a row belongs.",
    )
    format: Literal["parquet", "csv", "arrow"] | None = Field(
        None, description="What the files are, where their ending does not say it."
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="What parts the fields of a CSV; a comma if left out."
    )
    types: dict[str, Literal["integer", "text", "uuid", "date"]] = Field(
        default_factory=dict,
        description="What key columns are, where files do not say it: in a CSV, in folders.",
    )
    bounded: bool = Field(
        True,
        description="false: every interval deliberately gets the same rows: a query that binds neither "
        ":interval_start, :interval_end nor :date, a path without placeholder and time_column.",
    )

    @property
    def files_definition(self) -> dict[str, Any]:
        """What of it decides which rows of the files are read, and as what."""
        return {name: getattr(self, name) for name in ("path", *_OF_FILES)}

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        given = [name for name in ("query", "query_file", "path") if getattr(self, name) is not None]
        if len(given) != 1:
            both = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"give either query, query_file or path{both}")
        others = _OF_QUERIES if self.path is not None else _OF_FILES
        if foreign := [name for name in others if getattr(self, name)]:
            what = (
                "a query, and this is a path"
                if self.path is not None
                else "files (path), and this is a query"
            )
            raise ValueError(f"{foreign[0]} is for {what}")
        taken = {"interval_start", "interval_end", "date"} & set(self.params)
        if taken:
            raise ValueError(f"params: {', '.join(sorted(taken))} is the interval's own")
        return self
