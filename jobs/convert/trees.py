"""LightGBM and XGBoost by onnxmltools, CatBoost by its own exporter."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.convert import kind_of
from jobs.convert.columns import rename_outputs, with_columns
from jobs.errors import ModelError

if TYPE_CHECKING:
    from jobs.convert.sample import Sample

_TARGET_OPSET = 15  # the newest onnxmltools 1.16 writes


def to_onnx(estimator: Any, sample: Sample) -> bytes:
    """Convert; these models score in float32, whatever their columns are."""
    if sample.matrix_dtype == "string":
        raise ModelError("this model takes numbers, and X_sample is text; encode it before the model")
    made = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}[kind_of(estimator)](
        estimator, len(sample.names)
    )
    model = with_columns(made, sample, "float32")
    rename_outputs(model, {"variable": "prediction", "predictions": "prediction"})
    return bytes(model.SerializeToString())


def _lightgbm(estimator: Any, width: int) -> Any:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("X", FloatTensorType([None, width]))]
    return convert_lightgbm(estimator, initial_types=types, zipmap=False, target_opset=_TARGET_OPSET)


def _xgboost(estimator: Any, width: int) -> Any:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    # The converter knows columns by no other names than these.
    estimator = copy.deepcopy(estimator)
    booster = estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    booster.feature_names = [f"f{i}" for i in range(width)]
    types = [("X", FloatTensorType([None, width]))]
    return convert_xgboost(estimator, initial_types=types, target_opset=_TARGET_OPSET)


def _catboost(estimator: Any, width: int) -> Any:
    import onnx

    from jobs.onnx_file import strip_zipmaps

    if estimator.get_cat_feature_indices():
        raise ModelError(
            "CatBoost exports no model with categorical features to ONNX; encode them before the model"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        estimator.save_model(str(path), format="onnx")
        model = onnx.load(path)
    strip_zipmaps(model)
    shape = model.graph.input[0].type.tensor_type.shape
    if len(shape.dim) == 2 and shape.dim[1].dim_value not in (0, width):
        raise ModelError(
            f"the model takes {shape.dim[1].dim_value} columns and X_sample has {width}; give it those it was "
            "trained with"
        )
    return model
