"""A model file beside a SHA256SUMS, as an image with a baked-in model has one, is held against that list."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from jobs.errors import ModelDamagedError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "SHA256SUMS"


def listed(path: Path, data: bytes) -> bytes:
    """Return `data`, the bytes of the model file `path`; without a list beside it whatever they are.

    Raises ModelDamagedError where the list has another digest for that name, or does not have the name.
    """
    sums = path.with_name(FILE)
    if not sums.is_file():
        return data
    known = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        known[name.lstrip(" *")] = digest.lower()
    actual = hashlib.sha256(data).hexdigest()
    if known.get(path.name) != actual:
        wanted = f"says {known[path.name]}" if path.name in known else "does not name it"
        raise ModelDamagedError(
            f"model file {path} has the sha256 {actual}, and {sums} {wanted}; it was not used. Build the image "
            "again, or write the list anew with sha256sum"
        )
    return data
