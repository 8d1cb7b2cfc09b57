"""The hot route on the wire and uvicorn's way through the framework: the same bytes for whatever is sent."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date

import pytest

from api import access, hot, wire
from api.app import create_app
from api.wire import Wire, protocol_of
from storage import api_keys
from storage.lookups import MovedError
from tests.integration.conftest import running

ONE = b"/v1/jobs/churn/predictions/1"
ID = b"X-Request-Id: mine\r\n"


def get(target=ONE, headers=b"", version=b"HTTP/1.1"):
    return b"GET %b %b\r\nHost: x\r\n%b%b\r\n" % (target, version, ID, headers)


# What is sent, how many answers it has, and how many of them are given on the wire.
PLAIN = {
    "a key": get(),
    "the same again": get(),
    "no headers at all": b"GET %b HTTP/1.1\r\n%b\r\n" % (ONE, ID),
    "a value that JSON cannot write": get(b"/v1/jobs/churn/predictions/2"),
    "NULL and zero": get(b"/v1/jobs/churn/predictions/0"),
    "an encoded key": get(b"/v1/jobs/churn/predictions/%31"),
    "a signed key": get(b"/v1/jobs/churn/predictions/+1"),
    "zeros before it": get(b"/v1/jobs/churn/predictions/0001"),
    "the largest": get(b"/v1/jobs/churn/predictions/9223372036854775807"),
    "no such key": get(b"/v1/jobs/churn/predictions/77"),
    "several columns": get(b"/v1/jobs/pair/predictions/a%2F%22%C3%A9b/2026-01-01"),
    "it has it": get(headers=b'If-None-Match: "1"\r\n'),
    "it has it weakly": get(headers=b'If-None-Match: "9", W/"1"\r\n'),
    "it has any": get(headers=b"If-None-Match: *\r\n"),
    "it has what is not there": get(b"/v1/jobs/churn/predictions/78", b'If-None-Match: "1"\r\n'),
    "it has any of what is not there": get(b"/v1/jobs/churn/predictions/78", b"If-None-Match: *\r\n"),
    "it has another": get(headers=b'If-None-Match: "9"\r\n'),
    "keep-alive said": get(headers=b"Connection: keep-alive\r\n"),
    "many headers": get(
        headers=b"Accept: */*\r\nUser-Agent:curl/8 (x; y)\t\r\nAccept-Encoding: gzip\r\nX-A:\r\n"
    ),
}
ODD = {
    "too large a key": get(b"/v1/jobs/churn/predictions/9223372036854775808"),
    "a key of another type": get(b"/v1/jobs/churn/predictions/x"),
    "too many parts": get(b"/v1/jobs/churn/predictions/1/2"),
    "no key": get(b"/v1/jobs/churn/predictions/"),
    "NUL in a key": get(b"/v1/jobs/churn/predictions/1%00"),
    "not UTF-8": get(b"/v1/jobs/pair/predictions/%ff/2026-01-01"),
    "another job": get(b"/v1/jobs/none/predictions/1"),
    "a job written otherwise": get(b"/v1/jobs/c%68urn/predictions/1"),
    "a parameter": get(ONE + b"?as_of=2026-01-05"),
    "an unknown parameter": get(ONE + b"?x=1"),
    "an empty query": get(ONE + b"?"),
    "a fragment": get(ONE + b"#x"),
    "history": get(ONE + b"/history"),
    "a whole address": get(b"http://x" + ONE),
    "a long address": get(ONE + b"1" * 17_000),
    "two slashes": get(b"//v1/jobs/churn/predictions/1"),
    "another method": get().replace(b"GET", b"DELETE"),
    "a small method": get().replace(b"GET", b"get"),
    "HEAD": get().replace(b"GET", b"HEAD"),
    "the old version": get(version=b"HTTP/1.0"),
    "no version": b"GET %b\r\n%b\r\n" % (ONE, ID),
    "the last request": get(headers=b"Connection: close\r\n"),
    "a body": get(headers=b"Content-Length: 5\r\n") + b"hello",
    "a body in chunks": get(headers=b"Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\n\r\n",
    "both at once": get(headers=b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
    "too large a body": get(headers=b"Content-Length: 99999999\r\n"),
    "a body announced": get(headers=b"Expect: 100-continue\r\nContent-Length: 0\r\n"),
    "an upgrade": get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "a space before the colon": get(headers=b"X-A : 1\r\n"),
    "a folded header": get(headers=b"X-A: 1\r\n 2\r\n"),
    "a bare line feed": get(headers=b"X-A: 1\nX-B: 2\r\n"),
    "a header without a colon": get(headers=b"nonsense\r\n"),
    "control characters": get(headers=b"X-A: \x01\r\n"),
    "letters beyond ASCII": get(headers=b"X-A: \xe9\r\n"),
    "bytes beyond ASCII in the address": get(b"/v1/jobs/churn/predictions/\xe9"),
    "two spaces": get().replace(b"GET ", b"GET  "),
    "another origin": get(headers=b"Origin: https://example.org\r\n"),
    "a long head": get(headers=b"X-A: %b\r\n" % (b"a" * 9_000)),
}  # fmt: skip


@pytest.fixture
def published(publish_rows, make_job):
    publish_rows(make_job(), 5, {"id": [0, 1, 2, 2**63 - 1], "score": [None, 0.1, float("nan"), 1e300]})
    publish_rows(
        make_job("pair", a="text", b="date"), 5, {"a": ['a/"éb'], "b": [date(2026, 1, 1)], "score": [0.5]}
    )


@contextmanager
def serving(database, **options):
    """A server with the hot route on the wire and one without; each is asked once what it serves."""
    options = {"keyless": True, "cache_entries": 100, **options}
    with running(create_app(database, **options)) as ours:
        app = create_app(database, **options)
        closed = type("Closed", (protocol_of(app),), {"_answers": lambda *_: False})
        with running(app, http=closed) as theirs:
            yield [int(each.rsplit(":", 1)[1]) for each in (ours, theirs)]


def talk(connection, *pieces, answers=1, pause=0.02):
    """Send the pieces one after the other and return so many answers, or those before an end."""
    for number, piece in enumerate(pieces):
        if number:
            time.sleep(pause)
        connection.sendall(piece)
    bare, data, got = pieces[0].startswith(b"HEAD"), b"", b""
    while answers:
        head, end, rest = data.partition(b"\r\n\r\n")
        if end and head.startswith(b"HTTP/1.1 100"):
            got, data = got + head + end, rest
            continue
        size = 0
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length: ") and not bare:
                size = int(line[16:])
        if end and len(rest) >= size:
            got, data, answers = got + head + end + rest[:size], rest[size:], answers - 1
        elif not (more := connection.recv(65_536)):
            break
        else:
            data += more
    lines = (got + data).split(b"\r\n")
    # A request that could not be read has no id of its own either.
    own = (b"date: ", b"x-request-id: ") if b"HTTP/1.1 400" in lines[0] else (b"date: ",)
    return [line for line in lines if not line.startswith(own)]


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(port, *pieces, **options):
    with connect(port) as connection:
        return talk(connection, *pieces, **options)


def wait_until_known(ports):
    """Ask until the hot route knows the jobs, which it learns right after the start."""
    for port in ports:
        until = time.monotonic() + 10
        while b"HTTP/1.1 200 OK" != ask(port, b"GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n")[0]:
            assert time.monotonic() < until
        ask(port, get())


@pytest.fixture
def on_the_wire(monkeypatch):
    """The statuses that were answered on the wire."""
    seen = []
    written = Wire._written
    monkeypatch.setattr(
        Wire, "_written", lambda self, *given: (seen.append(given[1]), written(self, *given))[1]
    )
    return seen


def test_whatever_is_sent_is_answered_alike(database, published, on_the_wire):
    """Every byte but the date is the same; plain requests are answered on the wire, odd ones are not."""
    with serving(database) as (ours, theirs):
        wait_until_known((ours, theirs))
        for name, sent in {**PLAIN, **ODD}.items():
            on_the_wire.clear()
            expected = ask(theirs, sent)
            assert expected == ask(ours, sent), name
            assert (name in PLAIN) == (len(on_the_wire) == 1), name


def test_what_is_no_http_is_refused_as_every_fault(database, published):
    """A line that is no request, and an address longer than the parser holds: 400 as a problem document."""
    with running(create_app(database, keyless=True)) as address:
        for sent in (b"nonsense\r\n\r\n", get(ONE + b"1" * 70_000)):
            answer = ask(int(address.rsplit(":", 1)[1]), sent)
            assert b"HTTP/1.1 400 Bad Request" == answer[0]
            assert {b"content-type: application/problem+json", b"connection: close"} < set(answer)


def test_without_a_cache_it_is_the_same(database, published, on_the_wire):
    """The same bytes where each answer is looked up."""
    with serving(database, cache_entries=0) as (ours, theirs):
        wait_until_known((ours, theirs))
        on_the_wire.clear()
        for name, sent in PLAIN.items():
            assert ask(theirs, sent) == ask(ours, sent), name
        assert len(PLAIN) == len(on_the_wire)


def test_what_comes_in_pieces_or_together_is_answered_in_order(database, published):
    """A head in two pieces, several requests in one, requests behind one that waits: order is kept."""
    second = get(b"/v1/jobs/churn/predictions/2")
    talks = {
        "two pieces": ([get()[:40], get()[40:]], 1),
        "byte by byte": ([bytes([each]) for each in get()[:-1]] + [b"\n" + second], 2),
        "three at once": ([get() + second + get(b"/none")], 3),
        "one after the other": ([get(), second, get(b"/v1/jobs"), get()], 4),
        "odd before plain": ([get(b"/v1/jobs"), get(), second], 3),
        "a body with a request in it": ([get(headers=b"Content-Length: %d\r\n" % len(get())) + get() + second], 2),
        "the last one first": ([get(headers=b"Connection: close\r\n") + get()], 2),
    }  # fmt: skip
    with serving(database, cache_entries=0) as (ours, theirs):
        wait_until_known((ours, theirs))
        for name, (pieces, answers) in talks.items():
            # Without a pause the next request comes while the one before is looked up.
            for pause in (0, 0.02) if len(pieces) < 5 else (0.001,):
                expected = ask(theirs, *pieces, answers=answers, pause=pause)
                expected, got = (
                    [line for line in lines if b'"detail"' in line or b'"job' in line]
                    for lines in (expected, ask(ours, *pieces, answers=answers, pause=pause))
                )
                assert expected == got, name


def test_keys_open_the_same(database, published, monkeypatch):
    """With keys wanted: right, wrong, another tenant's, twice given, and over its rate."""
    checked = access._checked
    # However long the test takes, no time passes in which a key might be allowed more.
    monkeypatch.setattr(access, "_checked", lambda known, token, _: checked(known, token, known.counted_at))
    with database.connect(purpose="test") as connection:
        good = api_keys.create(connection, "good").encode()
        other = api_keys.create(connection, "other", jobs=["pair"]).encode()
        slow = api_keys.create(connection, "slow", requests_per_second=2).encode()
    said = [b"Authorization: Bearer %b\r\n" % key for key in (good, good[:-1] + b"!", other)]
    said += [b"", said[0] * 2, said[0].replace(b"Bearer", b"Basic")]
    with serving(database, keyless=False) as (ours, theirs):
        wait_until_known((ours, theirs))
        for headers in said * 2:
            assert ask(theirs, get(headers=headers)) == ask(ours, get(headers=headers))
        limited = get(headers=b"Authorization: Bearer %b\r\n" % slow)
        statuses = [[ask(port, limited)[0][9:12] for _ in range(3)] for port in (ours, theirs)]
        assert [[b"200", b"200", b"429"]] * 2 == statuses


