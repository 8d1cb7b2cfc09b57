"""`batchpred.push`: from a trained estimator in Python to a version in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchpred.gating import champion_of, hold_gates, require_signature
from batchpred.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.registry import ModelVersion


def push(
    estimator: Any,
    name: str,
    X_sample: Any,  # noqa: N803  # what scikit-learn calls rows
    *,
    alias: str | None = None,
    columns: Sequence[str] | None = None,
    float_dtype: str = "float32",
    dtypes: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    card: str | Path | None = None,
    gates: Path | None = None,
) -> ModelVersion:
    """Convert a fitted estimator to ONNX, prove that it says the same, and store it as a version of `name`.

    `estimator` is a model of scikit-learn, LightGBM, XGBoost or CatBoost, or a PyTorch module that takes one matrix
    of floats (of int64 where `dtypes` says so of every column). `X_sample` are rows as the estimator takes them: a
    pandas DataFrame, whose columns become the inputs' names, or a matrix [N, F] with `columns`. Give thousands, not
    training data alone: on each of them the ONNX predictions are compared with the estimator's, and they make the
    version's reference profile.

    `float_dtype` is the dtype of the inputs that are numbers, `dtypes` says otherwise for a column. A difference
    above `tolerance` refuses the model; it is 1e-4, for other numbers than probabilities times their deviation.
    `card` is a Markdown text, or the path of one. `gates` is the gates file it must pass, gates.yaml of the current
    folder if there is one. The database is the one the commands use.

    Raises GatesFailedError where it does not pass, ModelError for what cannot be converted or is unsafe,
    ConversionDiffersError with the rows that differ most, and what the database raises.
    """
    from jobs.convert import convert
    from jobs.convert.parity import TOLERANCE, compare, expected
    from jobs.convert.sample import Sample
    from jobs.gatekeeper import examine
    from jobs.gates import require
    from jobs.model import Model
    from jobs.profile import make_profile
    from storage import registry

    registry.check_name("model name", name)
    registry.check_name("alias", alias or "champion")
    sample = Sample.of(X_sample, columns=columns, float_dtype=float_dtype, dtypes=dtypes)
    prepared = examine(convert(estimator, sample))
    model = Model.load(prepared.data, sha256=prepared.sha256, name=name)
    parity = compare(
        model, sample, expected(estimator, sample), tolerance=TOLERANCE if tolerance is None else tolerance
    )
    facts = registry.Facts(
        {key: float(value) for key, value in (metrics or {}).items()},
        {key: str(value) for key, value in (tags or {}).items()},
        card.read_text(encoding="utf-8") if isinstance(card, Path) else card,
        make_profile(sample.table, parity.scores),
    )
    largest = ", ".join(f"{output} {gap:.2g}" for output, gap in parity.largest.items())
    said = f"compared with the estimator on {parity.rows} rows; largest difference: {largest}"
    described = prepared.described
    described["notes"] = [*described["notes"], said, *parity.notes]
    settings = Settings.read()
    database = settings.database()
    if alias is not None:
        remedy = (
            "push it without an alias, sign what `batchpred models pull` writes, push that, and promote it"
        )
        require_signature(
            settings, name, name, gates, data=lambda: prepared.data, signature=None, remedy=remedy
        )
    with database.errors("push"), database.connect(purpose="push", as_writer=True) as connection:
        held = hold_gates(
            settings,
            connection,
            name,
            label=f"the {type(estimator).__name__}",
            metrics=facts.metrics,
            data=lambda: prepared.data,
            champion=champion_of(connection, name, alias or "champion"),
            gates=gates,
            need_metrics=alias == "champion",
        )
        require(name, held)
        version, _ = registry.push(
            connection,
            name,
            prepared.data,
            described=described,
            source=f"{type(estimator).__module__.partition('.')[0]} {type(estimator).__name__}",
            alias=alias,
            facts=facts,
        )
    return version
