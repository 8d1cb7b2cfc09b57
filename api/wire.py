"""The hot route beneath the server: GET of one key is read from the socket's bytes and written back as bytes.

uvicorn and the framework make a scope, a task, an event and four layers of calls for each request: 94 µs of
processor time where this class takes 25 without a cache, 74 and 20 with one, in the same sitting on a busy machine
(docs/read-api.md, "Where the time goes"). It is uvicorn's own protocol with one door in front: a request that is
nothing but a plain GET of one key of a snapshot job is answered here; everything else, and everything odd, goes
through unchanged to uvicorn and the framework, which give the same bytes (tests/integration/test_api_wire.py
compares them).

    idle ── plain GET, answer remembered ──────────────────────────► written, idle
    idle ── plain GET, not remembered ──► waiting ── found ────────► written, idle
                                             │  └── another run ───► uvicorn: the request as it came
                                             └── more bytes come: kept, reading pauses, read once idle again
    anything else: a head in two pieces, two requests in one, a body, Connection: close, HTTP/1.0, an Upgrade,
    an unknown or refused key, an answer of uvicorn's under way, a client that does not read ──► uvicorn

Answers therefore leave in the order of their requests, and at most one is under way on a connection.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import answers, problems
from api.access import SCOPE, RefusedError, token_of
from api.edge import DATA_POLICY, SECURITY, header
from api.metrics import HOT_ROUTE
from storage.errors import StorageError
from storage.keytext import KeyFormatError
from storage.lookups import MovedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from api.access import Reader
    from api.edge import Parts
    from api.hot import HotRoute, Served

    Headers = list[tuple[bytes, bytes]]

# Longer heads are rare, and uvicorn's to judge.
_MAX_HEAD_BYTES = 8_192
# A path as RFC 3986 writes one, without a query.
_REQUEST_LINE = re.compile(
    rb"GET /v1/jobs/([A-Za-z0-9._~-]+)/predictions/([A-Za-z0-9._~!$&'()*+,;=:@%/-]+) HTTP/1\.1\r\n"
)
_HEADERS = re.compile(rb"(?:[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\t\x20-\x7e]*\r\n)*\r\n")
# Headers that say how the connection or the message goes on, and Origin, which another layer answers.
_NOT_PLAIN = frozenset((
    b"connection", b"content-length", b"expect", b"http2-settings", b"keep-alive", b"origin", b"proxy-connection",
    b"te", b"trailer", b"transfer-encoding", b"upgrade",
))  # fmt: skip
_SECURITY_LINES = b"\r\n" + b"".join(b"%b: %b\r\n" % each for each in SECURITY) + b"x-request-id: "
_LAST_LINES = b"\r\n%b: %b\r\n\r\n" % DATA_POLICY


class _Said(NamedTuple):
    """What the headers of a request say that an answer depends on."""

    headers: Headers
    token: bytes
    if_none_match: str | None


class _Asked(NamedTuple):
    """A request whose key is being looked up."""

    data: bytes
    said: _Said
    reader: Reader
    served: Served
    key: bytes
    began: float


class Wire(HttpToolsProtocol):
    """One connection. `parts` is set by `protocol_of`."""

    parts: ClassVar[Parts]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head = b""
        self._said: _Said | None = None
        self._asked: _Asked | None = None
        self._behind = b""
        self._admitted: Reader | None = None
        self._is_inside_message = False
        self._is_ending = False
        self._answered_at = 0.0

    def data_received(self, data: bytes) -> None:
        """Answer a plain request, or let uvicorn have the bytes."""
        if self._asked is not None:
            self._behind += data
            self.flow.pause_reading()
        elif not self._is_idle() or not self._answers(data):
            super().data_received(data)

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return not (
            self._is_inside_message
            or self.pipeline
            or self.flow.write_paused
            or (cycle is not None and not cycle.response_complete)
        )

    def _answers(self, data: bytes) -> bool:
        """Answer what was sent, now or once its key is found, and say True; else have done nothing."""
        hot = self.parts.hot()
        asked = self._understood(data, hot) if hot is not None else None
        if asked is None or hot is None:
            return False
        values = hot.recall(asked.served, asked.key)
        if values is not None or (hot.may_recall and _has_it(asked)):
            self._write_found(asked, values)
            return True
        self._asked = asked
        try:
            hot.look_up(asked.served, asked.key, self._found)
        except KeyFormatError:
            self._asked, self._admitted = None, asked.reader
            return False
        return True

    def _understood(self, data: bytes, hot: HotRoute) -> _Asked | None:
        """Read a plain request of a reader who may; None for any other."""
        began = time.perf_counter()
        line = _REQUEST_LINE.match(data)
        if line is None or self.limit_concurrency is not None:
            return None
        job, key = line.groups()
        said, served = self._said_in(data[line.end() :]), hot.match(job, key)
        if said is None or served is None:
            return None
        try:
            reader = self.parts.gate.admit_known(said.token)
        except RefusedError:
            return None
        if reader is None or not reader.may_read(served.name):
            self._admitted = reader  # who was counted once is not counted again
            return None
        return _Asked(data, said, reader, served, key, began)

    def _said_in(self, head: bytes) -> _Said | None:
        """Read headers; None where they are not plain. A client mostly sends the same ones again."""
        if len(head) > _MAX_HEAD_BYTES:
            return None
        if head != self._head:
            self._head, self._said = head, _read(head)
        return self._said

    def _found(self, outcome: bytes | Exception) -> None:
        """Go on when the key was looked up."""
        asked, self._asked = self._asked, None
        assert asked is not None  # noqa: S101  # one is asked for at a time
        if self.transport.is_closing():
            return
        if isinstance(outcome, bytes):
            self._write_found(asked, outcome)
        elif isinstance(outcome, StorageError):
            status, detail, headers = problems.of_error(outcome)
            body = problems.document(status, detail)
            more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            self._write(asked, status, [(b"content-type", problems.MEDIA_TYPE.encode())], body, more)
        else:
            assert isinstance(outcome, MovedError)  # noqa: S101  # nothing else is given
            self._admitted = asked.reader
            super().data_received(asked.data)
        if self._is_ending:
            super().shutdown()
        elif self._behind:
            behind, self._behind = self._behind, b""
            self.flow.resume_reading()
            self.data_received(behind)

    def _write_found(self, asked: _Asked, values: bytes | None) -> None:
        """Write a prediction, or that the client has it."""
        served, default = asked.served, self.server_state.default_headers
        if served.written is None or served.written[0] is not default:  # uvicorn makes new ones every second
            served.written = (
                default,
                STATUS_LINE[200] + _lines([*default, *served.json_headers]) + b"content-length: ",
                STATUS_LINE[304] + _lines([*default, *served.headers])[:-2],
            )
        request_id = self.parts.ids.of(asked.said.headers)
        if values is None or _has_it(asked):
            self.transport.write(b"".join((served.written[2], _SECURITY_LINES, request_id, _LAST_LINES)))
            self._written(asked, 304, request_id)
            return
        before, behind = served.writer.before, served.writer.behind
        size = b"%d" % (len(before) + len(values) + len(behind))
        pieces = (
            served.written[1], size, _SECURITY_LINES, request_id, _LAST_LINES, before, values, behind,
        )  # fmt: skip
        self.transport.write(b"".join(pieces))
        self._written(asked, 200, request_id)

    def _write(self, asked: _Asked, status: int, before: Headers, body: bytes, behind: Headers) -> None:
        """Write any answer, with the headers before and behind its length."""
        request_id = self.parts.ids.of(asked.said.headers)
        headers = [
            *self.server_state.default_headers,
            *before,
            (b"content-length", b"%d" % len(body)),
            *behind,
        ]
        start = STATUS_LINE[status] + _lines(headers)[:-2]
        self.transport.write(b"".join((start, _SECURITY_LINES, request_id, _LAST_LINES, body)))
        self._written(asked, status, request_id)

    def _written(self, asked: _Asked, status: int, request_id: bytes) -> None:
        """Count the answer, and begin to wait for the next request."""
        now = time.perf_counter()
        self.server_state.total_requests += 1
        self._answered_at = now
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        metrics = self.parts.metrics
        metrics.count(HOT_ROUTE, status, now - asked.began)
        if metrics.logs:
            metrics.log(
                "GET", HOT_ROUTE, asked.served.name, status, now - asked.began, request_id, asked.reader
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that asked for nothing for a while; a timer set anew for each answer costs more."""
        left = self._answered_at + self.timeout_keep_alive - time.perf_counter()
        if self._asked is None and left <= 0:
            super().timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                max(left, 1.0), self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """Note that uvicorn reads a message, and who sends it where that is known."""
        super().on_message_begin()
        self._is_inside_message = True
        if self._admitted is not None:
            cast("dict[str, object]", self.scope)[SCOPE] = self._admitted
            self._admitted = None

    def on_message_complete(self) -> None:
        """Note that it is read."""
        self._is_inside_message = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words, in plain text
        """Refuse what is no HTTP, or an address that the parser cannot hold, as every other fault."""
        body = problems.document(HTTPStatus.BAD_REQUEST, "the request could not be read as HTTP/1.1")
        headers = [
            *self.server_state.default_headers,
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        request_id = self.parts.ids.of(())
        pieces = (STATUS_LINE[400], _lines(headers)[:-2], _SECURITY_LINES, request_id, _LAST_LINES, body)
        self.transport.write(b"".join(pieces))
        self.transport.close()

    def shutdown(self) -> None:
        """End the connection once what is under way is answered."""
        if self._asked is None:
            super().shutdown()
        else:
            self._is_ending = True


def protocol_of(app: FastAPI) -> type[Wire]:
    """Return the protocol that answers for an application: uvicorn's `http`."""
    return type("WireOfApp", (Wire,), {"parts": app.state.parts})


def _read(head: bytes) -> _Said | None:
    if not _HEADERS.fullmatch(head):
        return None
    headers = []
    for line in head[:-4].split(b"\r\n") if len(head) > 2 else ():
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in _NOT_PLAIN and (name, value.lower()) != (b"connection", b"keep-alive"):
            return None
        headers.append((name, value))
    return _Said(headers, token_of(headers), header(headers, b"if-none-match"))


def _has_it(asked: _Asked) -> bool:
    said = asked.said.if_none_match
    return said is not None and answers.matches(said, asked.served.tag)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % each for each in headers)
