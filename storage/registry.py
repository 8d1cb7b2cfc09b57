"""The model registry: immutable versions kept in PostgreSQL, aliases that move, and a cache by digest."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from storage.errors import ConfigurationError, StorageError
from storage.holder import this_person
from storage.queries import load

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from storage.database import Connection, Row

_SQL = load("models")
# A row of this size streams without either side holding the file; larger ones gain nothing.
_PIECE_BYTES = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class ModelNameError(ConfigurationError):
    """A model name, alias or reference is not of the form it must have."""


class ModelNotFoundError(StorageError):
    """The registry has no such model, version or alias."""


class ModelFileError(StorageError):
    """A model's bytes are not those that were pushed, or not there."""


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version: the row of the registry. `aliases` are those that point at it now."""

    name: str
    version: int
    sha256: str
    size: int
    signature: dict[str, Any]
    opset: dict[str, int]
    notes: list[str]
    source: str
    created_at: Any
    created_by: str
    aliases: list[str]
    pushed_from: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    card: str | None = None
    has_profile: bool = False
    retired_at: Any = None
    retired_why: str | None = None
    deleted_at: Any = None
    canary_of: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Facts:
    """What a person or a training script tells of a version beside its file.

    `metrics` are numbers by name, `tags` texts by name, `card` is Markdown, `profile` what jobs/profile.py makes.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    card: str | None = None
    profile: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelRef:
    """A parsed reference into the registry: `name@alias` or `name/3`."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse `name@alias` or `name/version`. Raises ModelNameError."""
        name, at, alias = text.partition("@")
        if at and _NAME.fullmatch(name) and _NAME.fullmatch(alias):
            return cls(name, alias=alias)
        name, _, number = text.partition("/")
        if _NAME.fullmatch(name) and re.fullmatch(r"[1-9][0-9]{0,8}", number):
            return cls(name, version=int(number))
        raise ModelNameError(
            f"model {text!r} is no reference: write NAME@ALIAS (churn@champion), NAME/VERSION (churn/3), "
            "file:PATH.onnx, mlflow:NAME@ALIAS, s3://BUCKET/PATH.onnx or hf:OWNER/REPO/PATH.onnx@COMMIT"
        )


def push(
    connection: Connection,
    name: str,
    data: bytes,
    *,
    described: Row,
    source: str,
    alias: str | None = None,
    facts: Facts = Facts(),
) -> tuple[ModelVersion, bool]:
    """Store a checked model file as the next version of `name`; return the version and whether it is new.

    `described` holds its signature, opset and notes (plain JSON). The same bytes pushed again are the version
    they already are, with the facts it already has. All of it, alias included, is one transaction.
    Raises ModelNameError.
    """
    check_name("model name", name)
    check_name("alias", alias or "champion")
    sha256 = hashlib.sha256(data).hexdigest()
    ids = {"name": name, "sha256": sha256}
    values = {**ids, **{key: Jsonb(value) for key, value in described.items()}, "source": source}
    values |= {"metrics": Jsonb(facts.metrics), "tags": Jsonb(facts.tags), "card": facts.card}
    values |= {"profile": Jsonb(facts.profile) if facts.profile else None, "pushed_from": this_person()}
    with connection.transaction():
        connection.execute(_SQL["lock_name"], ids)
        connection.execute(_SQL["add_file"], {**ids, "size": len(data)})
        if connection.execute(_SQL["has_bytes"], ids).fetchone() is None:
            _add_pieces(connection, sha256, data)
        new = connection.execute(_SQL["add_version"], values).fetchone()
        row = new or connection.execute(_SQL["version_of_file"], ids).fetchone()
        assert row is not None  # noqa: S101  # either inserted or in the way of the insert
        if alias:
            move_alias(connection, name, alias, row["version"], kind="push")
    return resolve(connection, ModelRef(name, version=row["version"])), new is not None


def versions(connection: Connection, name: str | None = None) -> list[ModelVersion]:
    """List the versions of one name, or of all, newest first within a name; deleted ones are left out."""
    return [each for each in _all_versions(connection, name) if each.deleted_at is None]


