"""Models in half precision and in eight bits: pushed, loaded and scored like any other."""

import hashlib

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import helper, numpy_helper

from jobs.errors import ModelError
from jobs.model import Model, ScoringPlan
from jobs.onnx_file import prepare
from jobs.signature import OutputColumn
from tests.unit import onnx_models as models

WEIGHTS = np.random.default_rng(11).normal(size=(4, 3)) / 2
ROWS = np.random.default_rng(12).normal(size=(1000, 4))


def layer(element):
    """A layer of softmax(x W) in one element type: x [N, 4] in, y [N, 3] out."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = numpy_helper.from_array(WEIGHTS.astype(dtype), "W")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    return models.graph(
        nodes, {"x": (element, ["N", 4])}, {"y": (element, ["N", 3])}, initializer=[weights], opset={"": 21}
    )


def in_eight_bits(folder):
    """The layer in float32, quantised statically: scales are fixed, so rows stay independent."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Rows(CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"x": ROWS.astype(np.float32)}])

        def get_next(self):
            return next(self.rows, None)

    source, target = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(layer(models.FLOAT))
    quantize_static(str(source), str(target), Rows(), quant_format=QuantFormat.QDQ)
    return target.read_bytes()


def score(data, columns):
    prepared = prepare(data)
    model = Model.load(prepared.data, sha256=prepared.sha256, name="m", threads=2)
    dtype = model.signature.outputs[0].dtype
    plan = ScoringPlan(
        model.signature.columns(dict.fromkeys(columns)),
        (OutputColumn("p", "y", 1, dtype), OutputColumn("v", "y", None, dtype, is_vector=True, width=3)),
    )
    return model, model.score(pa.table(columns), plan, 256)


def expected():
    z = np.exp(ROWS @ WEIGHTS)
    return z / z.sum(axis=1, keepdims=True)


def table():
    return dict(zip("abcd", ROWS.T.copy(), strict=True))


def test_half_precision():
    """A model of float16 takes double columns, gives float16, and agrees within what ten bits can say."""
    model, scored = score(layer(models.HALF), table())
    assert model.signature.inputs[0].dtype == model.signature.outputs[0].dtype == "float16"
    assert scored.columns["p"].type == pa.float16()
    np.testing.assert_allclose(
        expected()[:, 1], scored.columns["p"].to_numpy(zero_copy_only=False), atol=4e-3
    )
    assert scored.columns["v"].type == pa.list_(pa.float32())
    np.testing.assert_allclose(expected()[3], scored.columns["v"][3].as_py(), atol=4e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_eight_bits(tmp_path):
    """A model quantised to int8 inside takes and gives floats, is accepted at push, and agrees within its bits."""
    data = in_eight_bits(tmp_path)
    types = {tensor.data_type for tensor in onnx.ModelProto.FromString(data).graph.initializer}
    assert onnx.TensorProto.INT8 in types
    _, scored = score(data, table())
    np.testing.assert_allclose(expected()[:, 1], scored.columns["p"], atol=0.03)


def test_null_in_half_precision():
    """NULL meets a float16 input as NaN, and the NaN it makes is set aside by name; a value past 65,504 too."""
    columns = table()
    columns["a"] = pa.array([None, 1e6, *ROWS[2:, 0]])
    _, scored = score(layer(models.HALF), columns)
    reasons = {each.row: each.reason for each in scored.quarantined}
    assert {0: "the model returned NaN for p", 1: "a 1e6 does not fit float16"} == {
        row: reason.replace("1e06", "1e6") for row, reason in reasons.items()
    }
    assert len(scored.rows) == 998


@pytest.mark.parametrize(
    ("element", "column", "says"),
    [
        (models.INT64, pa.array([1, None, 3]), "x is NULL and the model's input 'x' (int64) takes no NULL"),
        (
            models.BOOL,
            pa.array([True, None, False]),
            "x is NULL and the model's input 'x' (bool) takes no NULL",
        ),
        (
            models.STRING,
            pa.array(["a", None, "b"]),
            "x is NULL and the model's input 'x' (string) takes no NULL",
        ),
        (onnx.TensorProto.INT8, pa.array([1, 300, 3]), "x 300 does not fit the model's input 'x' (int8)"),
        (onnx.TensorProto.UINT8, pa.array([1, -1, 3]), "x -1 does not fit the model's input 'x' (uint8)"),
    ],
)
def test_what_an_input_cannot_take(element, column, says):
    """Where the dtype has no NaN a NULL is set aside with the reason, and so is a number it cannot hold."""
    data = models.one_node("Identity", element, ["N"])
    model = Model.load(data, sha256=hashlib.sha256(data).hexdigest(), name="m", threads=1)
    tensor = model.signature.outputs[0]
    plan = ScoringPlan(model.signature.columns({}), (OutputColumn("y", "y", None, tensor.dtype),))
    scored = model.score(pa.table({"x": column}), plan, 10)
    assert [(1, says)] == [(each.row, each.reason) for each in scored.quarantined]
    assert [column[0].as_py(), column[2].as_py()] == scored.columns["y"].to_pylist()


def test_dynamic_quantisation_is_refused(tmp_path):
    """Scales taken from each batch make a row's prediction depend on its neighbours: push says no."""
    from onnxruntime.quantization import quantize_dynamic

    source, target = tmp_path / "float.onnx", tmp_path / "dynamic.onnx"
    source.write_bytes(layer(models.FLOAT))
    quantize_dynamic(str(source), str(target))
    with pytest.raises(ModelError, match="depend on the batch size"):
        prepare(target.read_bytes())
