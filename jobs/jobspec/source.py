"""Where a job's rows come from."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, model_validator

from jobs.jobspec.values import NotEmpty, Strict, not_empty


def _secret_not_empty(value: SecretStr) -> SecretStr:
    # An empty address would be libpq's default: some other database than the one meant.
    not_empty(value.get_secret_value())
    return value


def _parameter_value(value: Any) -> Any:
    # A moment without an offset would be read in whatever zone the session has.
    if isinstance(value, datetime) or not isinstance(value, (str, int, float, bool, date, type(None))):
        raise ValueError("a parameter's value is text, a number, true, false, a date or null")  # noqa: TRY004  # pydantic reports ValueErrors alone
    return value


class Source(Strict):
    """Where the rows come from: one SELECT in PostgreSQL."""

    query: NotEmpty | None = Field(None, description="The query itself; or query_file.")
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
