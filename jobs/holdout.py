"""A holdout query, read once and scored by several models: what each of them is worth on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import JobError, ModelError
from jobs.evaluate import metrics_of
from jobs.jobspec.output import parse_output_ref
from jobs.model import ScoringPlan, check_columns
from storage.parameters import bind_named
from storage.query_source import QuerySource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jobs.model import Model
    from jobs.signature import Signature
    from jobs.transform import Transform
    from storage.database import Database

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Holdout:
    """Rows with their true values: the query, and its column that is the truth."""

    source: QuerySource
    label: str

    @classmethod
    def of(cls, path: Path, database: Database, label: str) -> Holdout:
        """Read the query of a file; it binds nothing. Raises JobError for a file that cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: the holdout query cannot be read: {error}") from None
        return cls(QuerySource(database, bind_named(text, {}, (), where=path.name), {}, path.name), label)


def score_output(signature: Signature, asked: str | None) -> str:
    """The output that is evaluated: the one asked for, else the probability of the second class, else the first."""
    if asked is not None:
        return asked
    for tensor in signature.outputs:
        if tensor.name in ("probabilities", "output_probability") and tensor.width == 2:
            return f"{tensor.name}[1]"
    found = next((t for t in signature.outputs if t.width == 1 and t.dtype.startswith("float")), None)
    found = found or signature.outputs[0]
    if found.rank == 2 and found.width != 1:
        raise ModelError(
            f"output {found.name!r} is a matrix; say which column is evaluated: --score {found.name}[0]"
        )
    return found.name


def evaluate(
    holdout: Holdout,
    models: Sequence[Model],
    *,
    score: str | None,
    features: Mapping[str, str | None],
    transform: Transform | None = None,
) -> list[dict[str, float]]:
    """Score every row with each model and compare with its label; a dict of metrics a model, `coverage` among them.

    Rows without a label are left out. Rows are read once, in batches; only scores and labels are kept. A transform
    is given every column but the label, as it would be in a run, which has none; rows that it leaves out have no
    prediction. Raises ModelError, TransformError and what reading raises.
    """
    described = holdout.source.describe()
    yielded = {column.name: column for column in described}
    if holdout.label not in yielded:
        raise JobError(
            f"{holdout.source.where}: the query yields no column {holdout.label!r} for the label; it yields "
            f"{', '.join(yielded)}"
        )
    plans = [_plan(model, score, features) for model in models]
    inputs = tuple(dict.fromkeys(feature.column for plan in plans for feature in plan.features))
    if transform is not None:
        transform.columns, inputs = inputs, tuple(name for name in yielded if name != holdout.label)
    wanted = {holdout.label, *inputs}
    if missing := sorted(wanted - set(yielded)):
        raise JobError(f"{holdout.source.where}: the query yields no column {', '.join(missing)}")
    reads = [column for column in described if column.name in wanted]
    if transform is not None and (other := [column for column in reads if column.arrow is None]):
        said = ", ".join(f"{column.name} ({column.type})" for column in other)
        raise JobError(f"{holdout.source.where}: transform {transform.name} cannot be given {said}; cast it")
    schema = pa.schema([(column.name, pa.type_for_alias(column.arrow)) for column in reads if column.arrow])
    for plan in plans if transform is None else ():
        check_columns(schema, plan.features)
    kept: list[list[tuple[Any, Any]]] = [[] for _ in models]
    rows = 0
    with holdout.source.read(reads) as batches:
        for batch in batches:
            labelled = batch.filter(batch.column(holdout.label).is_valid())
            rows += labelled.num_rows
            truth = labelled.column(holdout.label).to_numpy(zero_copy_only=False)
            made: pa.RecordBatch | pa.Table = labelled
            if transform is not None:
                made, places = transform.apply(pa.table(labelled).select(inputs))
                truth = truth[places]
            for i, (model, plan) in enumerate(zip(models, plans, strict=True)):
                scored = model.score(made, plan, _BATCH_ROWS)
                values = scored.columns.column(0).to_numpy(zero_copy_only=False)
                kept[i].append((values, truth[scored.rows]))
    return [_metrics(parts, rows, plan) for parts, plan in zip(kept, plans, strict=True)]


def _plan(model: Model, score: str | None, features: Mapping[str, str | None]) -> ScoringPlan:
    output = parse_output_ref(score_output(model.signature, score))
    return ScoringPlan(model.signature.columns(features), model.signature.output_columns({"score": output}))


def _metrics(parts: Sequence[tuple[Any, Any]], rows: int, plan: ScoringPlan) -> dict[str, float]:
    if not rows:
        raise JobError("the holdout query gave no row with a label")
    scores, truth = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    is_probability = "prob" in plan.outputs[0].output_name
    return {**metrics_of(scores, truth, is_probability=is_probability), "coverage": len(scores) / rows}
