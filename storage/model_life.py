"""How a version is promoted, moved back, retired and deleted; every step is on record.

    promote    the alias points at the version from the next run on; a rollback still finds what it pointed at
    rollback   the alias points again at what it pointed at before its last promotion; nothing is scored
    retire     the version stays, but is neither promoted nor scored with; never one in use
    delete     its bytes go; its row stays, so that its number is not given again and history can be read

A version is needed, and not deleted, while an alias points at it or would roll back to it, while it is a canary,
and while a run of it has predictions: readers see them, may go back to them, or the next run takes them up.

Each change of a name is one transaction under that name's lock, so a promotion and a rollback come one after the
other, and whoever comes second sees what the first one did.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from storage.errors import StorageError
from storage.holder import this_person
from storage.queries import load
from storage.registry import ModelRef, ModelVersion, check_name, move_alias, resolve, versions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from storage.database import Connection, Row

_SQL = load("model_life")
_MODELS = load("models")
# What leads back to an earlier version, as against to a new one.
_BACK = ("rollback", "unstable")


class ModelNeededError(StorageError):
    """A run or an alias needs the version."""


class NoEarlierVersionError(StorageError):
    """There is nothing an alias could be moved back to."""


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias; `moved` is False where it pointed there already."""

    name: str
    alias: str
    from_version: int | None
    to_version: int
    moved: bool


@dataclass(frozen=True)
class StoredFile:
    """A file of the store, looked at: `status` is ok, damaged or missing."""

    sha256: str
    size: int
    versions: list[str]
    status: str


def promote(
    connection: Connection, ref: ModelRef, alias: str, *, kind: str = "promote", why: str | None = None
) -> AliasMove:
    """Point `alias` at the version a reference names. Raises ModelNotFoundError, also where it is retired."""
    check_name("alias", alias)
    with connection.transaction():
        _begin(connection, ref.name)
        version = resolve(connection, ref, to_score=True)
        moved, was = move_alias(connection, ref.name, alias, version.version, kind=kind, why=why)
    return AliasMove(ref.name, alias, was, version.version, moved)


def rollback(
    connection: Connection,
    name: str,
    alias: str,
    *,
    to_version: int | None = None,
    kind: str = "rollback",
    why: str | None = None,
    only_if_at: int | None = None,
) -> AliasMove:
    """Point `alias` at what it pointed at before its last promotion, or at `to_version` if it ever did.

    With `only_if_at` nothing moves unless the alias points there now. Raises ModelNotFoundError where there is no
    such alias, and NoEarlierVersionError.
    """
    with connection.transaction():
        _begin(connection, name)
        now = resolve(connection, ModelRef(name, alias=alias)).version
        if only_if_at is not None and now != only_if_at:
            return AliasMove(name, alias, now, now, moved=False)
        earlier = earlier_targets(connection, name, alias)
        if to_version is not None and to_version not in (*earlier, now):
            been = ", ".join(map(str, earlier)) or "no other one"
            raise NoEarlierVersionError(
                f"{name}@{alias} did not point at version {to_version} before (it did at {been}); to point it "
                f"there: batchpred models promote {name}/{to_version} --alias {alias}"
            )
        if to_version is None and not earlier:
            raise NoEarlierVersionError(
                f"{name}@{alias} points at {name}/{now} and there is no earlier version it could go back to; "
                f"see: batchpred models history {name}"
            )
        target = earlier[0] if to_version is None else to_version
        moved, was = move_alias(connection, name, alias, target, kind=kind, why=why)
    return AliasMove(name, alias, was, target, moved)


def earlier_targets(connection: Connection, name: str, alias: str) -> list[int]:
    """List the versions a rollback of `alias` would go back to, the next one first; retired ones are left out.

    A rollback takes the last promotion back, so the moves are read as a stack.
    """
    stack: list[int] = []
    for move in connection.execute(_SQL["moves"], {"name": name, "alias": alias}):
        if move["kind"] in _BACK:
            while stack and stack[-1] != move["to_version"]:
                stack.pop()
            if stack:
                continue
        stack.append(move["to_version"])
    usable = {each.version for each in versions(connection, name) if each.retired_at is None}
    now = stack[-1] if stack else None
    return [each for each in dict.fromkeys(reversed(stack[:-1])) if each in usable and each != now]


