"""Small real models for the tests: from scikit-learn as users export them, and bare graphs for one property.

scikit-learn and its converter are imported by who trains: each of the tests' processes collects every test.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from onnx import TensorProto, helper

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT64, INT32, BOOL, STRING = TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING
OPSET = {"": 21, "ai.onnx.ml": 3}


def graph(nodes, inputs, outputs, *, opset=None, initializer=(), functions=()):
    """The bytes of a model of `nodes`; `inputs` and `outputs` map names to (element type, shape)."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
            [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
            initializer=list(initializer),
        ),
        opset_imports=[helper.make_opsetid(*entry) for entry in (opset or OPSET).items()],
        ir_version=10,
        functions=list(functions),
        producer_name="test",
    )
    return model.SerializeToString()


def one_node(operator, element=FLOAT, shape=("N", 2), *, out=None, domain="", opset=None, **attributes):
    """A model of one operator from input x to output y."""
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    return graph([node], {"x": (element, shape)}, {"y": out or (element, shape)}, opset=opset)


def gather(size=3, out_of=FLOAT):
    """An int64 index in, the entry of a table out; an index of `size` or more makes ONNX Runtime fail."""
    table = helper.make_tensor("table", out_of, [size], [i / 2 for i in range(size)])
    node = helper.make_node("Gather", ["table", "x"], ["y"], axis=0)
    return graph([node], {"x": (INT64, ["N"])}, {"y": (out_of, ["N"])}, initializer=[table])


def fare_and_payment():
    """Two trained-on columns, `fare` (float32) and `payment` (text), and what is to be learned from them."""
    random = np.random.default_rng(7)
    rows = pd.DataFrame(
        {
            "fare": random.normal(10, 5, 500).astype(np.float32),
            "distance": random.gamma(2, 2, 500).astype(np.float32),
            "payment": random.choice(["card", "cash", "app"], 500),
        }
    )
    return rows, (rows["fare"] > 11) ^ (rows["payment"] == "cash")


@cache
def pipeline():
    """The fitted pipeline, with text and numbers, and its ONNX with one input per column."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows, tips = fare_and_payment()
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["payment"]),
            ("numbers", StandardScaler(), ["fare", "distance"]),
        ]
    )
    fitted = make_pipeline(columns, GradientBoostingClassifier(n_estimators=20, random_state=0)).fit(
        rows, tips
    )
    types = {
        "fare": FloatTensorType([None, 1]),
        "distance": FloatTensorType([None, 1]),
        "payment": StringTensorType([None, 1]),
    }
    converted = convert_sklearn(
        fitted, initial_types=list(types.items()), options={"zipmap": False}, target_opset=OPSET
    )
    return fitted, converted.SerializeToString()


@cache
def matrix(*, zipmap, labels="int"):
    """A fitted logistic regression over four columns, and its ONNX with one matrix input `X`."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(3)
    rows = random.normal(size=(400, 4)).astype(np.float32)
    answers = (rows[:, 0] - rows[:, 3] > 0).astype(np.int64)
    fitted = LogisticRegression().fit(rows, np.where(answers, "yes", "no") if labels == "str" else answers)
    return fitted, to_onnx(
        fitted, rows[:1], options=None if zipmap else {"zipmap": False}, target_opset=OPSET
    ).SerializeToString()
