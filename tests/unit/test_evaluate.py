"""Metrics against scikit-learn's own."""

import numpy as np
import pytest

from jobs.errors import ModelError
from jobs.evaluate import metrics_of

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_two_classes(digits):
    """AUC with few or many ties, log loss, Brier score and accuracy are scikit-learn's."""
    from sklearn import metrics

    truth = RANDOM.integers(0, 2, 999)
    scores = np.round(np.clip(truth * 0.2 + RANDOM.random(999) * 0.8, 0.05, 0.95), digits)
    found = metrics_of(scores, truth, is_probability=True)
    assert metrics.roc_auc_score(truth, scores) == pytest.approx(found["auc"])
    assert metrics.log_loss(truth, scores) == pytest.approx(found["logloss"])
    assert metrics.brier_score_loss(truth, scores) == pytest.approx(found["brier"])
    assert metrics.accuracy_score(truth, scores >= 0.5) == pytest.approx(found["accuracy"])


def test_numbers_and_labels():
    """RMSE, MAE and R² of numbers, accuracy of labels, are scikit-learn's."""
    from sklearn import metrics

    truth = RANDOM.normal(size=500)
    scores = truth + RANDOM.normal(size=500) / 3
    found = metrics_of(scores, truth, is_probability=False)
    assert metrics.root_mean_squared_error(truth, scores) == pytest.approx(found["rmse"])
    assert metrics.mean_absolute_error(truth, scores) == pytest.approx(found["mae"])
    assert metrics.r2_score(truth, scores) == pytest.approx(found["r2"])
    labels = np.array(["a", "b", "b"], dtype=object)
    assert {"accuracy": pytest.approx(2 / 3)} == metrics_of(
        labels, np.array(["a", "b", "a"]), is_probability=False
    )


def test_labels_that_are_no_classes():
    """A probability is held against 0 and 1 only."""
    with pytest.raises(ModelError, match="0 or 1"):
        metrics_of(np.array([0.1, 0.2]), np.array([1, 2]), is_probability=True)
