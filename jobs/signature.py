"""What a model takes and gives: its tensors, and how a job's columns are matched to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The key, in a model's own metadata, of the class names that stood in a ZipMap before it was stripped.
CLASSES_KEY = "batchpred.classes"

# What ONNX Runtime calls the element types that an Arrow column can be turned into.
_DTYPES = {"float": "float32", "double": "float64"} | {
    name: name
    for name in (
        "float16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "string",
    )
}


# What PostgreSQL has no array of numbers for; uint64 has no integer that holds it.
_NO_VECTORS = frozenset({"string", "bool", "uint64"})


class OutputRef(Protocol):
    """A model output as a job names it: `probabilities[1]` has the name `probabilities` and the index 1."""

    @property
    def name(self) -> str:
        """The output's name."""

    @property
    def index(self) -> int | None:
        """Which column of a matrix output, counted from 0."""

    @property
    def is_vector(self) -> bool:
        """Whether whole rows of a matrix output are kept."""


@dataclass(frozen=True)
class Tensor:
    """One input or output: `rank` 1 is [N], 2 is [N, width]; rank 0 is an output whose shape is not declared.

    `dtype` is a numpy name (`float32`, `int64`, `bool`, …) or `string`. `width` is 1 for [N] and [N, 1], F
    for [N, F], and None where the second dimension is free or unknown. `classes` names the columns of an
    output whose ZipMap was stripped.
    """

    name: str
    dtype: str
    width: int | None
    rank: int
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FeatureColumn:
    """A source column and its place: column `position` of the `width` columns of input `input_name`.

    `rank` is 1 where the input wants shape [n], 2 where it wants [n, width].
    """

    column: str
    input_name: str
    dtype: str
    position: int
    width: int
    rank: int


@dataclass(frozen=True)
class OutputColumn:
    """A column of predictions and the model output, or column `index` of it, that fills it.

    With `is_vector` it holds whole rows of the output, of `width` values where the model says how many.
    """

    column: str
    output_name: str
    index: int | None
    dtype: str
    is_vector: bool = False
    width: int | None = None

    @property
    def ref(self) -> str:
        """The output, or its column, as a job file and a reference profile name it: `label`, `probabilities[1]`."""
        return self.output_name if self.index is None else f"{self.output_name}[{self.index}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in the model's own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of_session(cls, session: Any) -> Signature:
        """The signature of a loaded `onnxruntime.InferenceSession`, the only witness that is believed.

        An output that is no tensor is left out. Raises ModelError for an input that columns of a table
        cannot fill, and for an input or output whose first dimension is not free.
        """
        metadata = session.get_modelmeta().custom_metadata_map
        classes: dict[str, list[str]] = json.loads(metadata.get(CLASSES_KEY, "{}"))
        inputs = tuple(_tensor("input", node) for node in session.get_inputs())
        outputs = tuple(
            _tensor("output", node, classes.get(node.name))
            for node in session.get_outputs()
            if _dtype(node.type) is not None
        )
        if not inputs:
            raise ModelError("the model has no inputs, so its predictions cannot depend on a row")
        if not outputs:
            raise ModelError(
                "the model has no output that is a tensor of numbers or text; export one per prediction"
            )
        signature = cls(inputs, outputs)
        signature._refuse_mixed()
        return signature

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, fit for a jsonb column."""

        def plain(tensor: Tensor) -> dict[str, Any]:
            classes = None if tensor.classes is None else list(tensor.classes)
            return {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "width": tensor.width,
                "rank": tensor.rank,
                "classes": classes,
            }

        return {"inputs": [plain(t) for t in self.inputs], "outputs": [plain(t) for t in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The signature that `to_json` wrote."""

        def tensor(entry: Mapping[str, Any]) -> Tensor:
            classes = None if entry["classes"] is None else tuple(entry["classes"])
            return Tensor(entry["name"], entry["dtype"], entry["width"], entry["rank"], classes)

        return cls(tuple(map(tensor, data["inputs"])), tuple(map(tensor, data["outputs"])))

    def columns(self, features: Mapping[str, str | None]) -> tuple[FeatureColumn, ...]:
        """The source columns the model needs, in the order of its inputs.

        `features` maps columns to the dtype the job declares, or None. One matrix input takes them in the
        order given and needs them; a model with one input per column has names of its own, and `features`
        may be empty. Raises ModelError where they do not fit.
        """
        self._refuse_mixed()
        only = self.inputs[0]
        if len(self.inputs) == 1 and only.rank == 2 and (features or only.width != 1):
            return _matrix_columns(only, features)
        names = [tensor.name for tensor in self.inputs]
        if features:
            for column in features:
                if column not in names:
                    raise ModelError(f"feature {column!r} is no input of the model{_meant(column, names)}")
            for name in names:
                if name not in features:
                    near = _meant(name, features)
                    raise ModelError(f"the model's input {name!r} is missing from the job's features{near}")
        for tensor in self.inputs:
            _same_dtype(tensor.name, features.get(tensor.name), tensor)
        return tuple(FeatureColumn(t.name, t.name, t.dtype, 0, 1, t.rank) for t in self.inputs)

    def output_columns(self, columns: Mapping[str, OutputRef]) -> tuple[OutputColumn, ...]:
        """The columns of predictions, in the order given: an output, one column of a matrix, or its rows whole.

        Raises ModelError for an unknown output, an index that does not fit, and a matrix without an index.
        """
        outputs = {tensor.name: tensor for tensor in self.outputs}
        return tuple(_output_column(column, ref, outputs) for column, ref in columns.items())

    def _refuse_mixed(self) -> None:
        if len(self.inputs) < 2:
            return
        for tensor in self.inputs:
            if tensor.width != 1:
                width = "a free number of" if tensor.width is None else str(tensor.width)
                raise ModelError(
                    f"the model has {len(self.inputs)} inputs and {tensor.name!r} takes {width} columns; "
                    "batchpred scores models with one matrix input, or with one input per column"
                )


