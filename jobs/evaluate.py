"""How good predictions are: metrics of scores against the truth, in numpy.

two classes   auc (ties count half), logloss, brier, accuracy at 0.5
numbers       rmse, mae, r2
labels        accuracy
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-15


def metrics_of(scores: NDArray[Any], truth: NDArray[Any], *, is_probability: bool) -> dict[str, float]:
    """Metrics of [N] scores against [N] true values; two classes are written 0 and 1, or false and true.

    Raises ModelError where there is nothing to compare, or a class is missing.
    """
    if not len(scores):
        raise ModelError("no row was scored and has a label: nothing can be evaluated")
    if truth.dtype.kind in "OUS" or scores.dtype.kind in "OUS":
        return {"accuracy": float(np.mean(scores.astype(str) == truth.astype(str)))}
    actual = truth.astype(np.float64)
    if is_probability:
        if not np.isin(actual, (0.0, 1.0)).all():
            raise ModelError("the label of a probability is 0 or 1, and there are others")
        return _of_classes(scores.astype(np.float64), actual)
    if scores.dtype.kind in "iub":
        return {"accuracy": float(np.mean(scores.astype(np.float64) == actual))}
    error = scores.astype(np.float64) - actual
    spread = float(np.sum((actual - actual.mean()) ** 2))
    squared = float(np.sum(error**2))
    found = {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}
    return {**found, "r2": 1 - squared / spread} if spread else found


def auc(scores: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """The probability that a random positive scores above a random negative: Mann and Whitney's U by ranks."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]
    positives = actual.sum()
    negatives = len(actual) - positives
    return float((ranks[actual == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _of_classes(scores: NDArray[np.float64], actual: NDArray[np.float64]) -> dict[str, float]:
    if actual.min() == actual.max():
        raise ModelError(f"every row has the label {actual[0]:g}; nothing can be told apart")
    clipped = np.clip(scores, _TINY, 1 - _TINY)
    return {
        "auc": auc(scores, actual),
        "logloss": float(-np.mean(actual * np.log(clipped) + (1 - actual) * np.log(1 - clipped))),
        "brier": float(np.mean((scores - actual) ** 2)),
        "accuracy": float(np.mean((scores >= 0.5) == (actual == 1))),
    }
