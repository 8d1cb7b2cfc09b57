"""What must hold before a run is published."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from jobs.jobspec.values import NotEmpty, Share, Strict


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ValueError(
            f"{name!r} cannot name a check: a lower-case letter, then up to 62 of a-z, 0-9 and _"
        )
    return name


class Checks(Strict):
    """What must hold before a run is published."""

    min_rows: int = Field(1, ge=0, description="Predictions a run must have.")
    max_rows_change: float | None = Field(None, gt=0, description="Largest change of the count, as a share.")
    max_null_rate: Share | None = Field(None, description="Largest share of NULL in any output column.")
    score_range: list[float] | None = Field(
        None, min_length=2, max_length=2, description="[low, high] for every floating-point output."
    )
    max_quarantined: Share = Field(0.01, description="Largest share of rows that may be in quarantine.")
    sql: dict[Annotated[str, AfterValidator(_check_name)], NotEmpty] = Field(
        default_factory=dict,
        description="Queries by name over the run (`staged`, and `before` for what readers see); each must find "
        "no rows.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Checks:
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range: the low end comes first")
        return self


class Drift(Strict):
    """How far features and scores may lie from the reference profile of the model version."""

    metric: Literal["psi"] = Field("psi", description="The population stability index.")
    warn: float = Field(0.1, gt=0, description="A column beyond it is a warning of the run.")
    alert: float = Field(
        0.25, gt=0, description="A column beyond it is an alert: `on_alert` says what follows."
    )
    on_alert: Literal["warn", "block"] = Field(
        "warn",
        description="warn: the run is published and says so; block: it is blocked as by a failed check.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Drift:
        if self.warn > self.alert:
            raise ValueError("warn is above alert; it comes first")
        return self
