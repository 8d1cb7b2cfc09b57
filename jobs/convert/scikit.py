"""scikit-learn by skl2onnx: pipelines that choose columns by name keep them, other estimators get a matrix."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from jobs.convert.columns import mend_output_types, rename_outputs, with_columns

if TYPE_CHECKING:
    from jobs.convert.sample import Sample

# The newest both skl2onnx 1.20 and ONNX Runtime 1.23 know; IsolationForest has no converter above ai.onnx.ml 3.
TARGET_OPSET = {"": 21, "ai.onnx.ml": 3}


def to_onnx(estimator: Any, sample: Sample) -> bytes:
    """Convert; Raises what skl2onnx raises."""
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    _know_boosters()
    by_name = _chooses_columns(estimator)
    if by_name:
        types = [(name, _type(dtype, 1)) for name, dtype in sample.dtypes.items()]
    else:
        types = [("X", _type(sample.matrix_dtype, len(sample.names)))]
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    model = convert_sklearn(estimator, initial_types=types, options=options, target_opset=TARGET_OPSET)
    _use_any_locale(model)
    if "float64" in sample.dtypes.values():
        mend_output_types(model)
    if not by_name:
        model = with_columns(model, sample, sample.matrix_dtype)
    rename_outputs(model, {"variable": "prediction"})
    return bytes(model.SerializeToString())


def _chooses_columns(estimator: Any) -> bool:
    """Whether what meets the rows first is a ColumnTransformer, or several side by side."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    if isinstance(estimator, Pipeline):
        return _chooses_columns(estimator.steps[0][1])
    if isinstance(estimator, FeatureUnion):
        return all(_chooses_columns(each) for _, each in estimator.transformer_list)
    inner = getattr(estimator, "estimator", None)  # a search or a calibration around a pipeline
    return isinstance(estimator, ColumnTransformer) or (
        isinstance(inner, (Pipeline, ColumnTransformer)) and _chooses_columns(inner)
    )


def _use_any_locale(model: Any) -> None:
    """Let text be lower-cased by a locale that every machine has; ONNX's default, en_US, many containers lack."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "StringNormalizer":
            kept = [each for each in node.attribute if each.name != "locale"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("locale", "C.UTF-8")])


def _type(dtype: str, width: int) -> Any:
    from skl2onnx.common import data_types as kinds

    kind = {
        "float32": kinds.FloatTensorType,
        "float64": kinds.DoubleTensorType,
        "int64": kinds.Int64TensorType,
        "string": kinds.StringTensorType,
    }[dtype]
    return kind([None, width])


def _know_boosters() -> None:
    """Teach skl2onnx the boosters a pipeline may end in, as far as their libraries are loaded."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes

    zipmap = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    if library := sys.modules.get("lightgbm"):
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as light

        update_registered_converter(
            library.LGBMClassifier, "BatchpredLGBMClassifier", shapes.calculate_linear_classifier_output_shapes,
            light, options=zipmap,
        )  # fmt: skip
        update_registered_converter(
            library.LGBMRegressor, "BatchpredLGBMRegressor", shapes.calculate_linear_regressor_output_shapes,
            light, options={"split": None},
        )  # fmt: skip
    if library := sys.modules.get("xgboost"):
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as extreme

        update_registered_converter(
            library.XGBClassifier, "BatchpredXGBClassifier", shapes.calculate_linear_classifier_output_shapes,
            extreme, options=zipmap,
        )  # fmt: skip
        update_registered_converter(
            library.XGBRegressor, "BatchpredXGBRegressor", shapes.calculate_linear_regressor_output_shapes,
            extreme,
        )  # fmt: skip
