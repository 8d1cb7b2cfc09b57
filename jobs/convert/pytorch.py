"""PyTorch by its own exporter: a module that takes one matrix [N, F] and returns [N] or [N, C]."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from jobs.convert.columns import with_columns
from jobs.errors import ModelError

if TYPE_CHECKING:
    from jobs.convert.sample import Sample


def tensor_dtype(sample: Sample) -> str:
    """The dtype of the matrix a module is given: int64 where every column is declared so (tokens), else float32."""
    return "int64" if sample.matrix_dtype == "int64" else "float32"


def to_onnx(estimator: Any, sample: Sample) -> bytes:
    """Export on the CPU in evaluation mode, with a free batch axis; the module is left in the mode it was in."""
    import onnx
    import torch

    module = estimator
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"a {type(module).__name__} is no torch.nn.Module")
    if sample.matrix_dtype == "string":
        raise ModelError("this module takes numbers, and X_sample is text; encode it before the module")
    rows = torch.from_numpy(sample.matrix(tensor_dtype(sample))[:16])
    was_training = module.training
    module.eval()
    written = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own future
            torch.onnx.export(
                module, (rows,), written, input_names=["X"], output_names=["prediction"],
                dynamic_axes={"X": {0: "N"}, "prediction": {0: "N"}}, opset_version=18, dynamo=False,
            )  # fmt: skip
    finally:
        module.train(was_training)
    model = onnx.load_from_string(written.getvalue())
    return bytes(with_columns(model, sample, tensor_dtype(sample)).SerializeToString())
