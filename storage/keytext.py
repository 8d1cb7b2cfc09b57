"""How a key that someone wrote becomes the values its columns hold."""

from __future__ import annotations

import re
import uuid
from datetime import date
from typing import TYPE_CHECKING, Any

from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.served import ServedJob

_BIGINT = 1 << 63
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
MAX_KEY_CHARACTERS = 255
# What a key column of each kind is in PostgreSQL; a uuid is kept as its canonical text.
TYPES = {"integer": "bigint", "text": "text", "uuid": "text", "date": "date"}


class KeyFormatError(ConfigurationError):
    """A key has the wrong number of parts, or a part is not what its column holds."""


def parse_key(job: ServedJob, parts: Sequence[object]) -> tuple[Any, ...]:
    """Turn the parts of a key, texts or JSON values, into what its columns hold. Raises KeyFormatError."""
    if len(parts) != len(job.key):
        names = ", ".join(f"{name} ({kind})" for name, kind in job.key)
        raise KeyFormatError(f"a key of {job.name} has {len(job.key)} part(s), {names}; {len(parts)} given")
    return tuple(_parse_part(name, kind, part) for (name, kind), part in zip(job.key, parts, strict=True))


def _parse_part(name: str, kind: str, part: object) -> Any:
    try:
        if type(part) is int and kind == "integer":
            part = str(part)
        if not isinstance(part, str) or len(part) > MAX_KEY_CHARACTERS:
            raise ValueError
        return _PARSERS[kind](part)
    except ValueError:
        shown = repr(part)[:80]
        most = f" of at most {MAX_KEY_CHARACTERS} characters" if kind == "text" else ""
        raise KeyFormatError(f"key part {name} is of type {kind}{most}; {shown} is not") from None


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -_BIGINT <= (value := int(text)) < _BIGINT:
        raise ValueError
    return value


def _date(text: str) -> date:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError
    return date.fromisoformat(text)


def _text(text: str) -> str:
    # PostgreSQL has no NUL in a text, and half of a surrogate pair (JSON can write one) is no character.
    if "\0" in text:
        raise ValueError
    text.encode()
    return text


def _uuid(text: str) -> str:
    return str(uuid.UUID(text))


_PARSERS = {"integer": _integer, "text": _text, "uuid": _uuid, "date": _date}