def test_it_ends_once_what_is_asked_is_answered(database, published, monkeypatch):
    """A server that is told to stop answers a look-up under way, and then closes the connection."""
    look_up = hot.HotRoute.look_up

    asked = threading.Event()

    def slowly(self, served, key, done):
        asked.set()
        look_up(self, served, key, lambda found: self._lookups._loop.call_later(0.3, done, found))

    with running(create_app(database, keyless=True, cache_entries=0)) as address:
        port = int(address.rsplit(":", 1)[1])
        wait_until_known([port])
        monkeypatch.setattr(hot.HotRoute, "look_up", slowly)
        connection = connect(port)
        connection.sendall(get())
        assert asked.wait(20)
    with connection:
        assert b"HTTP/1.1 200 OK" == talk(connection, b"")[0]
        assert b"" == connection.recv(1)


def test_it_ends_also_where_the_run_has_moved(database, published, monkeypatch):
    """A look-up that goes on through the framework, because another run is the newest by now, holds no end up."""
    asked = threading.Event()

    def moved(self, served, key, done):
        asked.set()
        self._lookups._loop.call_later(0.3, done, MovedError())

    with running(create_app(database, keyless=True, cache_entries=0)) as address:
        port = int(address.rsplit(":", 1)[1])
        wait_until_known([port])
        monkeypatch.setattr(hot.HotRoute, "look_up", moved)
        connection = connect(port)
        connection.sendall(get())
        assert asked.wait(20)
        began = time.monotonic()
    with connection:
        assert time.monotonic() - began < 4  # an idle connection is closed after five seconds
        answer = talk(connection, b"")
        assert (b"HTTP/1.1 200 OK", True) == (answer[0], b"connection: close" in answer)


