"""The models kept on this machine: files by digest, what references named last, and what examinations said.

A file is believed by its digest, which is taken anew at each load. A record is believed as it stands: who can write
into this folder can say of a file that it was examined.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from jobs.gatekeeper import examine
from jobs.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobs.onnx_file import PreparedModel


class ModelCache:
    """A folder of models and of small records beside them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, download: Callable[[], bytes], *, is_settled: bool = True) -> tuple[str, bytes]:
        """Return digest and bytes of what `key` stands for, downloading and examining it where it is not cached.

        What is not settled may change without its key changing: it is downloaded each time.
        """
        known = self.read(key) if is_settled else None
        data = self.bytes_of(known["sha256"]) if known else None
        if known is not None and data is not None:
            return str(known["sha256"]), data
        prepared = examine(download())
        self._keep(prepared)
        self.write(key, {"sha256": prepared.sha256})
        return prepared.sha256, prepared.data

    def examined(self, data: bytes) -> PreparedModel:
        """Do what `jobs.gatekeeper.examine` does, once for the same bytes and libraries. Raises ModelError.

        Where nothing can be written, as in a container whose disk is read-only, it is done each time.
        """
        from jobs.onnx_file import PreparedModel

        key = f"{hashlib.sha256(data).hexdigest()} {_examiners()}"
        known = self.read(key, "examined")
        if known is not None:
            kept = data if known["as_given"] else self.bytes_of(known["sha256"])
            if kept is not None:
                return PreparedModel(
                    data=kept,
                    sha256=known["sha256"],
                    signature=Signature.from_json(known["signature"]),
                    opset=known["opset"],
                    size=len(kept),
                    notes=tuple(known["notes"]),
                )
        prepared = examine(data)
        as_given = prepared.data == data
        with suppress(OSError):
            if not as_given:
                self._keep(prepared)
            self.write(
                key, {"sha256": prepared.sha256, "as_given": as_given, **prepared.described}, "examined"
            )
        return prepared

    def bytes_of(self, sha256: str) -> bytes | None:
        """Return a cached file, or None where it is not there or not what it was."""
        try:
            data = (self._folder / f"{sha256}.onnx").read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def read(self, key: str, kind: str = "remote") -> dict[str, Any] | None:
        """Return a record, or None."""
        try:
            told = json.loads(self._path(key, kind).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_ours = isinstance(told, dict) and re.fullmatch("[0-9a-f]{64}", str(told.get("sha256")))
        return told if is_ours else None

    def write(self, key: str, record: dict[str, Any], kind: str = "remote") -> None:
        """Keep a record."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        _write(self._path(key, kind), json.dumps({**record, "at": at}).encode())

    def _keep(self, prepared: PreparedModel) -> None:
        _write(self._folder / f"{prepared.sha256}.onnx", prepared.data)

    def _path(self, key: str, kind: str) -> Path:
        # By digest: a reference may hold a login.
        return self._folder / kind / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


@cache
def _examiners() -> str:
    """The versions an examination depends on: what one of them lets pass another one may not."""
    import onnx
    import onnxruntime

    try:
        ours = version("batchpred")
    except PackageNotFoundError:  # run from its source, not installed
        ours = ""
    return f"{ours} {onnx.__version__} {onnxruntime.__version__}"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another runner may be reading the same name: a rename shows it the whole file or none.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(data)
    os.replace(partial.name, path)  # noqa: PTH105  # the first is a string already
