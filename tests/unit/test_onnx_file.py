"""An ONNX file on its way in: what is refused, what is changed before it is stored, and what is told of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import zipfile
import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jobs import onnx_file, row_independence
from jobs.errors import ModelError
from jobs.model import Model
from jobs.onnx_file import prepare
from jobs.session import open_session
from jobs.signature import Tensor
from tests.unit import onnx_models as models

GOOD = models.one_node("Abs")


def zipped():
    """A zip archive that holds a model."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", GOOD)
    return buffer.getvalue()


def external(tensor):
    """The tensor, its data moved to a file outside the model's folder."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    return tensor


def weight():
    """A weight with external data."""
    return external(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))


def external_initializer():
    """A model with an external initializer."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return models.graph(
        [node], {"x": (models.FLOAT, ["N", 2])}, {"y": (models.FLOAT, ["N", 2])}, initializer=[weight()]
    )


def external_in_subgraph():
    """A model with an external constant in the branches of an If."""

    def branch(name):
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
        return helper.make_graph([helper.make_node("Constant", [], ["z"], value=weight())], name, [], [value])

    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["c"], ["w"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return models.graph(nodes, {"x": (models.FLOAT, ["N", 2])}, {"y": (models.FLOAT, ["N", 2])})


def external_in_function():
    """A model with an external constant in a function of its own."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight()),
        helper.make_node("Add", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "AddW", ["a"], ["b"], nodes, [helper.make_opsetid("", 21)])
    return models.graph(
        [helper.make_node("AddW", ["x"], ["y"], domain="local")],
        {"x": (models.FLOAT, ["N", 2])},
        {"y": (models.FLOAT, ["N", 2])},
        opset={"": 21, "local": 1},
        functions=[function],
    )


def sequence_input():
    """A model that takes a sequence."""
    model = onnx.ModelProto.FromString(models.one_node("SequenceLength", out=(models.INT64, [])))
    value = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["N"])
    model.graph.input[0].CopyFrom(value)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "the model file is empty", id="empty"),
        pytest.param(b"\n<!DOCTYPE html><html>Sign in</html>", "an HTML page", id="html"),
        pytest.param(b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML text", id="xml"),
        pytest.param(b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', "JSON text", id="json"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`", id="lfs"
        ),
        pytest.param(pickle.dumps({"a": 1}, 2), "a pickle, which is never loaded", id="pickle 2"),
        pytest.param(pickle.dumps({"a": 1}, 5), "a pickle, which is never loaded", id="pickle 5"),
        pytest.param(zlib.compress(pickle.dumps(1)), "a joblib pickle, which is never loaded", id="joblib"),
        pytest.param(zipped(), "a zip archive", id="zip"),
        pytest.param(gzip.compress(GOOD), "a gzip archive; unpack it", id="gzip"),
        pytest.param(b"\x1c\x00\x00\x00TFL3" + bytes(32), "a TensorFlow Lite model", id="tflite"),
        pytest.param(GOOD[: len(GOOD) // 2], "was cut short or is not ONNX", id="truncated"),
        pytest.param(b"feature,score\n1,2\n", "was cut short or is not ONNX", id="csv"),
        pytest.param(GOOD[:2], "holds no ONNX graph", id="no graph"),
        pytest.param(external_initializer(), "tensor 'w' in another file ('../secret.bin')", id="external"),
        pytest.param(external_in_subgraph(), "tensor 'w' in another file", id="external in subgraph"),
        pytest.param(external_in_function(), "tensor 'w' in another file", id="external in function"),
        pytest.param(
            models.one_node("Foo", domain="acme", opset={"": 21, "acme": 1}),
            "operator 'Foo' of domain 'acme', which ONNX Runtime does not have",
            id="custom domain",
        ),
        pytest.param(
            models.one_node("Abs", opset={"": 99}),
            "needs opset 99 of ai.onnx, and this ONNX Runtime knows up to",
            id="future opset",
        ),
        pytest.param(
            models.one_node("Absolute"), "operator 'Absolute', which does not exist", id="no operator"
        ),
        pytest.param(
            models.one_node("Abs", shape=[1, 2]),
            "'x' has a fixed first dimension (1 of shape [1, 2])",
            id="fixed",
        ),
        pytest.param(
            models.one_node("Abs", shape=["N", 2], out=(models.FLOAT, [1, 2])),
            "'y' has a fixed first dimension (1",
            id="fixed output",
        ),
        pytest.param(models.one_node("Abs", shape=None), "'x' has no declared shape", id="no shape"),
        pytest.param(
            models.one_node("Abs", shape=["N", 2, 3]), "it must be [N], [N, 1] or [N, F]", id="rank 3"
        ),
        pytest.param(sequence_input(), "'x' is seq(tensor(float))", id="sequence"),
        pytest.param(
            models.one_node("Cast", TensorProto.BFLOAT16, out=(models.FLOAT, ["N", 2]), to=models.FLOAT),
            "'x' is tensor(bfloat16)",
            id="bfloat16",
        ),
        pytest.param(
            models.graph(
                [helper.make_node("Add", ["x", "z"], ["y"])],
                {"x": (models.FLOAT, ["N", 2]), "z": (models.FLOAT, ["N", 1])},
                {"y": (models.FLOAT, ["N", 2])},
            ),
            "2 inputs and 'x' takes 2 columns",
            id="mixed",
        ),
        pytest.param(
            models.one_node("ReduceMean", out=(models.FLOAT, None), keepdims=0),
            "output 'y' has shape [] for 64 rows",
            id="scalar",
        ),
    ],
)
def test_refused(data, says):
    """What cannot be scored safely in batches is refused in one line that says what it is."""
    with pytest.raises(ModelError) as raised:
        prepare(data)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_external_data_is_not_read(tmp_path, monkeypatch):
    """A registered model that names another file cannot read it, wherever the process runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    monkeypatch.chdir(folder)
    data = external_initializer()
    with pytest.raises(ModelError, match="cannot load the model"):
        Model.load(data, sha256=hashlib.sha256(data).hexdigest(), name="m/1", threads=1)


def test_too_large(monkeypatch):
    """A file over 2 GiB is refused by its size."""
    monkeypatch.setattr(onnx_file, "_LARGEST", len(GOOD) - 1)
    with pytest.raises(ModelError, match="2 GiB"):
        prepare(GOOD)


def test_untouched():
    """A model without a ZipMap is kept byte for byte."""
    data = models.matrix(zipmap=False)[1]
    prepared = prepare(data)
    assert prepared.data is data
    assert prepared.sha256 == hashlib.sha256(data).hexdigest()
    assert prepared.size == len(data)
    assert prepared.opset["ai.onnx.ml"] >= 1
    assert prepared.notes == ()
    assert prepared.signature.inputs == (Tensor("X", "float32", 4, 2),)
    assert prepared.signature.outputs == (
        Tensor("label", "int64", 1, 1),
        Tensor("probabilities", "float32", 2, 2),
    )


@pytest.mark.parametrize(("labels", "classes"), [("int", ("0", "1")), ("str", ("no", "yes"))])
def test_zipmap(labels, classes):
    """A ZipMap output becomes the matrix it was made of, its classes kept in the signature of push and load."""
    fitted, data = models.matrix(zipmap=True, labels=labels)
    prepared = prepare(data)
    assert prepared.sha256 == hashlib.sha256(prepared.data).hexdigest()
    assert prepared.sha256 == prepare(data).sha256
    expected = Tensor("output_probability", "float32", 2, 2, classes)
    assert expected == prepared.signature.outputs[1]
    loaded = Model.load(prepared.data, sha256=prepared.sha256, name="m/1", threads=1)
    assert loaded.signature == prepared.signature
    rows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    returned = open_session(prepared.data, 1).run(["output_probability"], {"X": rows})[0]
    np.testing.assert_allclose(fitted.predict_proba(rows), returned, atol=1e-6)


def test_own_function():
    """A function that the model itself defines is no foreign operator."""
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    data = models.graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        {"x": (models.FLOAT, ["N", 2])},
        {"y": (models.FLOAT, ["N", 2])},
        opset={"": 21, "local": 1},
        functions=[function],
    )
    assert prepare(data).sha256 == hashlib.sha256(data).hexdigest()