def test_an_idle_connection_is_closed(database, published, monkeypatch):
    """A connection that asks for nothing is closed once the time for that has passed since its answer."""
    with running(create_app(database, keyless=True), timeout_keep_alive=2) as address:
        port = int(address.rsplit(":", 1)[1])
        wait_until_known([port])
        with connect(port) as connection:
            for _ in range(3):
                talk(connection, get())
                time.sleep(0.8)
            talk(connection, get())
            began = time.monotonic()
            assert b"" == connection.recv(1)
            assert 0.5 < time.monotonic() - began < 10


def drip(port, first, drop):
    """Send the first piece, then drop by drop until the server closes, and return what it said."""
    with connect(port) as connection:
        connection.sendall(first)
        connection.settimeout(0.1)
        said = b""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                more = connection.recv(65_536)
            except TimeoutError:
                with suppress(ConnectionError):
                    connection.sendall(drop)
            except ConnectionError:
                return said
            else:
                said += more
                if not more:
                    return said
        raise AssertionError(f"the server goes on after {said!r}")


def test_a_head_that_never_ends_is_given_up(database, published, monkeypatch):
    """Nothing, empty lines, or a head drop by drop: closed once the time for a head has passed, and not before."""
    monkeypatch.setattr(wire, "HEAD_SECONDS", 2.0)
    piece, late, ok = get()[:-4], b"HTTP/1.1 408", b"HTTP/1.1 200"
    talks = [
        (b"", b"", []), (b"", b"\r\n", []), (piece, b"", [late]), (piece, b"X", [late]),
        (get() + piece, b"X", [ok, late]), (get(), b"\r\n", [ok]),
    ]  # fmt: skip
    # An idle connection is closed by another rule, which is out of the way here.
    with running(create_app(database, keyless=True), timeout_keep_alive=600) as address:
        port = int(address.rsplit(":", 1)[1])
        wait_until_known([port])
        with ThreadPoolExecutor(len(talks)) as clients:
            said = list(clients.map(lambda each: drip(port, *each[:2]), talks))
        assert [each[2] for each in talks] == [re.findall(rb"HTTP/1\.1 [0-9]{3}", each) for each in said]
        with connect(port) as connection:  # each head has its own time
            for _ in range(4):
                assert ok == talk(connection, piece, get()[-4:], pause=0.7)[0][:12]
