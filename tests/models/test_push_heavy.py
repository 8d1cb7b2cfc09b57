"""LightGBM, XGBoost, CatBoost and PyTorch, pushed from Python and run by a job: the library's own predictions."""

import pytest

pytest.importorskip("catboost", reason="the libraries weigh gigabytes: make test-models")
pytest.importorskip("lightgbm", reason="the libraries weigh gigabytes: make test-models")
pytest.importorskip("torch", reason="the libraries weigh gigabytes: make test-models")
pytest.importorskip("xgboost", reason="the libraries weigh gigabytes: make test-models")

import lightgbm
import numpy as np
import torch
import xgboost
from catboost import CatBoostClassifier, CatBoostRegressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

NUMBERS = [f"n{i}" for i in range(6)]
CLASSES = {"p0": "probabilities[0]", "p1": "probabilities[1]", "kind": "label"}


def make(kind, what):
    """An estimator of a library, unfitted."""
    options = {"n_estimators": 40, "random_state": 0}
    return {
        ("lightgbm", "classes"): lambda: lightgbm.LGBMClassifier(**options, verbose=-1),
        ("lightgbm", "numbers"): lambda: lightgbm.LGBMRegressor(**options, verbose=-1),
        ("xgboost", "classes"): lambda: xgboost.XGBClassifier(**options),
        ("xgboost", "numbers"): lambda: xgboost.XGBRegressor(**options),
        ("catboost", "classes"): lambda: CatBoostClassifier(
            iterations=40, verbose=0, allow_writing_files=False
        ),
        ("catboost", "numbers"): lambda: CatBoostRegressor(
            iterations=40, verbose=0, allow_writing_files=False
        ),
    }[kind, what]()


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost", "catboost"])
@pytest.mark.parametrize("classes", [2, 3])
def test_classifiers(pushed_and_run, rows, kind, classes):
    """Two classes or three, with NULL among the numbers: probabilities and labels are the library's."""
    features = rows[NUMBERS].copy()
    features.loc[::7, "n5"] = np.nan
    target = np.minimum(rows["kind"], classes - 1)
    fitted = make(kind, "classes").fit(features, target)
    published, version, _ = pushed_and_run(fitted, features, CLASSES)
    np.testing.assert_allclose(fitted.predict_proba(features)[:, :2], published[["p0", "p1"]], atol=1e-5)
    assert list(np.ravel(fitted.predict(features))) == list(published["kind"])
    assert NUMBERS == [each["name"] for each in version.signature["inputs"]]


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost", "catboost"])
def test_regressors(pushed_and_run, rows, kind):
    """Numbers are the library's."""
    fitted = make(kind, "numbers").fit(rows[NUMBERS], rows["amount"])
    published, _, profile = pushed_and_run(fitted, rows[NUMBERS], {"amount": "prediction"})
    np.testing.assert_allclose(fitted.predict(rows[NUMBERS]), published["amount"], rtol=1e-4, atol=1e-4)
    assert 10 == len(profile["outputs"]["prediction"]["shares"])


def test_boosters_without_a_wrapper(pushed_and_run, rows):
    """A LightGBM Booster trained by its own API gives its probabilities."""
    data = lightgbm.Dataset(rows[NUMBERS], label=(rows["kind"] > 0).astype(int))
    fitted = lightgbm.train({"objective": "binary", "verbose": -1}, data, 30)
    published, _, _ = pushed_and_run(fitted, rows[NUMBERS], {"p1": "probabilities[1]"})
    np.testing.assert_allclose(fitted.predict(rows[NUMBERS]), published["p1"], atol=1e-5)


def test_an_xgboost_booster(pushed_and_run, rows):
    """An XGBoost Booster trained by its own API gives its predictions."""
    fitted = xgboost.train({"max_depth": 4}, xgboost.DMatrix(rows[NUMBERS], label=rows["amount"]), 30)
    published, _, _ = pushed_and_run(fitted, rows[NUMBERS], {"amount": "prediction"})
    expected = fitted.predict(xgboost.DMatrix(rows[NUMBERS]))
    np.testing.assert_allclose(expected, published["amount"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_a_booster_at_the_end_of_a_pipeline(pushed_and_run, rows, kind):
    """Text columns encoded in a pipeline that ends in a booster: one input per column, text among them."""
    features = rows[["plan", *NUMBERS[:2]]]
    encode = ColumnTransformer(
        [("plan", OneHotEncoder(sparse_output=False), ["plan"])], remainder="passthrough"
    )
    fitted = make_pipeline(encode, make(kind, "numbers")).fit(features, rows["amount"])
    published, _, _ = pushed_and_run(fitted, features, {"amount": "prediction"})
    np.testing.assert_allclose(fitted.predict(features), published["amount"], rtol=1e-4, atol=1e-4)


def test_a_pytorch_mlp(pushed_and_run, rows):
    """A PyTorch MLP with dropout and batch normalisation is scored as in evaluation mode."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.5),
        torch.nn.Linear(32, 2), torch.nn.Softmax(dim=1),
    )  # fmt: skip
    matrix = rows[NUMBERS].to_numpy(copy=True)
    published, version, _ = pushed_and_run(module, matrix, {"a": "prediction[0]", "b": "prediction[1]"})
    assert module.training
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(expected, published[["a", "b"]], atol=1e-5)
    assert [f"x{i}" for i in range(6)] == [each["name"] for each in version.signature["inputs"]]
