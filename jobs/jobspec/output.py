"""What is kept of a model's outputs, and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jobs.errors import JobFileError
from jobs.jobspec.values import ColumnName, Duration, Strict


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


def _output_ref(text: str) -> str:
    try:
        parse_output_ref(text)
    except JobFileError as error:
        raise ValueError(str(error)) from None
    return text


class Output(Strict):
    """What is kept of the model's outputs, and what readers see as current."""

    columns: dict[ColumnName, Annotated[str, AfterValidator(_output_ref)]] = Field(
        min_length=1,
        description="Column in PostgreSQL: model output NAME, or one element of it, NAME[INDEX].",
    )
    mode: Literal["snapshot", "incremental"] = Field(
        "snapshot",
        description="snapshot: current is the newest interval's run; incremental: each key's newest row.",
    )


class Retention(Strict):
    """How long published predictions are kept after their interval; `batchpred gc` drops older ones."""

    predictions: Duration
