"""How the commands hold a version against gates.yaml, and write down what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchpred import console

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchpred.settings import Settings
    from jobs.gates import Contender, Held, ModelGates
    from storage.database import Connection
    from storage.registry import ModelVersion


def gates_of(settings: Settings, name: str, gates: Path | None) -> ModelGates | None:
    """Return the gates of a model in a file, gates.yaml of the current folder if None; None without a file."""
    from jobs.gates import FILE, load_gates

    path = gates or Path(FILE)
    if gates is None and not path.is_file():
        return None
    return load_gates(path, settings.environ).of(name)


def hold_gates(
    settings: Settings,
    connection: Connection,
    name: str,
    *,
    label: str,
    metrics: Mapping[str, float],
    data: Callable[[], bytes],
    champion: ModelVersion | None,
    gates: Path | None,
    need_metrics: bool,
) -> list[Held]:
    """Hold a version against the gates of its name in a gates file; no file, no gates.

    `gates` is the file, gates.yaml of the current folder if None; `data` gives the version's bytes where they are
    to be timed. Raises JobFileError for a faulty file.
    """
    from jobs.gatekeeper import latency
    from jobs.gates import Contender, hold
    from storage import registry

    asked = gates_of(settings, name, gates)
    if asked is None:
        return []
    reigning: Contender | None = None
    if champion is not None:
        sha256 = champion.sha256
        reigning = Contender(
            f"the champion {champion}",
            champion.metrics,
            lambda: latency(registry.fetch(connection, sha256, settings.home / "models")),
        )
    candidate = Contender(label, metrics, lambda: latency(data()))
    return hold(asked, candidate, reigning, need_metrics=need_metrics)


def warn_of_drift(
    settings: Settings, connection: Connection, project: Path, alias: str, version: ModelVersion
) -> None:
    """Say on stderr which jobs of the project will refuse the version that NAME@ALIAS has just become."""
    from jobs.drift import unguarded
    from jobs.jobfile import load_project

    for said in unguarded(connection, load_project(project, settings.environ)[0], alias, version):
        console.err.print(f"warning: {said}", markup=False, soft_wrap=True)


def require_signature(
    settings: Settings,
    name: str,
    label: str,
    gates: Path | None,
    *,
    data: Callable[[], bytes],
    signature: bytes | None,
    remedy: str,
) -> str:
    """Say which key signed a version's bytes; "no key" where the gates file asks for none.

    Raises NotSignedError where it asks for one and the signature is missing or not good.
    """
    from jobs.gates import FILE
    from jobs.signing import trust_of

    trust = trust_of(gates or Path(FILE), name, settings.environ)
    if trust is None:
        return "no key: none is named in gates.yaml"
    return trust.require(label, data(), signature, remedy=remedy).name


def require_signed_version(
    settings: Settings, connection: Connection, version: ModelVersion, gates: Path | None
) -> None:
    """Raise NotSignedError where the gates file asks for a signature that a version does not have."""
    from jobs.signing import sign_and_push
    from storage import model_life, registry

    require_signature(
        settings,
        version.name,
        str(version),
        gates,
        data=lambda: registry.fetch(connection, version.sha256, settings.home / "models"),
        signature=model_life.signature_of(connection, version),
        remedy=sign_and_push(version),
    )


def check_signatures(
    settings: Settings, connection: Connection, gates: Path | None, damaged: set[str]
) -> list[dict[str, str]]:
    """Check the signature of every version that must have one, retired ones and damaged files left out.

    Each is a dict of model, status (ok, refused, or unsigned where no alias points at it) and what is to be said.
    """
    from jobs.gates import FILE
    from jobs.signing import NotSignedError, trust_of
    from storage import model_life, registry

    found = []
    for version in registry.versions(connection):
        is_wanted = version.retired_at is None and version.sha256 not in damaged
        if not is_wanted or trust_of(gates or Path(FILE), version.name, settings.environ) is None:
            continue
        status, said = "ok", ""
        try:
            require_signed_version(settings, connection, version, gates)
        except NotSignedError as error:
            has_none = model_life.signature_of(connection, version) is None
            status, said = "unsigned" if has_none and not version.aliases else "refused", str(error)
        found.append({"model": str(version), "status": status, "said": said})
    return found


def show_gates(held: list[Held]) -> None:
    """Print the gates that were held, a line each, on stderr: the result is what the command did."""
    for each in held:
        console.err.print(f"gate {'passed' if each.passed else 'FAILED'}  {each}", soft_wrap=True)


def as_details(held: list[Held]) -> dict[str, object]:
    """The gates as the record of events keeps them."""
    failed = [str(each) for each in held if not each.passed]
    return {"passed": len(held) - len(failed), "failed": failed}


def champion_of(connection: Connection, name: str, alias: str = "champion") -> ModelVersion | None:
    """Return what an alias of a model points at, or None."""
    from storage import registry

    return next((each for each in registry.versions(connection, name) if alias in each.aliases), None)
