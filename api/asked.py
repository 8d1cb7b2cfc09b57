"""What a request asks for, read strictly: nothing unknown, nothing twice, and keys as they were sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, HTTPException, Query, Request

from storage.keytext import MAX_KEY_CHARACTERS, KeyFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAGE = 1_000
# Percent-encoded UTF-8 takes up to twelve bytes a character; what is longer cannot be a key.
_MAX_PART_BYTES = 12 * MAX_KEY_CHARACTERS


def only(*names: str) -> Callable[[Request], None]:
    """Make the dependency that refuses unknown and repeated query parameters."""

    def check(request: Request) -> None:
        seen: set[str] = set()
        for name, _ in request.query_params.multi_items():
            if name not in names or name in seen:
                wrong = "is given twice" if name in seen else "is not known here"
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"query parameter {name[:40]!r} {wrong}")
            seen.add(name)

    return check


def _as_of(
    as_of: Annotated[
        str | None,
        Query(
            description="The local date, in the job's time zone, on which the interval starts.",
            pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
            examples=["2026-01-02"],
        ),
    ] = None,
) -> date | None:
    try:
        return date.fromisoformat(as_of) if as_of else None
    except ValueError:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"as_of: {as_of} is no date") from None


AsOf = Annotated[date | None, Depends(_as_of)]


@dataclass(frozen=True)
class PageAsked:
    """How many are asked for at most, and the cursor of the page before, which carries the run."""

    limit: int = 100
    cursor: str | None = None


def _page(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many to return at most.")] = 100,
    cursor: Annotated[
        str | None,
        Query(max_length=8192, description="`next_cursor` of the page before; it carries the run."),
    ] = None,
) -> PageAsked:
    return PageAsked(limit, cursor)


Page = Annotated[PageAsked, Depends(_page)]


def key_parts(raw_path: bytes) -> list[str]:
    """Take the parts of a key from the path as it was sent, then decode each. Raises KeyFormatError.

    Split before decoding: a slash inside a part is sent as %2F and is no separator.
    """
    # '', v1, jobs, JOB, predictions, KEY: by its place, for a job may be called predictions.
    encoded = b"".join(raw_path.split(b"/", 5)[5:])
    parts = encoded.split(b"/")
    if len(encoded) > 16 * _MAX_PART_BYTES:
        raise KeyFormatError(f"a key part has {MAX_KEY_CHARACTERS} characters at most")
    try:
        return [unquote_to_bytes(part).decode("utf-8") for part in parts]
    except UnicodeDecodeError:
        raise KeyFormatError("the key is not UTF-8") from None