def _matrix_columns(tensor: Tensor, features: Mapping[str, str | None]) -> tuple[FeatureColumn, ...]:
    if not features:
        many = "any number of" if tensor.width is None else tensor.width
        raise ModelError(
            f"the model's one input {tensor.name!r} takes {many} columns and does not name them; list them "
            "under `features` in the order the model was trained with"
        )
    if tensor.width is not None and tensor.width != len(features):
        raise ModelError(
            f"the model's input {tensor.name!r} takes {tensor.width} columns, but `features` lists "
            f"{len(features)}"
        )
    for column, declared in features.items():
        _same_dtype(column, declared, tensor)
    return tuple(
        FeatureColumn(column, tensor.name, tensor.dtype, position, len(features), tensor.rank)
        for position, column in enumerate(features)
    )


def _same_dtype(column: str, declared: str | None, tensor: Tensor) -> None:
    if declared is not None and declared != tensor.dtype:
        raise ModelError(
            f"feature {column!r} is declared {declared}, but the model's input {tensor.name!r} is "
            f"{tensor.dtype}"
        )


def _output_column(column: str, ref: OutputRef, outputs: Mapping[str, Tensor]) -> OutputColumn:
    tensor = outputs.get(ref.name)
    if tensor is None:
        raise ModelError(
            f"column {column!r}: the model has no output {ref.name!r}{_meant(ref.name, outputs)}"
        )
    output = f"column {column!r}: output {tensor.name!r}"
    if tensor.rank > 2:
        raise ModelError(f"{output} has {tensor.rank} dimensions; only [N], [N, 1] and [N, C] can be kept")
    if ref.is_vector:
        if tensor.rank == 1 or tensor.dtype in _NO_VECTORS:
            raise ModelError(
                f"{output} is {tensor.dtype} of {tensor.rank} dimension(s); whole vectors are kept of numbers, "
                "[N, D]"
            )
        return OutputColumn(column, tensor.name, None, tensor.dtype, is_vector=True, width=tensor.width)
    if ref.index is None:
        if tensor.rank == 2 and tensor.width != 1:
            vector = (
                "" if tensor.dtype in _NO_VECTORS else f"; or keep it whole, as a vector: {tensor.name}[:]"
            )
            raise ModelError(f"{output} is a matrix; choose one column: {_choices(tensor)}{vector}")
    elif ref.index < 0 or (tensor.width is not None and ref.index >= tensor.width):
        raise ModelError(f"{output} has no column {ref.index}; there is {_choices(tensor)}")
    return OutputColumn(column, tensor.name, ref.index, tensor.dtype)


def _choices(tensor: Tensor) -> str:
    if tensor.width is None:
        return f"{tensor.name}[0], {tensor.name}[1], … (the model does not say how many)"
    # A model of a thousand classes needs no thousand suggestions.
    shown = [f"{tensor.name}[{i}]" for i in range(min(tensor.width, 10))]
    if tensor.classes is not None:
        shown = [f"{choice} ({name!r})" for choice, name in zip(shown, tensor.classes, strict=False)]
    if tensor.width > len(shown):
        shown.append(f"… {tensor.name}[{tensor.width - 1}]")
    return ", ".join(shown)


def _meant(name: str, known: Iterable[str]) -> str:
    """The nearest right word, or all of them where none is near."""
    known = list(known)
    if near := get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(map(repr, known[:10]))}" + (", …" if len(known) > 10 else "")


def _dtype(kind: str) -> str | None:
    """The dtype in ONNX Runtime's `tensor(float)`, or None for what is no tensor of numbers or text."""
    return _DTYPES.get(kind.removeprefix("tensor(").removesuffix(")"))


def _tensor(side: str, node: Any, classes: Iterable[str] | None = None) -> Tensor:
    """A session's `NodeArg` as a Tensor; `node.shape` is [] both for a scalar and where none is declared."""
    dtype = _dtype(node.type)
    its = f"the model's {side} {node.name!r}"
    if dtype is None:
        raise ModelError(
            f"{its} is {node.type}; a table's columns can fill only tensors of numbers, bool or string"
        )
    shape: list[int | str | None] = node.shape
    if side == "input" and len(shape) not in {1, 2}:
        what = f"the shape {shape}" if shape else "no declared shape"
        raise ModelError(f"{its} has {what}; it must be [N], [N, 1] or [N, F]")
    if shape and isinstance(shape[0], int):
        raise ModelError(
            f"{its} has a fixed first dimension ({shape[0]} of shape {shape}), so rows cannot be scored in "
            "batches; export it again with a dynamic batch axis"
        )
    width = {1: 1, 2: shape[-1]}.get(len(shape)) if shape else None
    classes = None if classes is None else tuple(classes)
    return Tensor(node.name, dtype, width if isinstance(width, int) else None, len(shape), classes)
