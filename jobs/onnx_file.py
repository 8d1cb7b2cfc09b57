"""A model file: what it must be to be accepted at `models push`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError
from jobs.row_independence import check_rows_are_independent
from jobs.session import open_session
from jobs.signature import CLASSES_KEY, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST = 2**31 - 1  # bytes; protobuf cannot hold more in one message

# The domains that ONNX Runtime's own builds have; any other needs a library of custom operators.
_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)

# How the files begin that are pushed by mistake: where, with what, what that is, and what to do.
_EXPORT = "export the model as ONNX and push that file"
_UNPACK = "unpack it and push the .onnx file inside"
_LOOKALIKES: tuple[tuple[int, tuple[bytes, ...], str, str], ...] = (
    (0, (b"version https://git-lfs",), "a Git LFS pointer, not the model itself", "run `git lfs pull`"),
    (0, (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a pickle, which is never loaded", _EXPORT),
    (0, (b"x\x01", b"x^", b"x\x9c", b"x\xda"), "zlib data: a joblib pickle, which is never loaded", _EXPORT),
    (0, (b"PK\x03\x04",), "a zip archive (PyTorch and Keras save these)", _EXPORT),
    (0, (b"\x1f\x8b",), "a gzip archive", _UNPACK),
    (0, (b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), "a compressed archive", _UNPACK),
    (257, (b"ustar",), "a tar archive", _UNPACK),
    (0, (b"\x89HDF",), "an HDF5 file (Keras saves these)", _EXPORT),
    (4, (b"TFL3",), "a TensorFlow Lite model", _EXPORT),
    (4, (b"ORTM",), "a model in ONNX Runtime's .ort format", "push the .onnx file it was made from"),
    (0, (b"tree\nversion=",), "a LightGBM model in LightGBM's own format", _EXPORT),
)


@dataclass(frozen=True)
class PreparedModel:
    """A model that may be registered: the bytes to keep, their digest, and what was learned from them.

    `data` is what was given, byte for byte, unless there were ZipMaps to take out. `opset` maps operator
    domains to versions, the standard one under `ai.onnx`. `notes` are lines for the person who pushes.
    """

    data: bytes
    sha256: str
    signature: Signature
    opset: dict[str, int]
    size: int
    notes: tuple[str, ...] = ()

    @property
    def described(self) -> dict[str, Any]:
        """What the registry keeps of it beside the bytes, as plain JSON."""
        return {"signature": self.signature.to_json(), "opset": self.opset, "notes": list(self.notes)}


def prepare(data: bytes) -> PreparedModel:
    """Examine the bytes of a model file, take out its ZipMaps, and check that rows score independently.

    Raises ModelError, in one line that says what is wrong and what to do, for what is no ONNX model, needs
    other files or operators, or cannot score a batch of rows independently.
    """
    refuse_lookalikes(data)
    model = _parse(data)
    _refuse_external_data(model)
    if strip_zipmaps(model):
        data = model.SerializeToString(deterministic=True)
    try:
        session = open_session(data, threads=1)
    except ModelError as error:
        raise _explained(error, model) from error
    signature = Signature.of_session(session)
    notes = [
        f"output {node.name!r} is {node.type} and cannot be kept in a column"
        for node in session.get_outputs()
        if node.name not in {tensor.name for tensor in signature.outputs}
    ]
    notes += check_rows_are_independent(session, signature)
    return PreparedModel(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        signature=signature,
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        size=len(data),
        notes=tuple(notes),
    )


def refuse_lookalikes(data: bytes) -> None:
    """Raise ModelError for what is no ONNX file at first sight, saying what it is and what to do."""
    if not data:
        raise ModelError("the model file is empty; export it again")
    if len(data) > _LARGEST:
        raise ModelError(
            f"the model file has {len(data):,} bytes; ONNX allows 2 GiB in one file, and external data is "
            "not accepted"
        )
    for offset, magics, what, remedy in _LOOKALIKES:
        if data.startswith(magics, offset):
            raise ModelError(f"the model file is {what}; {remedy}")
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise ModelError(
            "the model file is an HTML page, perhaps a saved error or login page; download the model itself"
        )
    for start, what in ((b"<", "XML"), (b"{", "JSON"), (b"[", "JSON")):
        if text.startswith(start):
            raise ModelError(
                f"the model file is {what} text, not ONNX; if it was downloaded it may be a saved error"
            )


def _parse(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx, without types

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(
            "the model file was cut short or is not ONNX (it does not parse as protobuf); "
            "compare its size with the original, and copy or export it again"
        ) from error
    if not model.HasField("graph"):
        raise ModelError("the model file holds no ONNX graph; it is another protobuf, or was cut short")
    if not model.opset_import:
        raise ModelError("the model file names no operator set; it was cut short, or its exporter is broken")
    return model


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, the bodies of its functions, and every subgraph of both, as GraphProto or FunctionProto."""
    pending = [model.graph, *model.functions]
    for training in model.training_info:
        pending += [training.initialization, training.algorithm]
    while pending:
        graph = pending.pop()
        yield graph
        for attribute in _attributes(graph):
            pending += [attribute.g] if attribute.HasField("g") else []
            pending += attribute.graphs


