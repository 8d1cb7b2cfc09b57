"""Files made to hurt: each is refused in one line, and the process that was asked lives on."""

import gzip
import os
import pickle
import zipfile
from io import BytesIO

import pytest
from onnx import TensorProto, helper

from jobs.errors import ModelError
from jobs.gatekeeper import examine
from jobs.model_cache import ModelCache
from jobs.onnx_file import prepare
from tests.unit import onnx_models as models

FLOATS = {"x": (models.FLOAT, ["N", 1])}
GOOD = models.one_node("Abs")


def greedy():
    """160 GB asked for by a model of a few hundred bytes: the size of a constant."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [200_000, 200_000])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return models.graph(nodes, FLOATS, {"y": FLOATS["x"]}, initializer=[shape])


def endless():
    """A Loop whose condition stays true."""
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    most = helper.make_tensor("most", TensorProto.INT64, [], [2**62])
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["most", "true", "x"], ["y"], body=body)
    return models.graph([loop], FLOATS, {"y": FLOATS["x"]}, initializer=[true, most])


def zip_bomb():
    """A gigabyte of nothing in a megabyte of zip."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", bytes(1 << 26))
    return buffer.getvalue()


class Evil:
    """A pickle that would leave a file behind."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(pickle.dumps(Evil()), "a pickle, which is never loaded", id="pickle"),
        pytest.param(zip_bomb(), "a zip archive", id="zip bomb"),
        pytest.param(gzip.compress(bytes(1 << 26)), "a gzip archive", id="gzip bomb"),
        pytest.param(greedy(), "memory", id="160 GB"),
        pytest.param(endless(), "it may loop without end", id="endless"),
    ],
)
def test_hostile_files_are_refused(data, says, tmp_path, monkeypatch):
    """Refused in one line, within the limits, without a trace on disk."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as raised:
        examine(data, seconds=2.5)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [] == list(tmp_path.iterdir())


def test_a_child_that_dies_is_told():
    """Too little memory even for ONNX Runtime itself: one line about memory, and nothing happens to us."""
    with pytest.raises(ModelError, match=r"refused|memory"):
        examine(GOOD, memory=20 << 20)


def test_the_child_says_what_prepare_says():
    """A good file is described as in this process, its ZipMap stripped to the same bytes."""
    data = models.matrix(zipmap=True)[1]
    here, there = prepare(data), examine(data)
    assert (here.sha256, here.data, here.signature) == (there.sha256, there.data, there.signature)
    assert (here.opset, here.size) == (there.opset, there.size)


def test_a_null_that_reaches_other_rows_is_refused():
    """A model in which a NaN of one row changes the others' predictions is not registered."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["isnan"]),
        helper.make_node("Cast", ["isnan"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ones"], ["any"], keepdims=0),
        helper.make_node("Add", ["x", "any"], ["y"]),
    ]
    data = models.graph(nodes, FLOATS, {"y": FLOATS["x"]})
    prepare(data)  # without a NULL its rows are independent
    with pytest.raises(ModelError, match="a NULL in one row changes the predictions of output 'y'"):
        examine(data)


def test_the_child_finds_libraries_and_no_secrets(tmp_path, monkeypatch):
    """It gets the path on which the loader looks, and nothing else of the environment."""
    child = tmp_path / "child"
    child.write_text("""#!/bin/sh\ncat > /dev/null; echo "{\\"error\\": \\"$LD_LIBRARY_PATH $SECRET\\"}"\n""")
    child.chmod(0o700)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib")
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setattr("sys.executable", str(child))
    with pytest.raises(ModelError, match=r"^/opt/cuda/lib $"):
        examine(GOOD)


def test_a_verdict_is_kept_by_digest_and_version(tmp_path, monkeypatch):
    """The same bytes are examined once; others, another ONNX Runtime, and a damaged copy are examined anew."""
    data = models.matrix(zipmap=True)[1]
    asked = []
    monkeypatch.setattr("jobs.model_cache.examine", lambda given: asked.append(given) or prepare(given))
    first = ModelCache(tmp_path).examined(data)
    assert (first, 1) == (ModelCache(tmp_path).examined(data), len(asked))
    assert GOOD == ModelCache(tmp_path).examined(GOOD).data
    assert (prepare(GOOD), 2) == (ModelCache(tmp_path).examined(GOOD), len(asked))
    (tmp_path / f"{first.sha256}.onnx").write_bytes(GOOD)
    assert (first, 3) == (ModelCache(tmp_path).examined(data), len(asked))
    monkeypatch.setattr("jobs.model_cache._examiners", lambda: "onnxruntime 99")
    assert (first, 4) == (ModelCache(tmp_path).examined(data), len(asked))
    with pytest.raises(ModelError):
        ModelCache(tmp_path).examined(b"no model")
    assert (3, 5) == (len(list((tmp_path / "examined").iterdir())), len(asked))  # a refusal is not kept


def test_a_verdict_that_cannot_be_kept_is_no_fault(tmp_path):
    """Where the cache's folder cannot be made, a model is examined all the same."""
    (tmp_path / "file").write_text("no folder")
    cache = ModelCache(tmp_path / "file" / "models")
    assert GOOD == cache.examined(GOOD).data
    assert GOOD != cache.examined(models.matrix(zipmap=True)[1]).data


def test_what_becomes_of_a_null_is_noted():
    """The note says that rows with a NULL number will be in quarantine, where they will."""
    assert ("a NULL in a number gives no prediction: such rows go to quarantine",) == examine(GOOD).notes
