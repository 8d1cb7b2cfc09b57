"""What is told of two models' scores of the same rows: how far they agree, and on which rows they do not.

For each floating-point output: how far scores differ, whether they put rows in the same order (Spearman's rank
correlation, ties sharing their mean rank), how many rows change their decile, which keys move most, and the spread
of each model's scores. Deciles are those of each model's own scores, 0 the lowest. Other outputs are compared for
being equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.evaluate import metrics_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOVED = 10  # keys that are named
_ONCE = 1e-6  # scores of [0, 1] that differ by less are the same to whoever acts on them
_BARS = 40


@dataclass
class Comparison:
    """What two models say of the same rows: counts, each output's figures, and the decile tables by output.

    `metrics` are by output and model, and `changes` by output: how much more the second model has. `runs` are the
    run and its shadow where nothing was scored for this.
    """

    job: str
    interval: str
    models: tuple[str, str]
    rows: int = 0
    scored: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    changes: dict[str, dict[str, float]] = field(default_factory=dict)
    runs: tuple[int, int] | None = None

    def add_metrics(self, output: str, old: NDArray[Any], new: NDArray[Any], actual: NDArray[Any]) -> None:
        """Hold both models' scores [N] of an output against the truth [N], which has no gaps.

        Raises ModelError.
        """
        is_probability = bool(np.isin(actual, (0, 1)).all())
        pair = [metrics_of(scores, actual, is_probability=is_probability) for scores in (old, new)]
        for name, found in zip(self.models, pair, strict=True):
            self.metrics[f"{output} by {name}"] = found
        self.changes[output] = {name: pair[1][name] - value for name, value in pair[0].items()}


def of_scores(old: NDArray[np.float64], new: NDArray[np.float64]) -> dict[str, Any]:
    """Figures of two scores [N] of the same rows; `deciles[i][j]` counts rows that went from decile i to j."""
    change = np.abs(new - old)
    deciles = np.zeros((10, 10), dtype=np.int64)
    places = _decile(old), _decile(new)
    np.add.at(deciles, places, 1)
    return {
        "same": float(np.mean(change <= _ONCE)),
        "mean_change": float(change.mean()),
        "largest_change": float(change.max()),
        "rank_correlation": rank_correlation(old, new),
        "changed_decile": float(np.mean(places[0] != places[1])),
        "moved_two_or_more": float(np.mean(np.abs(places[0] - places[1]) >= 2)),
        "deciles": deciles.tolist(),
        "spread": _spread(old, new),
    }


def _spread(old: NDArray[np.float64], new: NDArray[np.float64]) -> dict[str, list[float]]:
    """Count both models' scores in bars of one width: `edges` [bars + 1], `old` and `new` [bars]."""
    low, high = min(old.min(), new.min()), max(old.max(), new.max())
    edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    counts = [np.histogram(scores, edges)[0].tolist() for scores in (old, new)]
    return {"edges": edges.tolist(), "old": counts[0], "new": counts[1]}


def rank_correlation(old: NDArray[np.float64], new: NDArray[np.float64]) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, ties sharing their mean; None where a score is constant."""
    ranks = _ranks(old), _ranks(new)
    spreads = [float(each.std()) for each in ranks]
    if not all(spreads):
        return None
    mean = float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())))
    return mean / (spreads[0] * spreads[1])


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _decile(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    # By rank, so that ties stay together and each decile has a tenth where there are none.
    share = (_ranks(scores) - 0.5) / len(scores)
    return np.minimum((share * 10).astype(np.int64), 9)
