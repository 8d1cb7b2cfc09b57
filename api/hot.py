"""The route of one key beneath the framework: the same answers as api/predictions.py, for a tenth of the work.

It answers only what it can answer in full: the current prediction of a snapshot job, asked for without
parameters. Everything else, and every fault, it leaves to the route above, which stays in the OpenAPI document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from api import answers
from api.access import SCOPE
from api.metrics import HOT
from storage.keytext import KeyFormatError, parse_key
from storage.lookups import Lookups, MovedError, Target
from storage.pointers import Pointers
from storage.reads import PredictionNotFoundError

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from storage.database import Database
    from storage.pointers import Pointer

# Answers remembered for each job: about 700 bytes each; of longer ones, with vectors, fewer.
CACHE_ENTRIES = 50_000
_ENTRY_BYTES = 1_400
_PARTS_BEFORE_KEY = 5  # '', v1, jobs, JOB, predictions


class _Served:
    """A job's newest run as it is answered from: what all its answers share, and those already made."""

    def __init__(self, pointer: Pointer, entries: int) -> None:
        self.target = Target(pointer)
        self.pointer = pointer
        job, run = pointer.job, pointer.run
        self.parts = _PARTS_BEFORE_KEY + len(job.key)
        self._before = answers.dumps({"job": job.name})[:-1] + b","
        self._behind = b"," + answers.dumps(answers.origin(run))[1:]
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

    def body(self, row: tuple[Any, ...]) -> bytes:
        job = self.target.job
        named = dict(zip((*job.key_names, *job.output_names), row, strict=False))
        return self._before + answers.dumps(answers.prediction(job, named))[1:-1] + self._behind

    def remembered(self, key: bytes) -> bytes | None:
        """Look into the cache: two halves, of which the older one is dropped when the younger is full."""
        body = self._young.get(key)
        if body is None and (body := self._old.get(key)) is not None:
            self.remember(key, body)
        return body

    def remember(self, key: bytes, body: bytes) -> None:
        if self._half == 0:
            return
        if len(self._young) >= self._half or self._young_bytes >= self._half * _ENTRY_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young_bytes += len(body)
        self._young[key] = body


class HotRoute:
    """The route, for one application in one event loop."""

    def __init__(self, database: Database, *, cache_entries: int = CACHE_ENTRIES) -> None:
        self._entries = cache_entries
        self._served: dict[bytes, _Served] = {}
        self._lookups = Lookups(database)
        self.pointers = Pointers(database, self._read)

    @property
    def known(self) -> list[Pointer]:
        """The jobs and their newest runs, as last read."""
        return [served.pointer for served in self._served.values()]

    async def close(self) -> None:
        """Stop listening and close the connections."""
        await self.pointers.stop()
        await self._lookups.close()

    def _read(self, pointers: dict[str, Pointer]) -> None:
        """Take in what was just read; a job whose run or definition changed starts with an empty cache."""
        served = {}
        for name, pointer in pointers.items():
            known = self._served.get(name.encode())
            if known is None or known.pointer != pointer:
                known = _Served(pointer, self._entries)
            known.renew()
            served[name.encode()] = known
        self._served = served

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer the request and say True; say False, and nothing else, where the route above must.

        Raises PredictionNotFoundError, or DatabaseError.
        """
        parts = scope["raw_path"].split(b"/")
        served = self._match(scope, parts)
        if served is None:
            return False
        scope[HOT] = True
        # Without a cache nothing is answered from memory, so nothing is ever stale.
        from_memory = self._entries > 0 and self.pointers.are_trusted
        has_it = answers.matches(_if_none_match(scope), served.tag)
        encoded = b"/".join(parts[5:])
        body = served.remembered(encoded) if from_memory else None
        if body is None and not (has_it and from_memory):
            try:
                key = parse_key(served.target.job, [_decoded(part) for part in parts[5:]])
                row = await self._lookups.find(served.target, key)
            except (KeyFormatError, UnicodeDecodeError, MovedError):
                return False
            if row is None:
                raise PredictionNotFoundError(served.target.job, key)
            body = served.body(row)
            served.remember(encoded, body)
        if has_it:
            await send({"type": "http.response.start", "status": 304, "headers": served.headers})
            await send({"type": "http.response.body"})
        else:
            assert body is not None  # noqa: S101  # remembered or just made
            headers = [*served.json_headers, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        return True

    def _match(self, scope: Scope, parts: list[bytes]) -> _Served | None:
        """Find the job whose current prediction is asked for; None where this route is not the one."""
        if scope["query_string"] or len(parts) <= _PARTS_BEFORE_KEY or scope["method"] != "GET":
            return None
        served = self._served.get(parts[3])
        if served is None or len(parts) != served.parts or parts[4] != b"predictions":
            return None
        job = served.target.job
        return served if job.mode == "snapshot" and scope[SCOPE].may_read(job.name) else None


def _decoded(part: bytes) -> str:
    return (unquote_to_bytes(part) if b"%" in part else part).decode()


def _if_none_match(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            return str(value.decode("latin-1"))
    return None
