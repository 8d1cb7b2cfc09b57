"""What is kept of drift: versions' reference profiles, each chunk's counts, and each run's verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from storage import model_life
from storage.errors import StorageError
from storage.queries import load
from storage.registry import ModelRef, resolve

if TYPE_CHECKING:
    from storage.database import Connection
    from storage.registry import ModelVersion

_SQL = load("drift")


class HasProfileError(StorageError):
    """A version's reference profile is only replaced where that is asked for."""


def counts(connection: Connection, run_id: int) -> list[dict[str, Any]]:
    """Return what the chunks of a run were counted into, in order; jobs/drift_counts.py says in which form."""
    rows = connection.execute(_SQL["counts"], {"run_id": run_id}).fetchall()
    return [row["drift_counts"] for row in rows]


def note(connection: Connection, run_id: int, verdict: dict[str, Any]) -> None:
    """Keep a run's verdict with it; call it in a transaction that ends with a look at the fence."""
    connection.execute(_SQL["note"], {"run_id": run_id, "drift": Jsonb(verdict)})


def refuse_profiled(version: ModelVersion, *, replace: bool) -> None:
    """Raise HasProfileError where a version has a reference profile and it is not to be replaced."""
    if version.has_profile and not replace:
        raise HasProfileError(
            f"{version} has a reference profile already; see: batchpred models history {version.name}; "
            "to make another of it all the same: --replace"
        )


def keep_profile(
    connection: Connection,
    version: ModelVersion,
    profile: dict[str, Any],
    *,
    job: str,
    interval: str,
    replace: bool,
) -> None:
    """Store a reference profile with a version, and of which job's rows it was made.

    Raises HasProfileError where there is one by now and `replace` is not said, ModelNotFoundError where the version
    was deleted.
    """
    ids = {"name": version.name, "version": version.version}
    with connection.transaction():
        connection.execute(load("models")["lock_name"], ids)
        now = resolve(connection, ModelRef(version.name, version=version.version))
        refuse_profiled(now, replace=replace)
        connection.execute(_SQL["keep_profile"], {**ids, "profile": Jsonb(profile)})
        details = {"job": job, "interval": interval, "rows": profile["rows"]}
        model_life.record(connection, version.name, version.version, "profiled", details)
