"""Rows that a model cannot score: each is named with its reason, and the others are scored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from jobs.errors import ModelError
from jobs.model import Quarantined
from jobs.session import reason_of
from tests.unit import onnx_models as models
from tests.unit.scoring import identity, load, plan_of, score


def test_null_is_nan():
    """A NULL in a float input reaches the model as NaN, whatever the type of its column."""
    for column in (
        pa.array([1.0, None]),
        pa.array([1, None]),
        pa.array([True, None]),
        pa.array([None, None]),
    ):
        scored = score(models.one_node("IsNaN", shape=["N"], out=(models.BOOL, ["N"])), {"x": column})
        assert scored.columns["y"].to_pylist() == [column[0].as_py() is None, True]
        assert scored.quarantined == []


@pytest.mark.parametrize(
    ("element", "dtype", "column"),
    [
        (models.STRING, "string", pa.array(["a", None, "b"])),
        (models.INT64, "int64", pa.array([1, None, 2])),
        (models.INT64, "int64", pa.array([1.0, None, 2.0])),
        (models.BOOL, "bool", pa.array([True, None, False])),
    ],
)
def test_null_refused(element, dtype, column):
    """A NULL where the input can hold none is quarantined; ONNX Runtime would score the text 'None'."""
    scored = score(identity(element), {"x": column})
    assert scored.columns["y"].to_pylist() == [column[0].as_py(), column[2].as_py()]
    assert scored.rows.tolist() == [0, 2]
    reason = f"x is NULL and the model's input 'x' ({dtype}) takes no NULL"
    assert scored.quarantined == [Quarantined(1, reason)]


def test_infinite():
    """A value that is infinite, or that float32 cannot hold, is quarantined."""
    scored = score(identity(models.FLOAT), {"x": [1.0, float("inf"), -1e300, 2.0, float("-inf"), 1e300]})
    assert scored.columns["y"].to_pylist() == [1.0, 2.0]
    assert scored.quarantined == [
        Quarantined(1, "x is infinite"),
        Quarantined(2, "x -1e300 does not fit float32"),
        Quarantined(4, "x is infinite"),
        Quarantined(5, "x 1e300 does not fit float32"),
    ]


@pytest.mark.parametrize(
    ("element", "dtype", "column", "good", "bad"),
    [
        (
            models.INT32,
            "int32",
            pa.array([2**31 - 1, 2**31, -(2**31) - 1]),
            [2**31 - 1],
            ["2147483648", "-2147483649"],
        ),
        (
            models.INT64,
            "int64",
            pa.array([1.5, 2.0, float("nan"), 2.0**63]),
            [2],
            ["1.5", "nan", "9.223372036854776e+18"],
        ),
        (TensorProto.UINT8, "uint8", pa.array([-1, 255, 256]), [255], ["-1", "256"]),
        (TensorProto.UINT64, "uint64", pa.array([-1, 2]), [2], ["-1"]),
        (models.INT64, "int64", pa.array([2**64 - 1, 2], type=pa.uint64()), [2], ["18446744073709551615"]),
        (models.INT64, "int64", pa.array([0.5, 2.0], type=pa.float16()), [2], ["0.5"]),
    ],
)
def test_integers(element, dtype, column, good, bad):
    """A number that an integer input cannot hold exactly is quarantined with its value."""
    scored = score(identity(element), {"x": column})
    assert scored.columns["y"].to_pylist() == good
    assert [q.reason for q in scored.quarantined] == [
        f"x {value} does not fit the model's input 'x' ({dtype})" for value in bad
    ]


def test_bool_as_number():
    """A boolean column is 0 and 1 for an integer input."""
    assert score(identity(models.INT64), {"x": [True, False]}).columns["y"].to_pylist() == [1, 0]


def test_invalid_utf8():
    """Text that is not UTF-8 is quarantined."""
    offsets = pa.py_buffer(np.array([0, 1, 2], dtype=np.int32))
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])
    scored = score(identity(models.STRING), {"x": column})
    assert scored.columns["y"].to_pylist() == ["a"]
    assert scored.quarantined == [Quarantined(1, "x is not valid UTF-8")]


def test_several_reasons():
    """A row that is bad in two columns stands in quarantine once."""
    columns = {"fare": [float("inf"), 1.0], "distance": [1.0, 1.0], "payment": [None, "cash"]}
    scored = score(models.pipeline()[1], columns, label="label")
    assert scored.quarantined == [Quarantined(0, "fare is infinite")]
    assert scored.rows.tolist() == [1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50, 1000])
def test_bisect(batch_size):
    """When the model fails on a batch, exactly the rows it fails on are quarantined."""
    indices = np.arange(100) % 3
    indices[[0, 13, 14, 99]] = 7
    scored = score(models.gather(), {"x": pa.array(indices)}, batch_size=batch_size)
    assert [q.row for q in scored.quarantined] == [0, 13, 14, 99]
    reason = (
        "the model fails on this row: Gather: indices element out of data bounds, idx=7 must be within the "
        "inclusive range [-3,2]"
    )
    assert {q.reason for q in scored.quarantined} == {reason}
    expected = [i for i in range(100) if i not in {0, 13, 14, 99}]
    assert scored.rows.tolist() == expected
    assert scored.columns["y"].to_pylist() == [indices[i] / 2 for i in expected]


def test_bisect_after_validation():
    """Rows are named by their place in the input, also after others were taken out before the model ran."""
    scored = score(models.gather(), {"x": [None, 1, 7, None, 2]}, batch_size=3)
    assert [q.row for q in scored.quarantined] == [0, 2, 3]
    assert scored.rows.tolist() == [1, 4]
    assert scored.columns["y"].to_pylist() == [0.5, 1.0]


def test_model_is_at_fault():
    """A model that fails on every row of its first batch fails the run."""
    with pytest.raises(ModelError, match="m/1 fails on every row of the first batch, 4 rows: Gather"):
        score(models.gather(), {"x": [7] * 8})


def test_rows_are_at_fault():
    """A model that has scored a row is not blamed for a batch of bad ones."""
    model = load(models.gather())
    plan = plan_of(model, y="y")
    model.score(pa.RecordBatch.from_pydict({"x": [1]}), plan, 4)
    scored = model.score(pa.RecordBatch.from_pydict({"x": [7, 7]}), plan, 4)
    assert [q.row for q in scored.quarantined] == [0, 1]


def test_nan_prediction():
    """A prediction that is not finite is quarantined, in whichever column it stands."""
    nodes = [helper.make_node("Log", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["z"])]
    one = (models.FLOAT, ["N"])
    data = models.graph(nodes, {"x": one}, {"y": one, "z": one})
    scored = score(data, {"x": [1.0, -1.0, 0.0, 1000.0, 2.0]}, batch_size=2, score="y", other="z")
    assert scored.rows.tolist() == [0, 4]
    assert scored.columns.num_rows == 2
    assert scored.quarantined == [
        Quarantined(1, "the model returned NaN for score"),
        Quarantined(2, "the model returned infinity for score"),
        Quarantined(3, "the model returned infinity for other"),
    ]


def test_not_one_per_row():
    """A model that does not return one prediction per row fails the run."""
    data = models.one_node("ReduceMean", shape=["N", 2], out=(models.FLOAT, None), keepdims=0)
    with pytest.raises(ModelError, match=r"'y' of shape \[\] for 3 rows"):
        score(data, {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}, features={"a": None, "b": None})


def test_no_such_column_after_all():
    """An index that a free output turns out not to have fails the run."""
    columns = {"a": [1.0], "b": [1.0]}
    data = identity(models.FLOAT, ["N", "F"])
    with pytest.raises(ModelError, match=r"'y' of shape \[1, 2\], which has no one y\[2\]"):
        score(data, columns, features={"a": None, "b": None}, y=("y", 2))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : short\nsecond line", "short"),
        (
            (
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape "
                "node. Name:'r' Status Message: /onnxruntime_src/onnxruntime/core/cpu/reshape_helper.h:47 "
                "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, bool) size was false."
            ),
            "Reshape: size was false.",
        ),
        ("x" * 300, "x" * 199 + "…"),
        ("", "ValueError"),
    ],
)
def test_reason(said, expected):
    """A reason is one short line without codes and paths."""
    assert expected == reason_of(ValueError(said))
