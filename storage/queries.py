"""How the named SQL statements in storage/sql/ reach the code that runs them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def load(topic: str) -> Mapping[str, bytes]:
    """Read storage/sql/TOPIC.sql and return its statements by name.

    Each statement stands under a line `-- name: NAME`, with a comment that says what it is for. They are
    bytes because that is how psycopg takes text that is not a literal in the Python source.
    """
    text = (_FOLDER / f"{topic}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {name: body.strip().encode() for name, body in zip(parts[::2], parts[1::2], strict=True)}
