"""The trained model as a Python user has it: LightGBM's own file, or scikit-learn rebuilt from its numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightgbm import Booster
    from sklearn.linear_model import LogisticRegression

FOLDER = Path(os.environ["BENCH_FOLDER"])
FEATURES = [f"f{n}" for n in range(20)]


def booster() -> Booster:
    """The LightGBM regression."""
    import lightgbm

    return lightgbm.Booster(model_file=str(FOLDER / "lightgbm.txt"))


def logistic() -> LogisticRegression:
    """The logistic regression; without a pickle."""
    from sklearn.linear_model import LogisticRegression

    numbers = np.load(FOLDER / "logistic.npz")
    model = LogisticRegression()
    model.coef_, model.intercept_, model.classes_ = numbers["coef"], numbers["intercept"], np.array([0, 1])
    return model


def load() -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a float matrix [N, 20] to scores [N]."""
    if os.environ["BENCH_MODEL"] == "lightgbm":
        return booster().predict
    model = logistic()
    return lambda rows: model.predict_proba(rows)[:, 1]
