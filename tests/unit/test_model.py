"""A loaded model: its signature against a job's columns, and real models beside their libraries."""

from __future__ import annotations

import decimal
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from onnx import TensorProto

from jobs.errors import ModelDamagedError, ModelError
from jobs.model import Model, check_columns
from jobs.signature import FeatureColumn, OutputColumn, Signature, Tensor
from tests.unit import onnx_models as models
from tests.unit.scoring import MATRIX, Ref, identity, load, plan_of, score, taxi_rides

# Loading


def test_flipped_bit():
    """One flipped bit is noticed before the bytes are used, and both digests are named."""
    data = models.matrix(zipmap=False)[1]
    digest = hashlib.sha256(data).hexdigest()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(ModelDamagedError) as raised:
        Model.load(bytes(flipped), sha256=digest, name="churn/3")
    for part in ("churn/3", digest, hashlib.sha256(flipped).hexdigest(), "was not used"):
        assert part in str(raised.value)


def test_not_onnx():
    """Bytes that are no model are refused, even under the right digest."""
    with pytest.raises(ModelError, match="cannot load the model"):
        load(b"hello")


def test_provider():
    """The model runs where it was asked to run, and says so."""
    assert load(identity(models.FLOAT)).provider == "CPUExecutionProvider"


def test_another_provider(monkeypatch):
    """A provider other than the one asked for is an error, never a silent fallback."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["AzureExecutionProvider"])
    with pytest.raises(ModelError, match="asked ONNX Runtime for CPUExecutionProvider and got Azure"):
        load(identity(models.FLOAT))


# Signatures


def test_signature_json():
    """A signature survives JSON."""
    signature = Signature(
        (Tensor("X", "float32", None, 2), Tensor("s", "string", 1, 1)),
        (Tensor("p", "float32", 2, 2, ("no", "yes")),),
    )
    assert signature == Signature.from_json(json.loads(json.dumps(signature.to_json())))


def test_matrix_columns():
    """A matrix input takes the features in the order the job gives."""
    signature = load(models.matrix(zipmap=False)[1]).signature
    expected = tuple(FeatureColumn(c, "X", "float32", i, 4, 2) for i, c in enumerate("abcd"))
    assert expected == signature.columns(MATRIX)


def test_named_columns():
    """Inputs with names are the columns, in the model's order."""
    signature = load(models.pipeline()[1]).signature
    expected = (
        FeatureColumn("fare", "fare", "float32", 0, 1, 2),
        FeatureColumn("distance", "distance", "float32", 0, 1, 2),
        FeatureColumn("payment", "payment", "string", 0, 1, 2),
    )
    assert expected == signature.columns({})
    assert expected == signature.columns({"payment": "string", "fare": None, "distance": "float32"})


def test_free_width():
    """A matrix input of free width takes as many features as the job lists."""
    signature = load(identity(models.FLOAT, ["N", "F"])).signature
    assert [column.width for column in signature.columns({"a": None, "b": None})] == [2, 2]


@pytest.mark.parametrize(
    ("data", "features", "says"),
    [
        ("matrix", {}, "'X' takes 4 columns and does not name them; list them under `features`"),
        ("matrix", {"a": None}, "'X' takes 4 columns, but `features` lists 1"),
        (
            "matrix",
            MATRIX | {"c": "float64"},
            "'c' is declared float64, but the model's input 'X' is float32",
        ),
        ("pipeline", {"fares": None}, "feature 'fares' is no input of the model; did you mean 'fare'?"),
        ("pipeline", {"fare": None, "payment": None}, "input 'distance' is missing from the job's features"),
        (
            "pipeline",
            {"fare": None, "distance": None, "payment": "float32"},
            "'payment' is declared float32, but the model's input 'payment' is string",
        ),
    ],
)
def test_columns_refused(data, features, says):
    """Features that do not fit the inputs are refused with both sides named."""
    known = {"matrix": models.matrix(zipmap=False)[1], "pipeline": models.pipeline()[1]}
    with pytest.raises(ModelError) as raised:
        load(known[data]).signature.columns(features)
    assert says in str(raised.value)