def _attributes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield from node.attribute
    yield from getattr(graph, "attribute_proto", ())  # a function's defaults


def _tensors(graph: Any) -> Iterator[Any]:
    sparse = list(getattr(graph, "sparse_initializer", ()))
    yield from getattr(graph, "initializer", ())
    for attribute in _attributes(graph):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _refuse_external_data(model: Any) -> None:
    for graph in _graphs(model):
        for tensor in _tensors(graph):
            if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}.get("location", "?")
                raise ModelError(
                    f"the model keeps tensor {tensor.name!r} in another file ({where!r}); save it as one "
                    "file: onnx.save_model(model, path, save_as_external_data=False)"
                )


def strip_zipmaps(model: Any) -> bool:
    """Give each output of a ZipMap the matrix [N, C] it was made of, and keep the class names in metadata.

    A ZipMap makes one Python dict per row, 11 times the cost of the scoring itself. The output keeps its
    name, so an Identity takes the ZipMap's place. Returns whether there was any.
    """
    import onnx

    outputs = {output.name: output for output in model.graph.output}
    classes: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type != "ZipMap" or node.domain != "ai.onnx.ml" or node.output[0] not in outputs:
            continue
        name = node.output[0]
        names: list[str] = []
        for attribute in node.attribute:
            names += [value.decode("utf-8", "replace") for value in attribute.strings]
            names += [str(value) for value in attribute.ints]
        classes[name] = names
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [name], name=node.name))
        outputs[name].CopyFrom(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, len(names)])
        )
    if classes:
        if not any(entry.domain in {"", "ai.onnx"} for entry in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid("", 13))
        model.metadata_props.add(key=CLASSES_KEY, value=json.dumps(classes))
    return bool(classes)


def _explained(error: ModelError, model: Any) -> ModelError:
    """Why ONNX Runtime refused, in words that say what to do, or the error itself."""
    local = {(function.domain, function.name) for function in model.functions}
    for graph in _graphs(model):
        for node in graph.node:
            if node.domain not in _DOMAINS and (node.domain, node.op_type) not in local:
                return ModelError(
                    f"the model uses operator {node.op_type!r} of domain {node.domain!r}, which ONNX Runtime "
                    "does not have; export it with standard operators only"
                )
    said = str(error.__cause__)
    if limit := re.search(r"Opset (\d+) is .*support for domain (\S+) is till opset (\d+)", said, re.DOTALL):
        asked, domain, newest = limit.groups()
        return ModelError(
            f"the model needs opset {asked} of {domain}, and this ONNX Runtime knows up to {newest}; "
            f"export it with opset {newest} or lower, or upgrade onnxruntime"
        )
    if unknown := re.search(r"No Op registered for (\S+) with domain_version of (\d+)", said):
        return ModelError(
            f"the model uses operator {unknown[1]!r}, which does not exist in opset {unknown[2]}; "
            "its exporter is broken, or newer than this ONNX Runtime"
        )
    return error
