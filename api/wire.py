"""The hot route beneath the server: GET of one key is read from the socket's bytes and written back as bytes.

uvicorn makes a scope, a task, an event and layers of calls for each request: 111 µs of processor time where this
class takes 34 without a cache, 121 and 28 with one, in the same sitting on a machine so busy that each is a fifth
more or less from round to round (docs/read-api.md, "Where the time goes"). It is uvicorn's own protocol with one
door in front: a request that is nothing but a plain GET of one key of a snapshot job is answered here; everything
else, and everything odd, goes through unchanged to uvicorn and the framework, which give the same bytes
(tests/integration/test_api_wire.py compares them).

    idle ── plain GET, answer remembered ──────────────────────────► written, idle
    idle ── plain GET, not remembered ──► waiting ── found ────────► written, idle
                                             │  └── another run ───► uvicorn: the request as it came
                                             └── more bytes come: kept, reading pauses, read once idle again
    a head that does not come whole in time ──► refused, closed
    anything else: a head in two pieces, two requests in one, a body, Connection: close, HTTP/1.0, an Upgrade,
    an unknown or refused key, an answer of uvicorn's under way, a client that does not read ──► uvicorn

Answers therefore leave in the order of their requests, and at most one is under way on a connection.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import answers, problems
from api.access import SCOPE, RefusedError
from api.metrics import HOT_ROUTE
from api.plain import KEY, LAST_LINES, SECURITY_LINES, Framed, lines, read
from storage.errors import StorageError
from storage.keytext import KeyFormatError
from storage.lookups import MovedError

if TYPE_CHECKING:
    import asyncio

    from fastapi import FastAPI
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from api.access import Reader
    from api.edge import Parts
    from api.hot import Served
    from api.plain import Headers, Plain

# How long a client may take for the head of its request, from its first byte or from connecting.
HEAD_SECONDS = 10.0


class _Asked(NamedTuple):
    """A request whose key is being looked up."""

    data: bytes
    plain: Plain
    served: Served
    reader: Reader
    began: float


class Wire(HttpToolsProtocol):
    """One connection. `parts` is set by `protocol_of`."""

    parts: ClassVar[Parts]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._plain: Plain | None = None
        self._asked: _Asked | None = None
        self._behind = b""
        self._admitted: Reader | None = None
        self._is_inside_message = False
        self._is_ending = False
        self._answered_at = 0.0
        self._is_inside_head = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer a plain request, or let uvicorn have the bytes."""
        if self._asked is not None:
            self._behind += data
            self.flow.pause_reading()
        elif not self._is_idle() or not self._answers(data):
            super().data_received(data)
            if self._head_timer is None and self._lacks_head():
                self._wait_for_head()

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
        began = time.monotonic()
        hot, plain = self.parts.hot, self._plain
        # A client mostly sends the same again, but for the key.
        if plain is None or not (data.startswith(plain.before) and data.endswith(plain.behind)):
            plain = self._plain = read(data)
        served = hot.match(plain.job) if plain is not None and hot is not None else None
        if plain is None or hot is None or served is None:
            return False
        hot.attend(began)  # those of this turn who wait for the database are answered among the others
        key = data[len(plain.before) : -len(plain.behind)]
        values = hot.recall(served, key, began)
        # What is remembered was a key before.
        if values is None and not (served.has_parts(key) and KEY.fullmatch(key)):
            return False
        reader = self._admit(plain, served, began)
        if reader is not None:
            if values is not None:
                self._write_found(plain, served, values, reader, began)
                return True
            self._asked = _Asked(data, plain, served, reader, began)
            try:
                hot.look_up(served, key, self._found)
            except KeyFormatError:
                self._asked, self._admitted = None, reader
                return False
        return reader is not None

    def _admit(self, plain: Plain, served: Served, now: float) -> Reader | None:
        """Return who asks, if they may; else leave it to uvicorn's way."""
        try:
            reader = self.parts.gate.admit_known(plain.token, now)
        except RefusedError:
            return None
        if reader is None or not reader.may_read(served.name) or self.limit_concurrency is not None:
            self._admitted = reader  # who was counted once is not counted again
            return None
        return reader

    def _found(self, outcome: bytes | Exception) -> None:
        """Go on when the key was looked up."""
        asked, self._asked = self._asked, None
        assert asked is not None  # noqa: S101  # one is asked for at a time
        if self.transport.is_closing():
            return
        if isinstance(outcome, bytes):
            _, plain, served, reader, began = asked
            self._write_found(plain, served, outcome, reader, began)
        elif isinstance(outcome, StorageError):
            self._write_fault(asked, outcome)
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

    def _write_found(self, plain: Plain, served: Served, values: bytes, reader: Reader, began: float) -> None:
        """Write a prediction, or that the client has it."""
        default, framed = self.server_state.default_headers, served.framed
        if framed is None or framed.default is not default:  # uvicorn makes new ones every second
            framed = served.framed = Framed(served, default)
        request_id = plain.request_id or self.parts.ids.new()
        if plain.if_none_match is not None and answers.matches(plain.if_none_match, served.tag):
            status, answer = 304, b"".join((framed.not_modified, request_id, LAST_LINES))
        else:
            before = framed.before_id(values)
            status, answer = 200, b"".join((before, request_id, framed.behind_id, values, framed.behind))
        self.transport.write(answer)
        self._written(served, status, request_id, reader, began)

    def _write_fault(self, asked: _Asked, error: StorageError) -> None:
        """Write why there is no prediction."""
        status, detail, headers = problems.of_error(error)
        request_id = asked.plain.request_id or self.parts.ids.new()
        more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.transport.write(self._problem(status, detail, more, request_id))
        self._written(asked.served, status, request_id, asked.reader, asked.began)

    def _problem(self, status: HTTPStatus, detail: str, more: Headers, request_id: bytes) -> bytes:
        """Make the bytes of a problem document."""
        body = problems.document(status, detail)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            *more,
        ]
        start = STATUS_LINE[status] + lines(headers)[:-2]
        return b"".join((start, SECURITY_LINES, request_id, LAST_LINES, body))

    def _written(self, served: Served, status: int, request_id: bytes, reader: Reader, began: float) -> None:
        """Count the answer, and begin to wait for the next request."""
        self._answered_at = now = time.monotonic()
        self.server_state.total_requests += 1
        if self.timeout_keep_alive_task is None:
            self._head_is_there()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        metrics = self.parts.metrics
        metrics.count(HOT_ROUTE, status, now - began)
        if metrics.logs:
            metrics.log("GET", HOT_ROUTE, served.name, status, now - began, request_id, reader)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that asked for nothing for a while; a timer set anew for each answer costs more."""
        left = self._answered_at + self.timeout_keep_alive - time.monotonic()
        if self._asked is None and left <= 0:
            super().timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                max(left, 1.0), self.timeout_keep_alive_handler
            )

    def _lacks_head(self) -> bool:
        """Whether a part of a head came, or nothing but empty lines, and no other time limit runs."""
        return self._is_inside_head or (self._is_idle() and self.timeout_keep_alive_task is None)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up_head)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        """Close a connection whose client did not finish a head, unless its answer before is still on its way."""
        self._head_timer = None
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._wait_for_head()
        elif self._is_inside_head:
            self._close_with(
                HTTPStatus.REQUEST_TIMEOUT, f"the head did not arrive within {HEAD_SECONDS:.0f} seconds"
            )
        elif self._asked is None:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Note that uvicorn reads a message, and who sends it where that is known."""
        super().on_message_begin()
        self._is_inside_message = self._is_inside_head = True
        if self._admitted is not None:
            cast("dict[str, object]", self.scope)[SCOPE] = self._admitted
            self._admitted = None

    def on_headers_complete(self) -> None:
        """Note that its head is read."""
        self._is_inside_head = False
        self._head_is_there()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that it is read."""
        self._is_inside_message = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words, in plain text
        """Refuse what is no HTTP, or an address that the parser cannot hold, as every other fault."""
        self._close_with(HTTPStatus.BAD_REQUEST, "the request could not be read as HTTP/1.1")

    def _close_with(self, status: HTTPStatus, detail: str) -> None:
        closing = [(b"connection", b"close")]
        self.transport.write(self._problem(status, detail, closing, self.parts.ids.new()))
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