def retire(connection: Connection, ref: ModelRef, why: str) -> tuple[ModelVersion, bool]:
    """Retire a version; return it and whether it was not retired before. Raises ModelNeededError."""
    with connection.transaction():
        _begin(connection, ref.name)
        version = resolve(connection, ref)
        if used := in_use(connection, version):
            raise ModelNeededError(
                f"{version} is in use and was not retired: {'; '.join(used)}; promote another version and run first"
            )
        ids = {"name": version.name, "version": version.version, "why": why}
        changed = connection.execute(_SQL["retire"], ids).fetchone() is not None
        if changed:
            record(connection, version.name, version.version, "retired", {"why": why})
        return resolve(connection, ModelRef(version.name, version=version.version)), changed


def take_back(connection: Connection, ref: ModelRef) -> tuple[ModelVersion, bool]:
    """Undo a retirement; return the version and whether it was retired."""
    with connection.transaction():
        _begin(connection, ref.name)
        version = resolve(connection, ref)
        ids = {"name": version.name, "version": version.version}
        changed = connection.execute(_SQL["take_back"], ids).fetchone() is not None
        if changed:
            record(connection, version.name, version.version, "taken back", {})
        return resolve(connection, ModelRef(version.name, version=version.version)), changed


def in_use(connection: Connection, version: ModelVersion) -> list[str]:
    """Say what uses a version now, a phrase each: aliases, jobs whose current predictions it made, runs at work."""
    ids = {"name": version.name, "version": version.version}
    shown = [row["job"] for row in connection.execute(_SQL["jobs_that_show"], ids)]
    at_work = connection.execute(_SQL["runs_at_work"], ids).fetchall()
    return [
        *_named_by(version),
        *(f"the current predictions of {job} are its" for job in shown),
        *(f"run {run['run_id']} of {run['job']} scores with it" for run in at_work),
    ]


def _named_by(version: ModelVersion) -> list[str]:
    pointing = [f"{version.name}@{alias} points at it" for alias in version.aliases]
    return pointing + [f"it is the canary of {version.name}@{alias}" for alias in version.canary_of]


def needed_by(connection: Connection, version: ModelVersion) -> list[str]:
    """Say what needs a version, a phrase each; nothing means that it may be deleted."""
    reasons = _named_by(version)
    aliases = {alias for each in versions(connection, version.name) for alias in each.aliases}
    reasons += [
        f"{version.name}@{alias} would roll back to it"
        for alias in sorted(aliases - set(version.aliases))
        if earlier_targets(connection, version.name, alias)[:1] == [version.version]
    ]
    ids = {"name": version.name, "version": version.version}
    for run in connection.execute(_SQL["runs_that_need"], ids):
        sees = "whose predictions readers see" if run["is_read"] else f"{run['status']}, has its predictions"
        reasons += [f"run {run['run_id']} ({run['job']}, {run['as_of_date']}), {sees}"]
    return reasons


def delete(connection: Connection, ref: ModelRef) -> ModelVersion:
    """Delete a version's bytes; its row stays. Raises ModelNeededError where a run or an alias needs it."""
    with connection.transaction():
        _begin(connection, ref.name)
        version = resolve(connection, ref)
        if reasons := needed_by(connection, version):
            raise ModelNeededError(
                f"{version} is needed and was not deleted: {'; '.join(reasons)} "
                f"(to take it out of use and keep it: batchpred models retire {version})"
            )
        ids = {"name": version.name, "version": version.version, "sha256": version.sha256}
        connection.execute(_SQL["lock_file"], ids)
        connection.execute(_SQL["mark_deleted"], ids)
        connection.execute(_SQL["drop_bytes"], ids)
        record(connection, version.name, version.version, "deleted", {"sha256": version.sha256})
    return version


def add_metrics(connection: Connection, version: ModelVersion, metrics: dict[str, float]) -> None:
    """Keep what an evaluation found with a version, over what was known of the same metric."""
    ids = {"name": version.name, "version": version.version, "metrics": Jsonb(metrics)}
    connection.execute(_SQL["add_metrics"], ids)


