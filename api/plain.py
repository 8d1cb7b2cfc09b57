"""A plain request for one key, and the bytes of its answer: what api/wire.py reads and writes.

Plain is a GET of one key and nothing more: no query, no body, no word on how the connection goes on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.access import token_of
from api.edge import DATA_POLICY, SECURITY, header, said_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from api.hot import Served

    Headers: TypeAlias = list[tuple[bytes, bytes]]

# Longer heads are rare, and uvicorn's to judge.
_MAX_HEAD_BYTES = 8_192
# A path as RFC 3986 writes one, without a query.
_REQUEST_LINE = re.compile(
    rb"(GET /v1/jobs/([A-Za-z0-9._~-]+)/predictions/)([A-Za-z0-9._~!$&'()*+,;=:@%/-]+) HTTP/1\.1\r\n"
)
KEY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@%/-]+")
_HEADERS = re.compile(rb"(?:[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\t\x20-\x7e]*\r\n)*\r\n")
# Headers that say how the connection or the message goes on, and Origin, which another layer answers.
_NOT_PLAIN = frozenset((
    b"connection", b"content-length", b"expect", b"http2-settings", b"keep-alive", b"origin", b"proxy-connection",
    b"te", b"trailer", b"transfer-encoding", b"upgrade",
))  # fmt: skip
SECURITY_LINES = b"\r\n" + b"".join(b"%b: %b\r\n" % each for each in SECURITY) + b"x-request-id: "
LAST_LINES = b"\r\n%b: %b\r\n\r\n" % DATA_POLICY


class Plain(NamedTuple):
    """A plain request as it is before and behind its key, and what its headers say that an answer depends on."""

    before: bytes
    behind: bytes
    job: bytes
    token: bytes
    request_id: bytes | None
    if_none_match: str | None


class Framed:
    """The bytes of a run's answers that are the same for all of them, for the server's headers of one second."""

    def __init__(self, served: Served, default: Headers) -> None:
        self.default = default
        self._start = STATUS_LINE[200] + lines([*default, *served.json_headers]) + b"content-length: "
        self._size = len(served.writer.before) + len(served.writer.behind)
        self._heads: dict[int, bytes] = {}
        self.behind_id, self.behind = LAST_LINES + served.writer.before, served.writer.behind
        self.not_modified = STATUS_LINE[304] + lines([*default, *served.headers])[:-2] + SECURITY_LINES

    def before_id(self, values: bytes) -> bytes:
        """Return the head of an answer with these values, up to the request's id."""
        size = len(values)
        head = self._heads.get(size)
        if head is None:
            head = self._heads[size] = b"%b%d%b" % (self._start, self._size + size, SECURITY_LINES)
        return head


def read(data: bytes) -> Plain | None:
    """Read a plain request; None where it is another, or more than one."""
    line = _REQUEST_LINE.match(data)
    head = data[line.end() :] if line else b""
    if line is None or len(head) > _MAX_HEAD_BYTES or not _HEADERS.fullmatch(head):
        return None
    headers = []
    for each in head[:-4].split(b"\r\n") if len(head) > 2 else ():
        name, _, value = each.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in _NOT_PLAIN and (name, value.lower()) != (b"connection", b"keep-alive"):
            return None
        headers.append((name, value))
    return Plain(
        line.group(1),
        data[line.end(3) :],
        line.group(2),
        token_of(headers),
        said_id(headers),
        header(headers, b"if-none-match"),
    )


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write headers."""
    return b"".join(b"%b: %b\r\n" % each for each in headers)
