"""Smaller models: weights in 8-bit integers, or numbers in 16-bit floats; what it costs is measured, not promised.

    int8   the float32 weights of MatMul and Gemm become int8 with one scale a column, and are turned back into
           float32 in front of the operator. Activations stay float32: dynamic quantisation scales them by the whole
           batch, and predictions would depend on it (a push refuses that)
    fp16   weights and arithmetic in float16, inputs and outputs as before; a processor without float16 is slower

Trees have neither kind of weight, and are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

KINDS = ("int8", "fp16")
_SMALLEST = 256  # weights below which scales and a further operator cost more than they save


def compress(data: bytes, kind: str) -> bytes:
    """Compress an ONNX model; `kind` is of KINDS. Raises ModelError where there is nothing to compress."""
    import onnx

    model = onnx.load_from_string(data)
    if kind == "int8":
        if not _weights_to_int8(model):
            raise ModelError(
                "the model has no matrix of float32 weights to compress; trees, for one, have none"
            )
        return bytes(model.SerializeToString())
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not any(
        each.data_type == onnx.TensorProto.FLOAT and _size(each) >= _SMALLEST
        for each in model.graph.initializer
    ):
        raise ModelError("the model has no float32 weights to compress; trees, for one, have none")
    try:
        smaller = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # the converter's errors share no parent
        raise ModelError(
            f"the model cannot be converted to float16: {str(error).splitlines()[0][:200]}"
        ) from error
    return bytes(smaller.SerializeToString())


def difference(
    old: Any, new: Any, feed: Mapping[str, NDArray[Any]], outputs: list[str]
) -> dict[str, dict[str, float]]:
    """Run two sessions on the same rows; the mean and the largest difference of each floating-point output, and the
    share of equal rows of each other one."""  # noqa: D205, D209
    found: dict[str, dict[str, float]] = {}
    for name, one, other in zip(outputs, old.run(outputs, feed), new.run(outputs, feed), strict=True):
        if one.dtype.kind == "f":
            gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
            found[name] = {"mean_change": float(gap.mean()), "largest_change": float(gap.max())}
        else:
            found[name] = {"equal": float(np.mean(one == other))}
    return found


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.dims)) if len(tensor.dims) else 1


def _weights_to_int8(model: Any) -> int:
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    by_name = {each.name: each for each in graph.initializer}
    inputs = [name for node in graph.node for name in node.input]
    nodes, changed = [], 0
    for node in list(graph.node):
        weight = (
            by_name.get(node.input[1])
            if node.op_type in ("MatMul", "Gemm") and node.domain in ("", "ai.onnx")
            else None
        )
        if (
            weight is not None
            and weight.data_type == TensorProto.FLOAT
            and len(weight.dims) == 2
            and _size(weight) >= _SMALLEST
            and inputs.count(weight.name) == 1
        ):
            values = numpy_helper.to_array(weight)
            # One scale for each output of the operator: Gemm may hold its weights the other way round.
            is_turned = any(each.name == "transB" and each.i for each in node.attribute)
            axis = 0 if is_turned else 1
            scale = (np.abs(values).max(axis=1 - axis) / 127).astype(np.float32)
            scale[scale == 0] = 1.0
            spread = scale[:, None] if axis == 0 else scale[None, :]
            small = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
            graph.initializer.remove(weight)
            names = [f"{weight.name}.{part}" for part in ("int8", "scale", "float")]
            graph.initializer.extend(
                [numpy_helper.from_array(small, names[0]), numpy_helper.from_array(scale, names[1])]
            )
            nodes.append(helper.make_node("DequantizeLinear", names[:2], [names[2]], axis=axis))
            node.input[1] = names[2]
            changed += 1
        nodes.append(node)
    if changed:
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        for entry in model.opset_import:  # DequantizeLinear knows an axis from 13 on
            if entry.domain in ("", "ai.onnx") and entry.version < 13:
                raise ModelError(
                    f"the model is of opset {entry.version}; export it with 13 or higher to compress it"
                )
    return changed