SIGNATURE = Signature(
    (Tensor("X", "float32", 2, 2),),
    (
        Tensor("label", "int64", 1, 1),
        Tensor("proba", "float32", 2, 2, ("no", "yes")),
        Tensor("one", "float32", 1, 2),
        Tensor("free", "float32", None, 2),
        Tensor("many", "float32", 1000, 2),
        Tensor("unknown", "float32", None, 0),
        Tensor("cube", "float32", None, 3),
    ),
)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (Ref("label"), OutputColumn("c", "label", None, "int64")),
        (Ref("label", 0), OutputColumn("c", "label", 0, "int64")),
        (Ref("proba", 1), OutputColumn("c", "proba", 1, "float32")),
        (Ref("one"), OutputColumn("c", "one", None, "float32")),
        (Ref("free", 9), OutputColumn("c", "free", 9, "float32")),
        (Ref("unknown"), OutputColumn("c", "unknown", None, "float32")),
        (Ref("proba", None, is_vector=True), OutputColumn("c", "proba", None, "float32", True, 2)),
    ],
)
def test_output_columns(ref, expected):
    """An output of one column is kept by its name, and one of several by its index."""
    assert (expected,) == SIGNATURE.output_columns({"c": ref})


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (Ref("probas", 1), "the model has no output 'probas'; did you mean 'proba'?"),
        (Ref("proba"), "is a matrix; choose one column: proba[0] ('no'), proba[1] ('yes')"),
        (Ref("proba"), "; or keep it whole, as a vector: proba[:]"),
        (Ref("label", None, is_vector=True), "is int64 of 1 dimension(s); whole vectors are kept of numbers"),
        (Ref("proba", 2), "'proba' has no column 2; there is proba[0] ('no'), proba[1] ('yes')"),
        (Ref("proba", -1), "has no column -1"),
        (Ref("label", 1), "'label' has no column 1; there is label[0]"),
        (Ref("free"), "the model does not say how many"),
        (Ref("many"), "many[9], … many[999]"),
        (Ref("cube"), "has 3 dimensions"),
    ],
)
def test_output_columns_refused(ref, says):
    """An output that is not there, or not one column, is refused with what there is."""
    with pytest.raises(ModelError) as raised:
        SIGNATURE.output_columns({"c": ref})
    assert says in str(raised.value)


def test_check_columns():
    """Every column that does not fit is listed at once, before a row is read."""
    columns = load(models.pipeline()[1]).signature.columns({})
    schema = pa.schema([("fares", pa.float32()), ("distance", pa.string()), ("payment", pa.int64())])
    with pytest.raises(ModelError) as raised:
        check_columns(schema, columns)
    expected = (
        "the source's columns do not fit the model: 'fare' is missing (did you mean 'fares'?); "
        "'distance' is string and the model takes float32; 'payment' is int64 and the model takes string"
    )
    assert expected == str(raised.value)


def test_check_columns_twice():
    """A column name that the source has twice is refused."""
    columns = load(identity(models.FLOAT)).signature.columns({})
    with pytest.raises(ModelError, match="'x' is there 2 times"):
        check_columns(pa.schema([("x", pa.float32()), ("x", pa.float32())]), columns)


# Scoring real models


def test_pipeline_agrees():
    """A pipeline over text and numbers gives scikit-learn's own probabilities."""
    fitted, data = models.pipeline()
    rides = taxi_rides()
    scored = score(
        data, rides.combine_chunks().to_batches()[0], batch_size=1000, p=("probabilities", 1), label="label"
    )
    expected = fitted.predict_proba(rides.to_pandas())[:, 1]
    np.testing.assert_allclose(scored.columns["p"].to_numpy(), expected, atol=1e-5)
    assert scored.columns.schema == pa.schema([("p", pa.float32()), ("label", pa.int64())])
    assert scored.rows.tolist() == list(range(5000))
    assert scored.quarantined == []


