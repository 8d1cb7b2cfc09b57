"""What happens to every request before a route sees it: its id, its limits, and the headers of every answer."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException

from api import problems
from api.access import SCOPE, RefusedError, token_of
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.access import Gate
    from api.hot import HotRoute
    from api.metrics import Metrics

MAX_BODY_BYTES = 1 << 20  # 1,000 composite keys of 255 characters each fit
MAX_TARGET_BYTES = 16_384
# A client that sends its body drop by drop holds no thread, only this long a task.
BODY_SECONDS = 10.0

# What a key opens. The rest says nothing of what is served.
_GUARDED = ("/v1", "/metrics")

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# An answer is data: a browser that is shown one loads and frames nothing.
DATA_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_TOO_LARGE = f"a request has {MAX_BODY_BYTES} bytes at most"
_TOO_SLOW = f"the body did not arrive within {BODY_SECONDS:.0f} seconds"
# What is left of the body would be read as the next request.
_CLOSE = {"Connection": "close"}
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Every request has an id: the client's own where it is a plain word."""

    def __init__(self) -> None:
        self._prefix = b"%b-" % secrets.token_hex(6).encode()
        self._count = itertools.count(1)

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the id of the request with these headers."""
        return said_id(headers) or self.new()

    def new(self) -> bytes:
        """Return the id of a request that has none of its own."""
        return b"%b%x" % (self._prefix, next(self._count))


def said_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the id that a client gave its request, where it is a plain word."""
    for name, value in headers:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return value
    return None


@dataclass
class Parts:
    """What is done to a request the same way wherever it is answered. `hot` is None until the server started."""

    gate: Gate
    metrics: Metrics
    ids: RequestIds
    hot: HotRoute | None = None


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._parts.ids.of(scope["headers"])
        scope["batchpred.request_id"] = request_id
        more = [*SECURITY, (b"x-request-id", request_id), DATA_POLICY]

        began = time.perf_counter()
        status = 500

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            _refuse(scope)
            if scope["path"].startswith(_GUARDED):
                if SCOPE not in scope:
                    gate, token = self._parts.gate, token_of(scope["headers"])
                    scope[SCOPE] = gate.admit_known(token, time.monotonic()) or await gate.admit(token)
                route = self._parts.hot
                if route is not None and await route.answer(scope, finish):
                    return
        except RefusedError as refused:
            await answer(finish, refused.status, refused.detail, refused.headers)
        except StorageError as error:
            fault, detail, headers = problems.of_error(error)
            said = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await answer(finish, fault, detail, said)
        else:
            await self._app(scope, _limited(receive), finish)
        finally:
            self._parts.metrics.record(scope, status, time.perf_counter() - began)


def header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    """Return the first header of a name."""
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)


async def answer(send: Send, status: HTTPStatus, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a problem document from beneath the framework."""
    body = problems.document(status, detail)
    fixed = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": int(status), "headers": fixed + headers})
    await send({"type": "http.response.body", "body": body})


def _refuse(scope: Scope) -> None:
    """Refuse what can be refused by its head alone. Raises RefusedError."""
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        detail = f"an address has {MAX_TARGET_BYTES} bytes at most"
        raise RefusedError(HTTPStatus.REQUEST_URI_TOO_LONG, detail, [])
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > MAX_BODY_BYTES):
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, [(b"connection", b"close")])


def _limited(receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Count the body's bytes and the time it takes."""
    size, complete = 0, False
    until = 0.0

    async def limited() -> Message:
        nonlocal size, complete, until
        if complete:  # what comes now is only the client's going away
            return await receive()
        until = until or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW, _CLOSE) from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, _CLOSE)
        return message

    return limited
