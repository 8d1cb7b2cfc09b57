"""Whether a converted model says what its estimator says: both score the sample, row by row.

The ONNX side is scored as a run would score it, through jobs.model. A prediction may differ by `tolerance` times
the spread of the estimator's predictions: 1 for probabilities, their standard deviation for other numbers, beside
what float32 rounds away. Not their mean: prices of 30,000 that differ by 10 would hide an error of 3. A label may
differ only where the two most probable classes are that close to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.convert import kind_of
from jobs.errors import ModelError
from jobs.model import Model, ScoringPlan
from jobs.signature import OutputColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from jobs.convert.sample import Sample
    from jobs.signature import Tensor

TOLERANCE = 1e-4
_SHOWN = 5
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of the largest prediction: a sum of trees in float32
_BATCH_ROWS = 4096


class ConversionDiffersError(ModelError):
    """The ONNX model does not say what the estimator says; the message shows the rows that differ most."""


@dataclass(frozen=True)
class Parity:
    """What was found: rows compared, the largest difference of each output, and the model's scores by column."""

    rows: int
    largest: dict[str, float]
    scores: dict[str, NDArray[Any]]
    notes: tuple[str, ...]


def expected(estimator: Any, sample: Sample) -> dict[str, NDArray[Any]]:
    """The estimator's own predictions on the sample, by the name of the ONNX output: [N] or [N, C].

    Raises ModelError, in the estimator's words where it cannot predict them.
    """
    try:
        return _expected(estimator, sample)
    except ModelError:
        raise
    except Exception as error:  # whatever the library raises
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{type(estimator).__name__} cannot predict X_sample: {said[:300]}") from error


def _expected(estimator: Any, sample: Sample) -> dict[str, NDArray[Any]]:
    kind = kind_of(estimator)
    if kind == "torch":
        return _of_module(estimator, sample)
    if type(estimator).__name__ == "Booster":
        return _of_booster(estimator, sample, kind)
    rows = sample.given
    if hasattr(estimator, "predict_proba"):
        labels, probabilities = estimator.predict(rows), estimator.predict_proba(rows)
        return {
            "label": np.asarray(labels).reshape(len(sample.table)),
            "probabilities": np.asarray(probabilities),
        }
    if hasattr(estimator, "predict"):
        predicted = np.asarray(estimator.predict(rows))
        is_regressor = predicted.dtype.kind == "f"
        return {"prediction" if is_regressor else "label": predicted}
    if hasattr(estimator, "transform"):
        transformed = estimator.transform(rows)
        return {
            "prediction": np.asarray(
                transformed.todense() if hasattr(transformed, "todense") else transformed
            )
        }
    raise ModelError(f"{type(estimator).__name__} has no predict and no transform to compare with")


def compare(
    model: Model, sample: Sample, wanted: Mapping[str, NDArray[Any]], *, tolerance: float = TOLERANCE
) -> Parity:
    """Score the sample with the ONNX model and hold it against the estimator's predictions.

    Raises ConversionDiffersError, also where the model scores fewer rows than the estimator.
    """
    outputs = {tensor.name: tensor for tensor in model.signature.outputs}
    compared = [name for name in wanted if name in outputs]
    if not compared:
        raise ModelError(
            f"the converted model's outputs ({', '.join(outputs)}) are none of the estimator's "
            f"({', '.join(wanted)})"
        )
    columns = [column for name in compared for column in _columns(outputs[name], wanted[name])]
    plan = ScoringPlan(model.signature.columns({}), tuple(columns))
    scored = model.score(sample.table, plan, _BATCH_ROWS)
    if scored.quarantined:
        first = scored.quarantined[0]
        raise ConversionDiffersError(
            f"the ONNX model cannot score {len(scored.quarantined)} of {len(sample.table)} sample rows that the "
            f"estimator scores; row {first.row}: {first.reason}"
        )
    scores = {
        name: scored.columns.column(i).to_numpy(zero_copy_only=False)
        for i, name in enumerate(column.column for column in columns)
    }
    largest, worst, bad = {}, [], np.zeros(len(sample.table), dtype=bool)
    for name in compared:
        ours = [scores[column.column] for column in columns if column.output_name == name]
        difference, allowed = _difference(name, wanted, np.column_stack(ours), tolerance)
        largest[name] = float(difference.max(initial=0.0))
        bad |= difference > allowed
        worst.append((name, difference, allowed, np.column_stack(ours)))
    if bad.any():
        raise ConversionDiffersError(_told(wanted, worst, bad))
    notes = [f"output {name} was not compared" for name in outputs if name not in compared]
    return Parity(len(sample.table), largest, scores, tuple(notes))


