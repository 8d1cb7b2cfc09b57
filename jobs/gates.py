"""The gates of a project, gates.yaml: what a model version must reach before it is stored or promoted.

    version: 1
    models:
      churn:                                   # by name; "*" is for models that have no entry of their own
        metrics:
          auc: {min: 0.7, max_drop: 0.01}      # absolute, and against the champion, in the metric's own units
          logloss: {max: 0.6, max_rise: 0.02}
        min_coverage: 0.99                     # share of the holdout's rows that get a prediction
        latency: {max_ms_per_10k: 500, max_ratio: 1.5}
        signed_by: keys/release.pem            # held at each run too, and not to be overridden: jobs/signing.py
        retire: {older_than: 180d, metrics: {auc: {min: 0.7}}, keep: 3}  # no gate: jobs.gates.RetireRule
        shadow: {min_rank_correlation: 0.9, max_moved: 0.1}   # on a job's own rows, beside the champion

At a push a metric that nobody gave is not held; at a promotion it fails. `shadow` is held at a release alone.
Without a champion, or where it lacks the metric, there is nothing to compare with, and that is said. The champion
is not compared with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from jobs.errors import JobError, JobFileError
from jobs.jobfile import faults_of, text_of
from jobs.jobspec.values import Duration, NotEmpty, Share, Strict
from jobs.yamlfile import read_document
from storage.retirement import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jobs.comparison import Comparison

FILE = "gates.yaml"
COVERAGE = "coverage"


class GatesFailedError(JobError):
    """A version did not pass its gates; the champion is untouched."""

    exit_code = 3


def _version(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise ValueError("version: write 1, the only one there is")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MetricBounds(Strict):
    """The absolute bounds of one metric; at least one of them."""

    min: float | None = Field(None, description="The least it may be.")
    max: float | None = Field(None, description="The most it may be.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not self.model_fields_set:
            *others, last = type(self).model_fields
            raise ValueError(f"it has no bound; write {', '.join(others)} or {last}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class MetricGate(MetricBounds):
    """The bounds of one metric at a push or a promotion, also against the champion's."""

    max_drop: float | None = Field(None, ge=0, description="How far it may lie below the champion's.")
    max_rise: float | None = Field(None, ge=0, description="How far it may lie above the champion's.")


class LatencyGate(Strict):
    """How long 10,000 made-up rows may take on one thread of this machine."""

    max_ms_per_10k: float | None = Field(None, gt=0, description="Milliseconds.")
    max_ratio: float | None = Field(None, gt=0, description="Times what the champion takes, in one sitting.")


class RetireRule(Strict):
    """When versions of a model are stale: `batchpred models retire --stale` retires them, but none in use."""

    older_than: Duration | None = Field(None, description="Pushed longer ago than this.")
    metrics: dict[str, MetricBounds] = Field(
        default_factory=dict, description="Or one of these out of bounds."
    )
    keep: int = Field(0, ge=0, description="How many of the newest are left alone, whatever they are.")

    @model_validator(mode="after")
    def _says_something(self) -> RetireRule:
        if self.older_than is None and not self.metrics:
            raise ValueError("it retires nothing; write older_than or metrics")
        return self

    @property
    def rule(self) -> Rule:
        """What the registry is asked."""
        bounds = {name: (each.min, each.max) for name, each in self.metrics.items()}
        return Rule(self.older_than, bounds, self.keep)


class ShadowGates(Strict):
    """How far a candidate may be from the champion on a job's own rows; at least one bound."""

    min_rank_correlation: float | None = Field(
        None, ge=-1, le=1, description="The least Spearman's correlation of the two scores may be."
    )
    max_moved: Share | None = Field(None, description="Share of rows that move two deciles or more.")
    min_agreement: Share | None = Field(
        None, description="Share of rows on which outputs that are no scores, such as labels, are equal."
    )
    min_coverage: Share | None = Field(
        None, description="How many rows get a prediction, as a share of those the champion predicts."
    )

    @model_validator(mode="after")
    def _bounds(self) -> ShadowGates:
        if not self.model_fields_set:
            raise ValueError(
                "it has no bound; write min_rank_correlation, max_moved, min_agreement or min_coverage"
            )
        return self


class ModelGates(Strict):
    """The gates of one model."""

    metrics: dict[str, MetricGate] = Field(default_factory=dict)
    min_coverage: Share | None = Field(None, description="Share of the holdout's rows with a prediction.")
    latency: LatencyGate | None = None
    signed_by: Annotated[list[NotEmpty], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        description="Keys or certificates, of which one has signed each version that is used.",
    )
    retire: RetireRule | None = Field(None, description="No gate: when versions are taken out of use.")
    shadow: ShadowGates | None = None


class Gates(Strict):
    """A gates file."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    models: dict[str, ModelGates]

    def of(self, name: str) -> ModelGates:
        """The gates of a model: its own, else those of "*", else none."""
        return self.models.get(name) or self.models.get("*") or ModelGates()

    def signers(self, name: str) -> list[str]:
        """The keys a model's versions must be signed by: its own, else those of "*" whatever else it says."""
        own, others = (self.models.get(each) for each in (name, "*"))
        return (own and own.signed_by) or (others and others.signed_by) or []