@pytest.mark.parametrize("batch_size", [1, 7, 1000, 4096, 65536])
def test_batch_size(batch_size):
    """Predictions and quarantine do not depend on the batch size, nor on how the table is cut."""
    data = models.pipeline()[1]
    rides = taxi_rides().to_pandas().assign(payment=lambda t: t["payment"].where(t["ride"] % 97 != 3))
    rides = pa.Table.from_pandas(rides, preserve_index=False)
    whole = pa.concat_tables([rides.slice(0, 1234), rides.slice(1234)])
    model = load(data)
    plan = plan_of(model, p=("probabilities", 1), label="label")
    expected = model.score(rides, plan, 500)
    scored = model.score(whole, plan, batch_size)
    np.testing.assert_allclose(scored.columns["p"].to_numpy(), expected.columns["p"].to_numpy(), atol=1e-6)
    assert scored.columns["label"].equals(expected.columns["label"])
    assert scored.rows.tolist() == expected.rows.tolist()
    assert scored.quarantined == expected.quarantined
    assert len(scored.quarantined) == 52


@pytest.mark.parametrize("labels", ["int", "str"])
def test_matrix_agrees(labels):
    """A matrix model is fed its columns in the job's order, from numbers of several types."""
    fitted, data = models.matrix(zipmap=False, labels=labels)
    rows = np.random.default_rng(5).normal(size=(100, 4)).round()
    columns = {
        "d": pa.array(rows[:, 3].astype(np.int16)),
        "b": pa.array(rows[:, 1].astype(np.float32)),
        "a": pa.array(rows[:, 0]),
        "c": pa.array([decimal.Decimal(int(value)) for value in rows[:, 2]]),
    }
    scored = score(data, columns, features=MATRIX, batch_size=32, label="label", yes=("probabilities", 1))
    expected = fitted.predict_proba(rows.astype(np.float32))[:, 1]
    np.testing.assert_allclose(scored.columns["yes"].to_numpy(), expected, atol=1e-6)
    assert scored.columns["label"].to_pylist() == fitted.predict(rows.astype(np.float32)).tolist()


def test_threads_agree():
    """Several threads may score with one model at once."""
    model = load(models.pipeline()[1])
    plan = plan_of(model, p=("probabilities", 1))
    rides = taxi_rides()
    expected = model.score(rides, plan, 100)
    with ThreadPoolExecutor(4) as pool:
        for scored in pool.map(lambda _: model.score(rides, plan, 100), range(8)):
            assert scored.columns.equals(expected.columns)


@pytest.mark.parametrize(
    ("element", "values", "arrow"),
    [
        (models.HALF, [0.5, 2.0], pa.float16()),
        (models.FLOAT, [0.5, 2.0], pa.float32()),
        (models.DOUBLE, [0.1, 1e300], pa.float64()),
        (TensorProto.INT8, [-128, 127], pa.int8()),
        (models.INT64, [-(2**63), 2**63 - 1], pa.int64()),
        (TensorProto.UINT64, [0, 2**64 - 1], pa.uint64()),
        (models.BOOL, [True, False], pa.bool_()),
        (models.STRING, ["é", ""], pa.string()),
    ],
)
@pytest.mark.parametrize("shape", [["N"], ["N", 1]])
def test_types(element, values, arrow, shape):
    """Every type goes in and out unchanged, with and without a second dimension."""
    scored = score(identity(element, shape), {"x": pa.array(values, type=arrow)})
    assert scored.columns == pa.RecordBatch.from_arrays([pa.array(values, type=arrow)], names=["y"])


@pytest.mark.parametrize(
    "source", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()]
)
def test_text_types(source):
    """Text is text in whatever way Arrow keeps it."""
    column = pa.array(["a", "b", None, "a"]).cast(source)
    scored = score(identity(models.STRING), {"x": column})
    assert scored.columns["y"].to_pylist() == ["a", "b", "a"]
    assert [q.row for q in scored.quarantined] == [2]


def test_no_rows():
    """No rows give no predictions, of the right types."""
    model = load(models.pipeline()[1])
    scored = model.score(taxi_rides(0), plan_of(model, label="label", p=("probabilities", 0)), 10)
    assert scored.columns.schema == pa.schema([("label", pa.int64()), ("p", pa.float32())])
    assert (scored.columns.num_rows, scored.rows.tolist(), scored.quarantined) == (0, [], [])


def test_batch_size_zero():
    """A batch of no rows is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least 1"):
        score(identity(models.FLOAT), {"x": [1.0]}, batch_size=0)
