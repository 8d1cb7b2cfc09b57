"""Compressed versions: smaller, measured, a candidate and never the champion; what has no weights is refused."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from jobs.compress import compress
from jobs.errors import ModelError
from jobs.gatekeeper import examine
from jobs.session import open_session
from tests.unit import onnx_models as models


def network(*, turned=False):
    """Two layers, 32 to 64 to 1, with random weights; `turned` holds them the other way round."""
    random = np.random.default_rng(4)
    first, second = random.normal(size=(32, 64)), random.normal(size=(64, 8))
    if turned:
        nodes = [helper.make_node("Gemm", ["x", "a"], ["h"], transB=1), helper.make_node("Tanh", ["h"], ["t"]),
                 helper.make_node("Gemm", ["t", "b"], ["y"], transB=1)]  # fmt: skip
        first, second = first.T, second.T
    else:
        nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Tanh", ["h"], ["t"]),
                 helper.make_node("MatMul", ["t", "b"], ["y"])]  # fmt: skip
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(each, dtype=np.float32), name)
        for each, name in ((first, "a"), (second, "b"))
    ]
    shapes = {"x": (models.FLOAT, ["N", 32])}, {"y": (models.FLOAT, ["N", 8])}
    return models.graph(nodes, *shapes, initializer=weights)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("kind", "size", "near"), [("int8", 0.45, 0.1), ("fp16", 0.65, 0.05)])
def test_smaller_and_nearly_the_same(turned, kind, size, near):
    """The compressed model passes what a push asks, is smaller, and says nearly the same."""
    data = network(turned=turned)
    smaller = examine(compress(data, kind)).data
    assert len(smaller) < size * len(data)
    rows = {"x": np.random.default_rng(1).normal(size=(200, 32)).astype(np.float32)}
    old, new = (open_session(each, 1).run(None, rows)[0] for each in (data, smaller))
    assert 0 < np.abs(old - new).max() < near * old.std()


def test_trees_are_refused():
    """A model without matrices of weights cannot be made smaller so, and is told so."""
    for kind in ("int8", "fp16"):
        with pytest.raises(ModelError, match="to compress"):
            compress(models.one_node("Abs"), kind)


def test_the_command(command, tmp_path):
    """It stores a candidate, says what it was made of, and leaves the champion."""
    (tmp_path / "net.onnx").write_bytes(network())
    assert 0 == command("models", "push", "net", "net.onnx", "--alias", "champion")[0]
    code, told = command("models", "quantize", "net@champion", "--int8", "--json")
    assert (0, "net/2", "net/1") == (code, told["model"], told["made_of"])
    assert told["bytes"]["net/2"] < told["bytes"]["net/1"]
    assert 0 < told["predictions"]["y"]["largest_change"]
    assert 1 == command("models", "show", "net@champion", "--json")[1]["version"]
    assert 2 == command("models", "show", "net@candidate", "--json")[1]["version"]
    assert 2 == command("models", "quantize", "net@champion")[0]
