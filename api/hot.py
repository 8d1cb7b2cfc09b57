"""The route of one key beneath the framework: the same answers as api/predictions.py, for a tenth of the work.

api/wire.py asks it straight from the socket, and api/edge.py for what came through uvicorn. It answers only what
it can answer in full: the current prediction of a snapshot job, asked for without parameters. Everything else it
leaves to the route above, which stays in the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from api import answers
from api.access import SCOPE
from api.edge import header
from api.metrics import HOT
from storage.keytext import KeyFormatError, parse_key
from storage.lookups import Lookups, MovedError, Target
from storage.pointers import Pointers
from storage.reads import PredictionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope, Send

    from api.plain import Framed
    from storage.database import Database
    from storage.pointers import Pointer

# Answers remembered for each job, about 300 bytes each: of 1,000,000 keys asked for by Zipf's law with exponent 1
# they are 88 %, and 50,000 were 78 %. Of longer ones, with vectors, fewer.
CACHE_ENTRIES = 200_000
_ENTRY_BYTES = 600
_SURELY_BIGINT = 19  # so many digits may be more than a bigint holds
_PARTS_BEFORE_KEY = 5  # '', v1, jobs, JOB, predictions


class Served:
    """A job's newest run as it is answered from: what all its answers share, and those already made."""

    def __init__(self, pointer: Pointer, entries: int) -> None:
        self.target = Target(pointer)
        self.pointer = pointer
        job, run = pointer.job, pointer.run
        self.name = job.name
        self.parts = len(job.key)
        self._is_integer = [kind for _, kind in job.key] == ["integer"]
        self.writer = answers.prediction_writer(job, run)
        self.tag = answers.etag(run)
        self.renew()
        self._half = entries // 2
        self._young_bytes = 0
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def renew(self) -> None:
        """Say again how fresh it is."""
        headers = answers.run_headers(self.pointer.run, self.pointer.run)
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.json_headers = [(b"content-type", b"application/json"), *self.headers]
        # What api/wire.py writes around the values of a row, made anew with the headers.
        self.framed: Framed | None = None

    def has_parts(self, key: bytes) -> bool:
        """Say whether a key, as it stands in a path, has as many parts as the job's."""
        return key.count(b"/") + 1 == self.parts

    def parse(self, key: bytes) -> tuple[Any, ...]:
        """Read a key as it stands in a path. Raises KeyFormatError."""
        if self._is_integer and key.isdigit() and len(key) < _SURELY_BIGINT:
            return (int(key),)
        try:
            return parse_key(self.target.job, [_decoded(part) for part in key.split(b"/")])
        except UnicodeDecodeError:
            raise KeyFormatError("the key is not UTF-8") from None

    def body(self, values: bytes) -> bytes:
        """Make the whole document of a prediction's values."""
        return b"".join((self.writer.before, values, self.writer.behind))

    def remembered(self, key: bytes) -> bytes | None:
        """Look into the cache: two halves, of which the older one is dropped when the younger is full."""
        values = self._young.get(key)
        if values is None and (values := self._old.get(key)) is not None:
            self.remember(key, values)
        return values

    def remember(self, key: bytes, values: bytes) -> None:
        """Put a prediction's values into the cache."""
        if self._half == 0:
            return
        if len(self._young) >= self._half or self._young_bytes >= self._half * _ENTRY_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young_bytes += len(key) + len(values)
        self._young[key] = values


class HotRoute:
    """The route, for one application in one event loop."""

    def __init__(self, database: Database, *, cache_entries: int = CACHE_ENTRIES) -> None:
        self._entries = cache_entries
        self._served: dict[bytes, Served] = {}
        self._lookups = Lookups(database)
        self.attend = self._lookups.attend
        self.pointers = Pointers(database, self._read)
        # All jobs and their newest runs, as last read.
        self.known: list[Pointer] = []

    async def close(self) -> None:
        """Stop listening and close the connections."""
        await self.pointers.stop()
        await self._lookups.close()

    def _read(self, pointers: dict[str, Pointer]) -> None:
        """Take in what was just read; a job whose run or definition changed starts with an empty cache."""
        served = {}
        for name, pointer in pointers.items():
            if pointer.job.mode != "snapshot":  # there a run does not have all keys
                continue
            known = self._served.get(name.encode())
            if known is None or known.pointer != pointer:
                known = Served(pointer, self._entries)
            known.renew()
            served[name.encode()] = known
        self._served, self.known = served, list(pointers.values())

    def match(self, job: bytes) -> Served | None:
        """Find the job whose current prediction is asked for; None where this route is not the one."""
        return self._served.get(job)

    def recall(self, served: Served, key: bytes, now: float) -> bytes | None:
        """Return the values for a key, as it stands in the path, if they are remembered and may be used.

        Without a cache no answer comes from memory, so none is ever stale. `now` is the monotonic clock's.
        """
        return served.remembered(key) if self._entries and self.pointers.are_trusted(now) else None

    def look_up(self, served: Served, key: bytes, done: Callable[[bytes | Exception], None]) -> None:
        """Look up the key that stands in a path and give its values to `done`.

        Or the error: PredictionNotFoundError, DatabaseError, or MovedError where another run is the newest by
        now. Raises KeyFormatError, and then does nothing.
        """
        parsed = served.parse(key)

        def found(outcome: tuple[Any, ...] | Exception | None) -> None:
            if outcome is None:
                done(PredictionNotFoundError(served.target.job, parsed))
            elif isinstance(outcome, Exception):
                done(outcome)
            else:
                values = served.writer.values(outcome)
                served.remember(key, values)
                done(values)

        self._lookups.find(served.target, parsed, found)

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer the request and say True; say False, and nothing else, where the route above must.

        Raises PredictionNotFoundError, or DatabaseError.
        """
        parts = scope["raw_path"].split(b"/", _PARTS_BEFORE_KEY)
        if scope["query_string"] or len(parts) <= _PARTS_BEFORE_KEY or scope["method"] != "GET":
            return False
        served = self.match(parts[3]) if parts[4] == b"predictions" else None
        if served is None or not served.has_parts(parts[5]) or not scope[SCOPE].may_read(served.name):
            return False
        scope[HOT] = True
        values = self.recall(served, parts[5], time.monotonic())
        if values is None:
            try:
                values = await self._looked_up(served, parts[5])
            except (KeyFormatError, MovedError):
                return False
        if answers.matches(header(scope["headers"], b"if-none-match"), served.tag):
            await send({"type": "http.response.start", "status": 304, "headers": served.headers})
            await send({"type": "http.response.body"})
        else:
            body = served.body(values)
            headers = [*served.json_headers, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        return True

    async def _looked_up(self, served: Served, key: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: bytes | Exception) -> None:
            if future.done():  # who asked is gone
                return
            if isinstance(outcome, bytes):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        self.look_up(served, key, done)
        return await future


def _decoded(part: bytes) -> str:
    return (unquote_to_bytes(part) if b"%" in part else part).decode()