@dataclass(frozen=True)
class Held:
    """One gate, held: what it asks, whether it passed, and what was found."""

    gate: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.found}"


@dataclass(frozen=True)
class Contender:
    """A version before its gates: metrics by name, and a way to its latency in ms per 10,000 rows."""

    label: str
    metrics: Mapping[str, float]
    latency: Callable[[], float]


def load_gates(path: Path, environ: Mapping[str, str]) -> Gates:
    """Read a gates file. Raises JobFileError with a line, file:line:column first, for each fault."""
    document = read_document(text_of(path, "a gates file"), path.name, environ)
    try:
        return Gates.model_validate(document.data)
    except ValidationError as error:
        raise JobFileError(faults_of(error, path.name, document, Gates)) from None


def hold(
    gates: ModelGates, candidate: Contender, champion: Contender | None, *, need_metrics: bool
) -> list[Held]:
    """Hold a candidate against its gates. `need_metrics` fails those whose metric nobody gave."""
    held = []
    for name, gate in gates.metrics.items():
        held += _metric(name, gate, candidate, champion, need=need_metrics)
    if gates.min_coverage is not None:
        held += _metric(COVERAGE, MetricGate(min=gates.min_coverage), candidate, None, need=need_metrics)
    if gates.latency is not None:
        held += _latency(gates.latency, candidate, champion)
    return held


def hold_shadow(gates: ShadowGates, found: Comparison) -> list[Held]:
    """Hold what a comparison with the champion found against its gates; a bound that no output has fails."""
    scores = {name: each for name, each in found.outputs.items() if "rank_correlation" in each}
    others = {name: each for name, each in found.outputs.items() if name not in scores}
    held = []
    if (least := gates.min_rank_correlation) is not None:
        held += _outputs(
            f"rank correlation >= {least:g}", scores, "rank_correlation", lambda value: value >= least
        )
    if (most := gates.max_moved) is not None:
        what = f"at most {most:g} move two deciles"
        held += _outputs(what, scores, "moved_two_or_more", lambda value: value <= most)
    if (same := gates.min_agreement) is not None:
        held += _outputs(f"at least {same:g} agree", others, "equal", lambda value: value >= same)
    if (share := gates.min_coverage) is not None:
        champion, candidate = found.scored.values()
        told = f"{candidate:,} rows after {champion:,}"
        held.append(Held(f"at least {share:g} of the champion's rows", candidate >= share * champion, told))
    return held


def _outputs(
    gate: str, outputs: Mapping[str, Mapping[str, Any]], figure: str, holds: Callable[[float], bool]
) -> list[Held]:
    if not outputs:
        return [Held(gate, passed=False, found="the job has no output that it could be held at")]
    return [
        Held(
            gate,
            passed=each[figure] is not None and holds(each[figure]),
            found=f"{name} is constant" if each[figure] is None else f"{each[figure]:.4g} ({name})",
        )
        for name, each in outputs.items()
    ]


def require(name: str, held: list[Held]) -> None:
    """Raise GatesFailedError listing the gates that failed, if any did."""
    if failed := [str(each) for each in held if not each.passed]:
        raise GatesFailedError(f"{name} did not pass {len(failed)} of {len(held)} gates: {'; '.join(failed)}")


def _metric(
    name: str, gate: MetricGate, candidate: Contender, champion: Contender | None, *, need: bool
) -> list[Held]:
    value = candidate.metrics.get(name)
    if value is None:
        how = (
            f"{candidate.label} has no metric {name}; give it at push, or let `batchpred release` measure it"
        )
        return [Held(f"metric {name}", passed=not need, found=how)]
    held = []
    if gate.min is not None:
        held.append(Held(f"{name} >= {gate.min:g}", value >= gate.min, f"{value:.6g}"))
    if gate.max is not None:
        held.append(Held(f"{name} <= {gate.max:g}", value <= gate.max, f"{value:.6g}"))
    theirs = champion.metrics.get(name) if champion else None
    for bound, sign, text in (
        (gate.max_drop, -1, "drops by at most"),
        (gate.max_rise, 1, "rises by at most"),
    ):
        if bound is None:
            continue
        what = f"{name} {text} {bound:g}"
        if champion is None or theirs is None:
            found = f"{champion.label} has no {name} to compare with" if champion else "there is no champion"
            held.append(Held(what, passed=True, found=found))
        else:
            change = sign * (value - theirs)
            held.append(
                Held(what, change <= bound + 1e-12, f"{value:.6g} after {theirs:.6g} of {champion.label}")
            )
    return held


def _latency(gate: LatencyGate, candidate: Contender, champion: Contender | None) -> list[Held]:
    held = []
    ours = candidate.latency()
    if (most := gate.max_ms_per_10k) is not None:
        held.append(Held(f"10,000 rows within {most:g} ms", ours <= most, f"{ours:.1f} ms"))
    if (ratio := gate.max_ratio) is not None:
        what = f"10,000 rows within {ratio:g} times the champion's"
        if champion is None:
            held.append(Held(what, passed=True, found="there is no champion"))
        else:
            theirs = champion.latency()
            held.append(
                Held(what, ours <= ratio * theirs, f"{ours:.1f} ms after {theirs:.1f} ms of {champion.label}")
            )
    return held