def resolve(connection: Connection, ref: ModelRef, *, to_score: bool = False) -> ModelVersion:
    """Find the version a reference names now. Raises ModelNotFoundError saying what there is instead.

    `to_score` refuses a retired version too.
    """
    known = _all_versions(connection, ref.name)
    for each in known:
        if each.version == ref.version or (ref.alias and ref.alias in each.aliases):
            return _usable(each, to_score=to_score)
    if not known:
        names = sorted({each.name for each in versions(connection)})
        near = get_close_matches(ref.name, names, n=1)
        there = f"there are {', '.join(names)}" if names else "the registry is empty"
        there += f" (did you mean {near[0]!r}?)" if near else ""
        raise ModelNotFoundError(
            f"no model is called {ref.name!r}; {there}; push one with: batchpred models push {ref.name} FILE.onnx"
        )
    if ref.alias:
        aliases = sorted(alias for each in known for alias in each.aliases)
        near = get_close_matches(ref.alias, aliases, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ModelNotFoundError(
            f"model {ref.name!r} has no alias {ref.alias!r}; it has {', '.join(aliases) or 'none'}{meant}; set it "
            f"with: batchpred models promote {ref.name}/N --alias {ref.alias}"
        )
    raise ModelNotFoundError(
        f"model {ref.name!r} has no version {ref.version}; the newest is {known[0].version}"
    )


def as_of(connection: Connection, ref: ModelRef, moment: datetime) -> ModelRef:
    """Return the version that an alias named at a moment (aware). Raises ModelNotFoundError where it named none."""
    ids = {"name": ref.name, "alias": ref.alias, "at": moment}
    row = connection.execute(_SQL["alias_as_of"], ids).fetchone()
    if row is None:
        first = connection.execute(_SQL["first_alias_move"], ids).fetchone()
        since = first["moved_at"].isoformat(timespec="seconds") if first and first["moved_at"] else None
        known = f"it has been there since {since}" if since else "it was never set"
        raise ModelNotFoundError(
            f"{ref.name}@{ref.alias} named no version on {moment.isoformat(timespec='seconds')}: {known}"
        )
    return ModelRef(ref.name, version=row["version"])


def fetch(connection: Connection, sha256: str, cache: Path) -> bytes:
    """Return a model file's bytes, from the cache or from the database, and never others than were pushed.

    What the cache holds is verified on every load; a damaged copy is fetched anew. Raises ModelFileError
    where the database's own bytes do not have the digest.
    """
    cached = cache / f"{sha256}.onnx"
    if cached.is_file() and _digest(data := cached.read_bytes()) == sha256:
        return data
    with connection.cursor() as cursor:
        data = b"".join(row["data"] for row in cursor.stream(_SQL["pieces"], {"sha256": sha256}))
    if _digest(data) != sha256:
        found = f"bytes with digest {_digest(data)[:12]}…" if data else "nothing"
        raise ModelFileError(
            f"the registry holds {found} for model file {sha256[:12]}…: it is damaged and was not used; "
            "push the file again under a new version, or restore the database"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Another runner may be reading the same name: a rename shows it the whole file or none.
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as partial:
        partial.write(data)
    os.replace(partial.name, cached)  # noqa: PTH105  # both are strings already
    return data


def _add_pieces(connection: Connection, sha256: str, data: bytes) -> None:
    with connection.cursor() as cursor:
        for piece, start in enumerate(range(0, len(data), _PIECE_BYTES)):
            values = {"sha256": sha256, "piece": piece, "data": data[start : start + _PIECE_BYTES]}
            cursor.execute(_SQL["add_piece"], values)


def move_alias(
    connection: Connection, name: str, alias: str, version: int, *, kind: str, why: str | None = None
) -> tuple[bool, int | None]:
    """Point an alias at a version and record it; return whether it moved, and from which version.

    Call it in a transaction that holds `lock_name`. `kind` is push, promote, release, rollback or unstable.
    """
    ids = {"name": name, "alias": alias}
    found = connection.execute(_SQL["alias_target"], ids).fetchone()
    was = found["version"] if found else None
    if was == version:
        return False, was
    connection.execute(_SQL["move_alias"], {**ids, "version": version})
    moved = {"from_version": was, "version": version, "kind": kind, "why": why, "by": this_person()}
    connection.execute(_SQL["record_move"], {**ids, **moved})
    connection.execute(_SQL["end_canary"], {**ids, **moved})
    return True, was


def check_name(what: str, text: str) -> None:
    """Raise ModelNameError where a text cannot name a model or an alias; `what` says which of them it is."""
    if not _NAME.fullmatch(text):
        raise ModelNameError(
            f"{what} {text!r} is not allowed: a lower-case letter, then up to 62 of a-z, 0-9, _ and -"
        )


def _all_versions(connection: Connection, name: str | None) -> list[ModelVersion]:
    return [ModelVersion(**row) for row in connection.execute(_SQL["versions"], {"name": name})]


def _usable(version: ModelVersion, *, to_score: bool) -> ModelVersion:
    if version.deleted_at is not None:
        raise ModelNotFoundError(
            f"{version} was deleted on {version.deleted_at:%Y-%m-%d}; see: batchpred models history {version.name}"
        )
    if to_score and version.retired_at is not None:
        raise ModelNotFoundError(
            f"{version} was retired on {version.retired_at:%Y-%m-%d} ({version.retired_why}); name another "
            f"version, or take it back with: batchpred models retire {version} --undo"
        )
    return version


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
