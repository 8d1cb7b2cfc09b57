"""Graph surgery: a model with one matrix input gets one input per column, and outputs get their usual names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.convert.sample import Sample

_PREFIX = "model/"
_STANDARD_OPSET = 15  # has Cast, Concat and Identity, and fits the oldest ai.onnx.ml the converters write


def with_columns(model: Any, sample: Sample, matrix_dtype: str) -> Any:
    """Give a ModelProto with one input [N, F] the inputs [N, 1] of the sample's columns, joined in their order.

    The model's own names are prefixed, so that a column may have any name but an output's.
    """
    import onnx
    from onnx import compose, helper

    if len(model.graph.input) != 1:
        raise ModelError(f"the converter made {len(model.graph.input)} inputs where one matrix was expected")
    model = compose.add_prefix(model, _PREFIX)
    graph = model.graph
    matrix = graph.input[0].name
    outputs = {output.name: output.name.removeprefix(_PREFIX) for output in graph.output}
    if both := set(outputs.values()) & set(sample.names):
        raise ModelError(f"column {min(both)!r} has the name of one of the model's outputs; rename it")
    wanted = _element(matrix_dtype)
    nodes, parts, inputs = [], [], []
    for name, dtype in sample.dtypes.items():
        inputs.append(helper.make_tensor_value_info(name, _element(dtype), [None, 1]))
        part = name
        if _element(dtype) != wanted:
            part = f"{_PREFIX}cast {name}"
            nodes.append(helper.make_node("Cast", [name], [part], to=wanted))
        parts.append(part)
    nodes.append(helper.make_node("Concat", parts, [matrix], axis=1))
    nodes += graph.node
    for output in graph.output:
        nodes.append(helper.make_node("Identity", [output.name], [outputs[output.name]]))
        output.name = outputs[output.name]
        if output.type.tensor_type.shape.dim:  # onnxmltools declares the labels of any number of rows as one
            output.type.tensor_type.shape.dim[0].dim_param = "N"
    for field, new in ((graph.node, nodes), (graph.input, inputs)):
        kept = list(new)
        del field[:]
        field.extend(kept)
    if not {"", "ai.onnx"} & {
        entry.domain for entry in model.opset_import
    }:  # trees alone need no other operators
        model.opset_import.append(helper.make_opsetid("", _STANDARD_OPSET))
    onnx.checker.check_model(model)
    return model


def rename_outputs(model: Any, names: Mapping[str, str]) -> None:
    """Rename outputs in place, wherever the graph uses them."""
    graph = model.graph
    for each in (*graph.output, *graph.value_info):
        each.name = names.get(each.name, each.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = names.get(name, name)


def mend_output_types(model: Any) -> None:
    """Declare what trees return as float: skl2onnx says double where they take double, and they never do."""
    from onnx import TensorProto

    trees = {
        name for node in model.graph.node if node.op_type.startswith("TreeEnsemble") for name in node.output
    }
    for output in model.graph.output:
        if output.name in trees and output.type.tensor_type.elem_type == TensorProto.DOUBLE:
            output.type.tensor_type.elem_type = TensorProto.FLOAT


def _element(dtype: str) -> int:
    from onnx import TensorProto

    return int(
        {
            "float32": TensorProto.FLOAT,
            "float64": TensorProto.DOUBLE,
            "int64": TensorProto.INT64,
            "string": TensorProto.STRING,
        }[dtype]
    )
