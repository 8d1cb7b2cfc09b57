"""Models that live elsewhere: in MLflow (`mlflow:`), object storage (`s3://`, `gs://`, `abfs://`), a hub (`hf:`).

What a reference names is asked at every run. The file is fetched only where it is not cached yet, examined as a
push would examine it, and kept in the cache under its digest, which is verified on every load. Beside the files the
cache keeps what each reference named last. Where the other side does not answer and that version is cached, the run
goes on with it and says so; where it is not cached, the run fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError
from jobs.http_get import RegistryOutageError
from jobs.hub import Hub, HubRef
from jobs.mlflow_registry import MlflowRef, MlflowServer, onnx_file_of
from jobs.model_cache import ModelCache

if TYPE_CHECKING:
    from pathlib import Path

_SETTLED_SECONDS = 60.0  # a second of the store's resolution, and as much as its clock and ours may differ
# Those that a source's path may have too.
_SCHEMES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "az://")
_HUB = Hub()


@dataclass(frozen=True)
class RemoteModel:
    """A model from elsewhere: its name and version there, its examined bytes, and what is to be said of it."""

    name: str
    version: int | None
    sha256: str
    data: bytes
    notes: tuple[str, ...]


def is_remote(ref: str) -> bool:
    """Tell whether a reference names a model outside batchpred's own registry."""
    return ref.startswith(("mlflow:", "hf:", *_SCHEMES))


def fetch_remote(ref: str, server: MlflowServer, cache: Path, hub: Hub = _HUB) -> RemoteModel:
    """Find what a reference names now, and get it from the cache or from where it is.

    Raises ModelError, and RegistryOutageError where the other side does not answer and nothing is cached.
    """
    if ref.startswith("mlflow:"):
        return _from_mlflow(ref, server, ModelCache(cache))
    if ref.startswith("hf:"):
        asked = HubRef.parse(ref)
        # What a commit names is settled for good: nothing is asked where it is cached.
        sha256, data = ModelCache(cache).get(f"{hub.place} {ref}", lambda: hub.read(asked))
        return RemoteModel(asked.name, None, sha256, data, ())
    return _from_storage(ref, ModelCache(cache))


def _from_mlflow(ref: str, server: MlflowServer, cache: ModelCache) -> RemoteModel:
    asked = MlflowRef.parse(ref)
    name = f"mlflow:{asked.name}"
    before = cache.read(f"{server.place} {ref}")
    try:
        version = asked.version or server.version_of(asked.name, str(asked.alias))

        def download() -> bytes:
            where = server.artifact_uri(asked.name, version)
            if where.startswith("mlflow-artifacts:"):
                return server.read_artifact(where, onnx_file_of(server.read_artifact(where, "MLmodel")))
            if where.startswith(_SCHEMES):
                return _read(f"{where}/{onnx_file_of(_read(f'{where}/MLmodel'))}")
            raise ModelError(
                f"{name}/{version} lies at {where.split(':')[0]}:, which only the MLflow server itself can read; "
                "start it with --serve-artifacts, or keep artifacts in s3://, gs:// or abfs://"
            )

        sha256, data = cache.get(f"{server.place} {name}/{version}", download)
    except RegistryOutageError as error:
        return _outlived(name, before, cache, error)
    cache.write(f"{server.place} {ref}", {"version": version, "sha256": sha256})
    notes: tuple[str, ...] = ()
    if before is not None and before.get("version") != version:
        notes = (f"{ref} names version {version} now; the last run here took {before.get('version')}",)
    return RemoteModel(name, version, sha256, data, notes)


def _from_storage(ref: str, cache: ModelCache) -> RemoteModel:
    name = re.sub(r"[^a-z0-9_-]", "_", PurePosixPath(ref.split("?", maxsplit=1)[0]).stem.lower()) or "model"
    before = cache.read(ref)
    try:
        stamp, is_settled = _stamp(ref)
        sha256, data = cache.get(f"{ref} {stamp}", lambda: _read(ref), is_settled=is_settled)
    except RegistryOutageError as error:
        return _outlived(name, before, cache, error)
    cache.write(ref, {"version": None, "sha256": sha256})
    moved = before is not None and before["sha256"] != sha256
    return RemoteModel(
        name,
        None,
        sha256,
        data,
        (f"{shown(ref)} is another file than the last run here took",) if moved else (),
    )


def _outlived(
    name: str, before: dict[str, Any] | None, cache: ModelCache, error: RegistryOutageError
) -> RemoteModel:
    data = cache.bytes_of(before["sha256"]) if before else None
    if before is None or data is None:
        raise error
    number = f"/{before['version']}" if before["version"] is not None else ""
    note = f"{error}; scored with {name}{number}, which it named on {before['at']}, from the cache"
    return RemoteModel(name, before["version"], before["sha256"], data, (note,))


def shown(uri: str) -> str:
    """Write an address without the login and the options it may hold."""
    return re.sub(r"(://)[^/@]*@", r"\1", uri.split("?", maxsplit=1)[0])


def _opened(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        # Arrow knows Azure's scheme by its driver's name alone.
        system, path = fs.FileSystem.from_uri(re.sub("^az://", "abfs://", uri))
    except (ValueError, OSError, NotImplementedError) as error:
        raise ModelError(f"{shown(uri)} is no address of a model: {_reason(error, uri)}") from None
    return system, path


def _stamp(uri: str) -> tuple[str, bool]:
    """What changes when the file does, its size and time; and whether that can be relied on yet.

    Object stores tell the time in seconds, so a file may be replaced by one of its size without a new stamp.
    """
    system, path = _opened(uri)
    try:
        info = system.get_file_info(path)
    except OSError as error:
        raise RegistryOutageError(f"{shown(uri)} cannot be reached: {_reason(error, uri)}") from None
    if not info.is_file:
        raise ModelError(f"there is no file {shown(uri)}")
    age = datetime.now(UTC).timestamp() - (info.mtime_ns or 0) / 1e9
    return f"{info.size} {info.mtime_ns}", age > _SETTLED_SECONDS


def _read(uri: str) -> bytes:
    system, path = _opened(uri)
    try:
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise ModelError(f"there is no file {shown(uri)}") from None
    except OSError as error:
        raise RegistryOutageError(f"{shown(uri)} cannot be read: {_reason(error, uri)}") from None


def _reason(error: Exception, uri: str) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return said.replace(uri, shown(uri))