def test_depends_on_batch():
    """A model that normalises over the rows of a batch is refused."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    data = models.graph(
        nodes, {"x": (models.FLOAT, ["N", 2])}, {"y": (models.FLOAT, ["N", 2])}, initializer=[axis]
    )
    with pytest.raises(ModelError, match="'y' depend on the batch size"):
        prepare(data)


def test_random():
    """A model that draws random numbers is refused."""
    with pytest.raises(ModelError, match="random operators do that"):
        prepare(models.one_node("RandomNormalLike"))


def test_probe_fails():
    """A model that fails on made-up rows is accepted, with a note that it was not checked."""
    prepared = prepare(models.gather(1))
    assert len(prepared.notes) == 1
    assert "not checked" in prepared.notes[0]
    assert "Gather: indices element out of data bounds" in prepared.notes[0]


def test_endless(monkeypatch):
    """A model that never ends is stopped and refused."""
    monkeypatch.setattr(row_independence, "_PROBE_SECONDS", 0.3)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Cos", ["a"], ["b"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 2]),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    data = models.graph(
        [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)],
        {"x": (models.FLOAT, ["N", 2])},
        {"y": (models.FLOAT, ["N", 2])},
        initializer=[true],
    )
    with pytest.raises(ModelError, match="may loop without end"):
        prepare(data)


def test_truncated_anywhere():
    """A model cut at any place is either refused with a ModelError or has another digest."""
    data = models.matrix(zipmap=False)[1]
    digest = hashlib.sha256(data).hexdigest()
    for length in range(0, len(data), 37):
        try:
            prepared = prepare(data[:length])
        except ModelError:
            continue
        assert prepared.sha256 != digest
