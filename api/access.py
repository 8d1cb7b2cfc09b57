"""Who is reading: keys checked in constant time, how often each may ask, and which jobs it may see."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from storage import api_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.requests import HTTPConnection

    from storage.api_keys import ApiKey

SCOPE = "batchpred.reader"
# How long a key is trusted after it was read: a revoked one opens nothing after that.
KEY_SECONDS = 2.0
# Ids of keys that are not there are remembered too, and anybody can send those.
_MOST_REMEMBERED = 1_024
_WANTED = "a valid API key is needed: Authorization: Bearer KEY"


@dataclass(frozen=True)
class Reader:
    """Someone who reads: the id of the key (None where no key is wanted) and the jobs it opens (None: all)."""

    key_id: str | None = None
    jobs: frozenset[str] | None = None

    def may_read(self, job: str) -> bool:
        """Say whether this reader may know of the job at all."""
        return self.jobs is None or job in self.jobs


ANYBODY = Reader()


def reader_of(request: HTTPConnection) -> Reader:
    """Return who sent the request."""
    reader = request.scope.get(SCOPE, ANYBODY)
    assert isinstance(reader, Reader)  # noqa: S101  # nothing else is put there
    return reader


class RefusedError(Exception):
    """The request is not let in: with which status, why, and which headers say more."""

    def __init__(self, status: HTTPStatus, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


@dataclass
class _Known:
    """A key as it was last read, and how many requests it has left this second."""

    key: ApiKey | None
    reader: Reader
    read_at: float
    left: float = field(default=0.0)
    counted_at: float = field(default=0.0)


class Gate:
    """Lets requests in. `find` reads a key by its id, `wanted` says whether keys are wanted; both may block.

    What was read counts for KEY_SECONDS from the moment the reading began. From half of that on it is read again
    in the background, so that a reader who keeps asking waits for the database only once.
    """

    def __init__(self, find: Callable[[str], ApiKey | None], wanted: Callable[[], bool]) -> None:
        self._find, self._ask_wanted = find, wanted
        self._known: dict[str, _Known] = {}
        # One reading serves all who came meanwhile; that of "" says whether keys are wanted.
        self._reading: dict[str, asyncio.Task[_Known | None]] = {}
        self._wanted = True
        self._wanted_at = float("-inf")

    def admit_known(self, token: bytes, now: float) -> Reader | None:
        """Let a request in by what is remembered; None where the database must be asked. Raises RefusedError.

        `now` is the monotonic clock's.
        """
        if not self._wanted and now - self._wanted_at < KEY_SECONDS / 2:
            return ANYBODY
        if not self._wanted or self._wanted_at == float("-inf"):
            if not self._counts("", self._wanted_at, now):
                return None
            return ANYBODY
        key_id = _key_id(token)
        known = self._known.get(key_id)
        if known is None or not self._counts(key_id, known.read_at, now):
            return None
        return _checked(known, token, now)

    async def admit(self, token: bytes) -> Reader:
        """Let a request in. Raises RefusedError, or DatabaseError where the key cannot be read."""
        if not self._wanted or self._wanted_at == float("-inf"):
            await asyncio.shield(self._read(""))
        if not self._wanted:
            return ANYBODY
        key_id = _key_id(token)
        known = await asyncio.shield(self._read(key_id))
        assert known is not None  # noqa: S101  # read by its id
        return _checked(known, token, time.monotonic())

    def _counts(self, name: str, read_at: float, now: float) -> bool:
        """Say whether what was read then still counts; have it read again before it does not."""
        age = now - read_at
        if KEY_SECONDS / 2 <= age < KEY_SECONDS:
            self._read(name)
        return age < KEY_SECONDS

    def _read(self, name: str) -> asyncio.Task[_Known | None]:
        task = self._reading.get(name)
        if task is None:
            reading = self._read_key(name) if name else self._read_wanted()
            task = asyncio.create_task(reading)
            self._reading[name] = task
            task.add_done_callback(lambda done: self._end(name, done))
        return task

    def _end(self, name: str, task: asyncio.Task[_Known | None]) -> None:
        del self._reading[name]
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; nobody may be waiting

    async def _read_wanted(self) -> None:
        began = time.monotonic()
        self._wanted = await asyncio.to_thread(self._ask_wanted)
        self._wanted_at = began

    async def _read_key(self, key_id: str) -> _Known:
        began = time.monotonic()
        key = await asyncio.to_thread(self._find, key_id)
        known = _Known(key, Reader(key_id, key.jobs if key else frozenset()), began, counted_at=began)
        before = self._known.get(key_id)
        if before is not None:  # what is left of this second is not given anew
            known.left, known.counted_at = before.left, before.counted_at
        elif key and key.requests_per_second:
            known.left = float(key.requests_per_second)
        if len(self._known) >= _MOST_REMEMBERED:
            # Those that are not there go first: whoever makes them up must not have a real one's count forgotten.
            self._known = {name: known for name, known in self._known.items() if known.key is not None}
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key_id] = known
        return known


def _key_id(token: bytes) -> str:
    key_id = api_keys.key_id_of(token) if token else None
    if key_id is None:
        raise _unauthorized()
    return key_id


def _checked(known: _Known, token: bytes, now: float) -> Reader:
    key = known.key
    if key is None or not key.is_of(token):
        raise _unauthorized()
    if key.expires_at is not None and key.expires_at.timestamp() <= time.time():
        raise _unauthorized()
    if rate := key.requests_per_second:
        known.left = min(float(rate), known.left + (now - known.counted_at) * rate)
        known.counted_at = now
        if known.left < 1.0:
            detail = f"this key may send {rate} requests a second"
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, detail, [(b"retry-after", b"1")])
        known.left -= 1.0
    return known.reader


def token_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Take the key from the one Authorization header; nothing where there is none, or another scheme."""
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1 or found[0][:7].lower() != b"bearer ":
        return b""
    return bytes(found[0][7:])


def _unauthorized() -> RefusedError:
    # Missing, wrong, revoked, expired: one answer, so nobody learns which.
    return RefusedError(HTTPStatus.UNAUTHORIZED, _WANTED, [(b"www-authenticate", b"Bearer")])
