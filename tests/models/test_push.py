"""Estimators of every library, pushed from Python and run by a job: predictions are the library's own.

The libraries of the heavy tests are in an environment of their own: `make test-models`.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import batchpred
from jobs.convert.parity import ConversionDiffersError
from jobs.errors import ModelError
from jobs.signing import NotSignedError

NUMBERS = [f"n{i}" for i in range(6)]


def test_a_pipeline_with_text_columns(pushed_and_run, rows):
    """A scikit-learn pipeline of numbers, categories and free text is published as scikit-learn predicts it."""
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features = rows[[*NUMBERS[:2], "plan", "words"]]
    columns = ColumnTransformer(
        [("plan", OneHotEncoder(handle_unknown="ignore"), ["plan"]), ("words", TfidfVectorizer(), "words"),
         ("numbers", StandardScaler(), NUMBERS[:2])]
    )  # fmt: skip
    fitted = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(features, rows["kind"])
    outputs = {"kind": "label", "p0": "probabilities[0]", "p2": "probabilities[2]"}
    published, version, profile = pushed_and_run(fitted, features, outputs)
    assert ["n0", "n1", "plan", "words"] == [each["name"] for each in version.signature["inputs"]]
    np.testing.assert_allclose(fitted.predict_proba(features)[:, [0, 2]], published[["p0", "p2"]], atol=1e-5)
    assert list(fitted.predict(features)) == list(published["kind"])
    assert (2000, 10) == (profile["rows"], len(profile["features"]["n0"]["shares"]))
    assert {"basic", "plus", "pro"} == set(profile["features"]["plan"]["values"])
    assert "probabilities[2]" in profile["outputs"]


def test_a_wrong_conversion_is_refused(rows, database, monkeypatch):
    """A forest behind a float64 scaler, scored in float32, is refused with the rows that differ."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
    random = np.random.default_rng(1)
    features = pd.DataFrame({name: random.normal(1e4, 3, 3_000) for name in NUMBERS[:3]})
    target = features.sum(axis=1) + random.normal(size=len(features))
    fitted = make_pipeline(
        StandardScaler(), RandomForestRegressor(n_estimators=5, random_state=0, n_jobs=2)
    ).fit(features, target)
    with pytest.raises(ConversionDiffersError, match=r"differs from the estimator in \d+ of 3000") as refused:
        batchpred.push(fitted, "forest", features)
    assert "\nrow " in str(refused.value)
    assert "float_dtype='float64'" in str(refused.value)
    with database.connect(purpose="test") as connection:
        assert [] == connection.execute("SELECT version FROM batchpred.model_versions").fetchall()
    assert 1 == batchpred.push(fitted, "forest", features, float_dtype="float64").version


def test_what_cannot_be_pushed_says_so(rows, database, monkeypatch):
    """Another object, too few rows, a date column, a mixed matrix: one line each, and nothing is stored."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
    fitted = LogisticRegression(max_iter=500).fit(rows[NUMBERS], rows["kind"])
    dates = rows[NUMBERS].assign(at=pd.Timestamp("2026-01-01"))
    for estimator, sample, options, says in (
        (object(), rows, {}, "cannot be pushed from Python"),
        (fitted, rows[NUMBERS][:10], {}, "X_sample has 10 rows"),
        (fitted, dates, {}, "column 'at' of X_sample is timestamp"),
        (fitted, rows[[*NUMBERS, "plan"]], {}, "columns plan are text"),
        (fitted, rows[NUMBERS].to_numpy(), {"columns": ["a"]}, "gives 1 names for the 6 columns"),
        (fitted, rows[NUMBERS], {"dtypes": {"nope": "int64"}}, "dtypes names 'nope'"),
        (fitted, rows[NUMBERS[:3]], {}, "LogisticRegression cannot predict X_sample: The feature names"),
    ):
        with pytest.raises(ModelError, match=says):
            batchpred.push(estimator, "m", sample, **options)
    with database.connect(purpose="test") as connection:
        assert [] == connection.execute("SELECT version FROM batchpred.model_versions").fetchall()


def test_no_alias_without_the_signature_a_project_asks_for(rows, database, tmp_path, monkeypatch):
    """What is converted here cannot be signed yet: it is stored without an alias, and refused with one."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels: {m: {signed_by: release.pem}}\n")
    fitted = LogisticRegression(max_iter=500).fit(rows[NUMBERS], rows["kind"])
    with pytest.raises(NotSignedError, match="push it without an alias, sign what"):
        batchpred.push(fitted, "m", rows[NUMBERS], alias="champion")
    version = batchpred.push(fitted, "m", rows[NUMBERS])
    assert (1, []) == (version.version, version.aliases)


def test_importing_batchpred_is_light():
    """`import batchpred` loads no numpy, no ONNX Runtime and no database driver."""
    heavy = "{'numpy', 'onnxruntime', 'psycopg', 'pyarrow', 'sklearn', 'torch'}"
    code = f"import sys, batchpred; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
