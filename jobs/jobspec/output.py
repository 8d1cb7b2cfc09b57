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
    """A model output, element `index` (from 0) of each of its rows, or with `is_vector` its rows whole."""

    name: str
    index: int | None
    is_vector: bool = False


def parse_output_ref(text: str) -> OutputRef:
    """Parse `label`, `probabilities[1]` or `embedding[:]`. Raises JobFileError."""
    found = re.fullmatch(r"([^\[\]\s](?:[^\[\]]*[^\[\]\s])?)(?:\[([0-9]{1,6}|:)\])?", text)
    if not found:
        raise JobFileError(
            f"{text!r} is no model output; write its name, NAME[INDEX] for one element, or NAME[:] for all of them"
        )
    name, index = found.groups()
    return OutputRef(name, int(index) if index and index != ":" else None, index == ":")


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
        description="Column in PostgreSQL: model output NAME, one element of it, NAME[INDEX], or a whole vector, "
        "NAME[:].",
    )
    mode: Literal["snapshot", "incremental"] = Field(
        "snapshot",
        description="snapshot: current is the newest interval's run; incremental: each key's newest row.",
    )


class Retention(Strict):
    """How long published predictions are kept after their interval; `batchpred gc` drops older ones."""

    predictions: Duration
