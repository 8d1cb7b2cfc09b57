"""The watch over peers that fall silent: a connection that stays open and never answers is given up.

A run waits for PostgreSQL in blocking calls. Keepalives end such a wait where the other machine is gone, but not
where something in between goes on acknowledging: a proxy, a firewall that forgot the connection, a frozen guest.
No timeout on an answer would do either, because building a key of a large run takes as long as it takes.

So a connection is given up when all of this holds at once:

    we wait for its answer, and for SILENCE seconds no byte went either way, as the kernel counts them; and nothing
        that came lies there unread, as it does where it is this process that had no time
    asked over a new connection, the server does not say that the session is at work for us: it does not know the
        session, the session waits for us, or there is no answer within ANSWER seconds either

Its socket is shut down, and the one who waits gets an ordinary error of a lost connection. The run reads the state
and tries again (jobs/run.py); the lease runs out by itself or is recognised as its own.

Behind a pooler the session is known from a transaction's first answer to its last (storage/session.py); until then
an unknown session proves nothing. The question may have to wait for a session there, so it has SILENCE
seconds. A Unix socket has no network to fail, and a system whose kernel does not count the silence (any but Linux)
has no watch.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import socket
import struct
import threading
import time
import weakref
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.database import Connection, Database

log = logging.getLogger("batchpred.watch")

# A peer that is silent is given up after 30 to 45 seconds: as long as it takes to notice one that vanished
# (storage/database.py), and a lease to run out. A look costs one connection, and is only made after the silence.
SILENCE = 30.0
LOOK_EVERY = 5.0
ANSWER = 5.0

_SQL = load("database")
_NETWORK = (socket.AF_INET, socket.AF_INET6)
# Where struct tcp_info holds the milliseconds since data was sent, an ack was sent, and data was received.
_LAST_DATA = struct.Struct("=44xIII")


@dataclass
class _Watch:
    """Who is watched, who waits since when, how many want it, and how often a connection was given up."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: weakref.WeakKeyDictionary[Any, Database] = field(default_factory=weakref.WeakKeyDictionary)
    waiting_since: weakref.WeakKeyDictionary[Any, float] = field(default_factory=weakref.WeakKeyDictionary)
    wanted: int = 0
    given_up: int = 0
    done: threading.Event = field(default_factory=threading.Event)


_watch = _Watch()


def given_up() -> int:
    """How many connections of this process were given up so far: more than before, and one's peer was mute."""
    return _watch.given_up


def note(connection: Connection, database: Database) -> None:
    """Have a connection watched for as long as it lives, whenever a watch is kept."""
    with _watch.lock:
        _watch.connections[connection] = database


@contextmanager
def kept() -> Iterator[None]:
    """Keep the watch for the length of the block, in a thread of its own."""
    with _watch.lock:
        _watch.wanted += 1
        if _watch.wanted == 1:
            _watch.done = threading.Event()
            threading.Thread(target=_keep, args=(_watch.done,), name="batchpred-watch", daemon=True).start()
    try:
        yield
    finally:
        with _watch.lock:
            _watch.wanted -= 1
            if not _watch.wanted:
                _watch.done.set()


@contextmanager
def paused(connection: Connection) -> Iterator[None]:
    """Leave a connection alone for the length of the block: we are busy with what came, and its server may wait."""
    _watch.waiting_since[connection] = math.inf
    try:
        yield
    finally:
        _watch.waiting_since[connection] = time.monotonic()


def cut(connection: Connection) -> None:
    """Shut a connection down, under whoever waits for it in another thread."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def _keep(done: threading.Event) -> None:
    while not done.wait(LOOK_EVERY):
        with _watch.lock:
            connections = list(_watch.connections.items())
        for connection, database in connections:
            with suppress(OSError, psycopg.Error):  # it was closed in this very moment
                _look_at(connection, database)


def _look_at(connection: Connection, database: Database) -> None:
    if not _waits(connection):
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        patience = SILENCE if connection.is_lent else ANSWER
        if not _is_silent(sock) or _is_at_work(database, connection.server_pid, patience):
            return
        # It may have ended, or begun something else, while we asked.
        if _waits(connection) and _is_silent(sock):
            _give_up(database)
            sock.shutdown(socket.SHUT_RDWR)


def _waits(connection: Connection) -> bool:
    """Whether an answer is waited for, and has been for long, where `paused` says since when."""
    if connection.closed or connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        return False
    return time.monotonic() - _watch.waiting_since.get(connection, -math.inf) >= SILENCE


def _give_up(database: Database) -> None:
    _watch.given_up += 1
    log.warning(
        "a silent connection was given up", extra={"server": database.place, "silent_seconds": SILENCE}
    )


def _is_silent(sock: socket.socket) -> bool:
    if sock.family not in _NETWORK or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        counted = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
        sent, _, received = _LAST_DATA.unpack(counted)
    except (OSError, struct.error):
        return False
    return bool(min(sent, received) >= 1000 * SILENCE) and not _has_unread(sock)


def _has_unread(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
    except OSError:  # a reset, which the one who waits is told by itself
        return True


def _is_at_work(database: Database, pid: int, patience: float) -> bool:
    """Ask the server, over a new connection, whether a session is at work, and not waiting for its client."""
    settings = {**database.session("watch"), "connect_timeout": str(max(2, int(ANSWER)))}
    try:
        # Closed, and not left as a `with` of the driver's leaves it: that would wait for a COMMIT.
        with closing(psycopg.connect(database.url, autocommit=True, **settings)) as connection:
            answer = _ask(connection, _SQL["session_at_work"].replace(b"%(pid)s", b"$1"), pid, patience)
            if answer is None:
                return False
            real_pid, known, working = answer
            is_pooled = real_pid != connection.info.backend_pid
            return working or (is_pooled and not known)
    except psycopg.Error:
        return False


def _ask(
    connection: psycopg.Connection[Any], query: bytes, pid: int, patience: float
) -> tuple[int, bool, bool] | None:
    """Ask for one row of (number, truth, truth), for so many seconds: the driver's own wait has no end."""
    pgconn = connection.pgconn
    pgconn.send_query_params(query, [str(pid).encode()])
    until = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        while pgconn.is_busy():
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            pgconn.consume_input()
    result = pgconn.get_result()
    values = [result.get_value(0, place) for place in range(3)] if result and result.ntuples else []
    if len(values) != 3 or values[0] is None:
        return None
    return int(values[0]), values[1] == b"t", values[2] == b"t"
