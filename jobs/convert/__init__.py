"""How a trained estimator becomes an ONNX file with one input per column, by each library's kept converter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError

if TYPE_CHECKING:
    from jobs.convert.sample import Sample

_EXTRAS = {"sklearn": "sklearn", "torch": "torch"}
KINDS = ("sklearn", "lightgbm", "xgboost", "catboost", "torch")


def kind_of(estimator: Any) -> str:
    """Return the library an estimator comes from, of KINDS. Raises ModelError."""
    for each in type(estimator).__mro__:
        library = each.__module__.partition(".")[0]
        if library in KINDS:
            return library
    raise ModelError(
        f"a {type(estimator).__module__}.{type(estimator).__name__} cannot be pushed from Python: known are models "
        f"of {', '.join(KINDS)}; convert it to ONNX yourself and push the file: batchpred models push NAME FILE"
    )


def convert(estimator: Any, sample: Sample) -> bytes:
    """Convert a fitted estimator to ONNX: one input [N, 1] for each column of the sample, no ZipMap.

    Outputs are `label` and `probabilities` of a classifier, `prediction` of a regressor or a module. Raises
    ModelError, in the converter's words where it is the converter that cannot.
    """
    kind = kind_of(estimator)
    if kind == "torch":
        from jobs.convert.pytorch import to_onnx
    elif kind == "sklearn":
        from jobs.convert.scikit import to_onnx
    else:
        from jobs.convert.trees import to_onnx
    try:
        return to_onnx(estimator, sample)
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"pushing a model of {kind} needs the package {error.name}; install it with: "
            f'pip install "batchpred[cpu,{_EXTRAS.get(kind, "boosters")}]"'
        ) from error
    except Exception as error:  # each converter has errors of its own, without a common parent
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(estimator).__name__} cannot be converted to ONNX: {type(error).__name__}: {said[:300]}"
        ) from error
