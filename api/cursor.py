"""The cursors of pages: what a reader was reading and how far it got, signed so that nobody can make one up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

_MAC_BYTES = 16


class CursorError(Exception):
    """A cursor was not made by this service, or for another list."""


def encode(secret: bytes, *parts: Any) -> str:
    """Write what a list needs to go on as one text for a URL; `parts` are JSON values, the list's name first."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_mac(secret, text) + text).decode().rstrip("=")


def decode(secret: bytes, cursor: str, *names: str) -> list[Any]:
    """Return the parts of a cursor behind its leading names. Raises CursorError."""
    wrong = CursorError("the cursor is not one that this list gave; start again without it")
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise wrong from None
    mac, text = data[:_MAC_BYTES], data[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, text)):
        raise wrong
    parts: list[Any] = json.loads(text)
    if parts[: len(names)] != list(names):
        raise wrong
    return parts[len(names) :]


def _mac(secret: bytes, text: bytes) -> bytes:
    return hmac.new(secret, text, hashlib.sha256).digest()[:_MAC_BYTES]
