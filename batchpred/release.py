"""A release: train, store, evaluate on a holdout, hold the gates, promote; each step recorded.

    train      the command runs and leaves an ONNX file, or calls batchpred.push itself
    push       the file is examined and stored; NAME@candidate points at it
    evaluate   candidate and champion score the same holdout rows; what came out is kept with both versions
    gates      gates.yaml, with the champion's metrics on the same rows
    shadow     candidate and champion on the rows of a job, held at the gates' `shadow`
    promote    NAME@champion points at the candidate; or
    canary     the candidate scores a share of the keys beside the champion, until it is promoted or withdrawn

Without a holdout, gates, a job or a champion that step is skipped, and the record says so. It stops at the first
step that fails, with the champion untouched. If the first run of a released version is then blocked by its checks,
that run moves the champion back, or withdraws the canary (jobs/blocked.py).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchpred import gating, release_shadow
from storage import canaries, model_life, registry
from storage.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchpred.release_shadow import ShadowOn
    from batchpred.settings import Settings
    from jobs.holdout import Holdout
    from jobs.transform import Transform
    from storage.database import Connection
    from storage.registry import ModelVersion

# Where a training command finds the path it may write its ONNX file to.
MODEL_FILE_VARIABLE = "BATCHPRED_MODEL_FILE"


class TrainingFailedError(StorageError):
    """The training command failed, or left no model."""


@dataclass
class Release:
    """What is released, and what has become of it: `steps` is filled as it goes."""

    name: str
    file: Path | None = None
    training: str | None = None
    holdout: Holdout | None = None
    score: str | None = None
    features: Mapping[str, str | None] = field(default_factory=dict)
    transform: Transform | None = None
    gates: Path | None = None
    alias: str = "champion"
    shadow_on: ShadowOn | None = None
    shadow: dict[str, Any] | None = None
    canary_share: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    version: ModelVersion | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def release(
    settings: Settings, connection: Connection, asked: Release
) -> model_life.AliasMove | canaries.Canary:
    """Do the release; return what came of it: the alias's move, or the canary where `canary_share` is given.

    Raises what the step raises that fails: the record says which, the champion is untouched.
    """
    registry.check_name("model name", asked.name)
    if asked.file is None and asked.training is None:
        raise ConfigurationError(
            "name the ONNX file to release, or the command that makes one: --run-training CMD"
        )
    if asked.canary_share is not None and gating.champion_of(connection, asked.name, asked.alias) is None:
        raise canaries.no_champion(asked.name, asked.alias)
    try:
        version, data = _candidate(settings, connection, asked)
        champion = gating.champion_of(connection, asked.name, asked.alias)
        with _step(asked, "evaluate", is_skipped=asked.holdout is None):
            found = _evaluate(settings, connection, asked, version=version, champion=champion, data=data)
        with _step(asked, "gates"):
            _hold(settings, connection, asked, champion=champion, found=found, data=data)
        beside = None if champion is None or champion.version == version.version else champion
        with _step(asked, "shadow", is_skipped=asked.shadow_on is None or beside is None):
            _shadow(settings, connection, asked, beside=beside)
        if asked.canary_share is not None:
            with _step(asked, "canary"):
                return canaries.begin(connection, version, asked.alias, asked.canary_share)
        with _step(asked, "promote"):
            ref = registry.ModelRef(asked.name, version=version.version)
            move = model_life.promote(connection, ref, asked.alias, kind="release")
    finally:
        _record(connection, asked)
    return move


def _candidate(settings: Settings, connection: Connection, asked: Release) -> tuple[ModelVersion, bytes]:
    from jobs.gatekeeper import examine

    with tempfile.TemporaryDirectory(prefix="batchpred-release-") as folder:
        made = Path(folder) / "model.onnx"
        before = {each.version for each in registry.versions(connection, asked.name)}
        if asked.training is not None:
            with _step(asked, "train"):
                _train(settings, asked.training, made)
        path = made if made.is_file() else asked.file
        with _step(asked, "push"):
            newer = [each for each in registry.versions(connection, asked.name) if each.version not in before]
            if path is None:
                if not newer:
                    raise TrainingFailedError(
                        f"the training command left no model: it writes an ONNX file to ${MODEL_FILE_VARIABLE}, or "
                        f"to the FILE named beside it, or calls batchpred.push(…, {asked.name!r}, …)"
                    )
                version = newer[0]
                data = registry.fetch(connection, version.sha256, settings.home / "models")
            else:
                try:
                    given = path.read_bytes()
                except OSError as error:
                    raise ConfigurationError(f"{path}: {error.strerror}") from None
                prepared = examine(given)
                data = prepared.data
                source = "training" if path == made else path.name
                version, _ = registry.push(
                    connection, asked.name, data, described=prepared.described, source=source
                )
            one = registry.ModelRef(asked.name, version=version.version)
            model_life.promote(connection, one, "candidate", kind="push")
    asked.version = version
    return version, data


def _train(settings: Settings, command: str, made: Path) -> None:
    environment = {**settings.environ, MODEL_FILE_VARIABLE: str(made)}
    # What it prints is its user's to see, and no result of ours.
    done = subprocess.run(command, shell=True, env=environment, stdout=2, check=False)  # noqa: S602  # it is a command
    if done.returncode:
        raise TrainingFailedError(f"the training command left with {done.returncode}; nothing was pushed")


def _evaluate(
    settings: Settings,
    connection: Connection,
    asked: Release,
    *,
    version: ModelVersion,
    champion: ModelVersion | None,
    data: bytes,
) -> list[dict[str, float]]:
    from jobs.holdout import evaluate
    from jobs.model import Model

    if asked.holdout is None:
        return [version.metrics, champion.metrics if champion else {}]
    models = [Model.load(data, sha256=version.sha256, name=str(version))]
    versions = [version]
    if champion is not None and champion.version != version.version:
        kept = registry.fetch(connection, champion.sha256, settings.home / "models")
        models.append(Model.load(kept, sha256=champion.sha256, name=str(champion)))
        versions.append(champion)
    found = evaluate(
        asked.holdout, models, score=asked.score, features=asked.features, transform=asked.transform
    )
    for each, metrics in zip(versions, found, strict=True):
        model_life.add_metrics(connection, each, metrics)
        asked.metrics[str(each)] = metrics
    merged = [{**each.metrics, **metrics} for each, metrics in zip(versions, found, strict=True)]
    return [*merged, {}][:2]


def _hold(
    settings: Settings,
    connection: Connection,
    asked: Release,
    *,
    champion: ModelVersion | None,
    found: list[dict[str, float]],
    data: bytes,
) -> None:
    from dataclasses import replace

    from jobs.gates import require

    assert asked.version is not None  # noqa: S101  # the push before gave it
    gating.require_signed_version(settings, connection, asked.version, asked.gates)
    is_new = champion is not None and champion.version != asked.version.version
    held = gating.hold_gates(
        settings,
        connection,
        asked.name,
        label=str(asked.version),
        metrics=found[0],
        data=lambda: data,
        champion=replace(champion, metrics=found[1]) if champion is not None and is_new else None,
        gates=asked.gates,
        need_metrics=True,
    )
    asked.steps[-1]["held"] = [f"{'passed' if each.passed else 'FAILED'} {each}" for each in held]
    gating.show_gates(held)
    require(str(asked.version), held)


def _shadow(
    settings: Settings, connection: Connection, asked: Release, *, beside: ModelVersion | None
) -> None:
    from jobs.gates import require

    if asked.shadow_on is None or beside is None:
        return
    bounds = gating.gates_of(settings, asked.name, asked.gates)
    models = (str(beside), str(asked.version))
    found, held = release_shadow.shadow(
        settings, connection, asked.shadow_on, models, bounds.shadow if bounds else None
    )
    asked.shadow = release_shadow.as_details(found)
    if held:
        asked.steps[-1]["held"] = [f"{'passed' if each.passed else 'FAILED'} {each}" for each in held]
    gating.show_gates(held)
    require(str(asked.version), held)


class _step:  # noqa: N801  # read as a statement
    """Times a step and notes how it ended."""

    def __init__(self, asked: Release, name: str, *, is_skipped: bool = False) -> None:
        self._entry: dict[str, Any] = {"step": name, "outcome": "failed"}
        self._is_skipped = is_skipped
        asked.steps.append(self._entry)
        self._began = time.monotonic()

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Note the end, and let an error pass."""
        self._entry["seconds"] = round(time.monotonic() - self._began, 3)
        if error is None:
            self._entry["outcome"] = (
                "skipped" if self._is_skipped or self._entry.get("held") == [] else "done"
            )
        else:
            self._entry["error"] = str(error)


def _record(connection: Connection, asked: Release) -> None:
    details: dict[str, Any] = {
        "steps": [f"{each['step']} {each['outcome']}" for each in asked.steps],
        "metrics": asked.metrics,
    }
    if asked.shadow is not None:
        details["shadow"] = asked.shadow
    if failed := next((each["error"] for each in asked.steps if "error" in each), None):
        details["stopped"] = failed
    version = asked.version.version if asked.version else None
    model_life.record(connection, asked.name, version, "release", details)