def _columns(tensor: Tensor, wanted: NDArray[Any]) -> list[OutputColumn]:
    if wanted.ndim == 1 or wanted.shape[1] == 1:
        index = 0 if tensor.rank == 2 and tensor.width != 1 else None
        return [OutputColumn(tensor.name, tensor.name, index, tensor.dtype)]
    return [OutputColumn(f"{tensor.name}[{i}]", tensor.name, i, tensor.dtype) for i in range(wanted.shape[1])]


def _difference(
    name: str, wanted: Mapping[str, NDArray[Any]], ours: NDArray[Any], tolerance: float
) -> tuple[NDArray[Any], float]:
    """The difference of each row, and how much is allowed; labels differ by 0 or, where that matters, by 1."""
    theirs = wanted[name].reshape(len(ours), -1)
    if name == "label" or theirs.dtype.kind not in "fiu" or ours.dtype.kind not in "fiu":
        differs = np.any(ours.astype(str) != _plain(theirs).astype(str), axis=1)
        if "probabilities" in wanted and wanted["probabilities"].shape[1] > 1:
            top = np.sort(wanted["probabilities"], axis=1)
            differs &= top[:, -1] - top[:, -2] > 2 * tolerance
        return differs.astype(float), 0.0
    finite = theirs[np.isfinite(theirs)].astype(float)
    spread = 1.0 if name == "probabilities" else float(finite.std() or np.abs(finite).mean() or 1.0)
    rounding = _ROUNDING * float(np.abs(finite).max(initial=0.0))
    both_nan = np.isnan(theirs) & np.isnan(ours)
    gap = np.where(both_nan, 0.0, np.abs(ours.astype(float) - theirs.astype(float)))
    return np.nan_to_num(gap, nan=np.inf).max(axis=1), tolerance * spread + rounding


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    # A whole number is a label of 1, not of 1.0.
    is_whole = labels.dtype.kind == "f" and bool(np.all(labels == np.trunc(labels)))
    return labels.astype(np.int64) if is_whole or labels.dtype.kind == "b" else labels


def _told(
    wanted: Mapping[str, NDArray[Any]],
    worst: list[tuple[str, NDArray[Any], float, NDArray[Any]]],
    bad: NDArray[np.bool_],
) -> str:
    lines = [_summary(int(bad.sum()), len(bad))]
    for name, difference, allowed, ours in worst:
        order = np.argsort(-difference, kind="stable")[:_SHOWN]
        for row in order[difference[order] > allowed]:
            theirs = np.atleast_1d(wanted[name][row])
            at = (
                int(np.argmax(np.abs(ours[row].astype(float) - theirs.astype(float))))
                if _is_number(theirs)
                else 0
            )
            by = f" (by {difference[row]:.4g}, allowed {allowed:.2g})" if _is_number(theirs) else ""
            lines.append(f"row {row}: {name} is {theirs[at]} and ONNX says {ours[row][at]}{by}")
    return "\n".join(lines)


def _summary(bad: int, rows: int) -> str:
    return (
        f"the ONNX model differs from the estimator in {bad} of {rows} sample rows and was not pushed; what helps: "
        "float_dtype='float64' where scaling or thresholds need it, or the estimator trained on float32"
    )


def _is_number(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "fiu"


def _of_module(module: Any, sample: Sample) -> dict[str, NDArray[Any]]:
    import torch

    from jobs.convert.pytorch import tensor_dtype

    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            returned = module(torch.from_numpy(sample.matrix(tensor_dtype(sample))))
    finally:
        module.train(was_training)
    if not hasattr(returned, "numpy"):
        raise ModelError("the module returns no tensor; wrap it in one that returns [N] or [N, C]")
    return {"prediction": returned.numpy()}


def _of_booster(booster: Any, sample: Sample, kind: str) -> dict[str, NDArray[Any]]:
    if kind == "xgboost":
        import xgboost

        rows = sample.given if hasattr(sample.given, "columns") else sample.matrix("float32")
        predicted = np.asarray(booster.predict(xgboost.DMatrix(rows)))
        objective = str(booster.save_config())
        is_binary = '"binary:' in objective
    else:
        predicted = np.asarray(booster.predict(sample.given))
        is_binary = str(booster.params.get("objective", "")) in {"binary", "cross_entropy"}
    if is_binary:
        return {"probabilities": np.column_stack([1 - predicted, predicted])}
    return {"probabilities" if predicted.ndim == 2 else "prediction": predicted}