def take_back_unstable(
    connection: Connection, name: str, alias: str, version: int, why: str
) -> AliasMove | None:
    """Move an alias back from a version that was released and whose first run was blocked; None where it is not so.

    Only a release is taken back by itself, and only before any run of the version was published since.
    """
    ids = {"name": name, "alias": alias, "version": version}
    last = connection.execute(_SQL["newest_move"], ids).fetchone()
    if last is None or (last["kind"], last["to_version"]) != ("release", version):
        return None
    if connection.execute(_SQL["has_published_since"], {**ids, "since": last["moved_at"]}).fetchone():
        return None
    try:
        move = rollback(connection, name, alias, kind="unstable", why=why, only_if_at=version)
    except NoEarlierVersionError:
        return None
    return move if move.moved else None


def record(connection: Connection, name: str, version: int | None, kind: str, details: Row) -> None:
    """Write down what became of a model, in the transaction that did it."""
    values = {"name": name, "version": version, "kind": kind, "details": Jsonb(details), "by": this_person()}
    connection.execute(_SQL["record_event"], values)


def keep_signature(connection: Connection, version: ModelVersion, signature: bytes, by: str) -> None:
    """Keep a signature of a version's file; it stands for those before it. `by` says which key verified it."""
    details = {"by": by, "signature": signature.decode()}
    record(connection, version.name, version.version, "signed", details)


def signature_of(connection: Connection, version: ModelVersion) -> bytes | None:
    """Return the newest signature of a version's file, or None."""
    ids = {"name": version.name, "version": version.version}
    row = connection.execute(_SQL["signature"], ids).fetchone()
    return row["signature"].encode() if row else None


def alias_moves(connection: Connection, name: str, alias: str | None = None) -> list[Row]:
    """List the moves of a name's aliases, or of one, in order. Raises ModelNotFoundError for an unknown name."""
    rows = connection.execute(_SQL["moves"], {"name": name, "alias": alias}).fetchall()
    if not rows and (alias is not None or not versions(connection, name)):
        resolve(connection, ModelRef(name, alias=alias or "champion"))  # says what there is instead
    return rows


def events(connection: Connection, name: str) -> list[Row]:
    """List what else became of a name's versions, in order."""
    return connection.execute(_SQL["events"], {"name": name}).fetchall()


def spans(moves: Sequence[Row], start: datetime, end: datetime) -> list[Row]:
    """Tell which versions an alias pointed at within [start, end), and from when until when (None: still)."""
    ends = [*(move["moved_at"] for move in moves[1:]), None]
    return [
        {
            "version": move["to_version"],
            "since": move["moved_at"],
            "until": until,
            "kind": move["kind"],
            "by": move["moved_by"],
        }
        for move, until in zip(moves, ends, strict=True)
        if move["moved_at"] < end and (until is None or until > start)
    ]


def profile(connection: Connection, version: ModelVersion) -> dict[str, Any] | None:
    """Return the reference profile that was stored with a version, or None."""
    ids = {"name": version.name, "version": version.version}
    row = connection.execute(_SQL["profile"], ids).fetchone()
    return row["profile"] if row else None


def verify(connection: Connection) -> list[StoredFile]:
    """Hash every stored file anew, a piece at a time, and compare with the digest it was pushed under."""
    files = connection.execute(_SQL["files"]).fetchall()
    return [StoredFile(**file, status=_status(connection, file["sha256"])) for file in files]


def _status(connection: Connection, sha256: str) -> str:
    digest, size = hashlib.sha256(), 0
    with connection.cursor() as cursor:
        for piece in cursor.stream(_MODELS["pieces"], {"sha256": sha256}):
            digest.update(piece["data"])
            size += len(piece["data"])
    return "ok" if digest.hexdigest() == sha256 else "damaged" if size else "missing"


def _begin(connection: Connection, name: str) -> None:
    connection.execute("SET LOCAL synchronous_commit = on")
    connection.execute(_MODELS["lock_name"], {"name": name})
