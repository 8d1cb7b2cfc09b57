"""The server process of an embedded cluster: brought up where it is not, awaited, and stopped.

Each function is called with start.lock held, so a server changes under nobody's hands. What can be met:

| server.lock | answers | it is | what is done |
|---|---|---|---|
| held | yes | up | nothing |
| held | no | starting (its starter was killed), stopping, or frozen | waited for, then an error |
| held | no, postmaster dead | children of a killed postmaster | the same, then they are killed |
| free | - | down, however it went | what it left in postmaster.pid is removed, and it is started |
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from storage.embedded import binaries as installed
from storage.embedded import lock, process
from storage.embedded.create import create
from storage.embedded.errors import EmbeddedStartError, EmbeddedStopError

if TYPE_CHECKING:
    from storage.embedded.binaries import Binaries
    from storage.embedded.cluster import Cluster, Connection

# A warm start takes 0.2 s; replaying max_wal_size (2 GB) after a kill can take minutes on a slow disk.
START_SECONDS = 300.0

# What says "ready" and does not answer is given this long; a loaded machine has needed 1 s.
ANSWER_SECONDS = 15.0

# A fast stop writes what is dirty (at most shared_buffers, 256 MB).
STOP_SECONDS = 120.0

# Children of a killed postmaster end by themselves within 0.1 s unless they compute.
ORPHAN_SECONDS = 3.0

ATTEMPTS = 5


def bring_up(cluster: Cluster) -> Connection:
    """Make the cluster if there is none, start its server if it is down, and return how to reach it.

    Raises EmbeddedStartError or EmbeddedUnavailableError.
    """
    connection = cluster.connection()
    if connection is not None and (
        cluster.refusal(connection) is None or (cluster.alive() and _wait_until_up(cluster, connection))
    ):
        return connection
    account = process.server_account(cluster.data)
    binaries = installed.find(cluster.major)
    binaries = installed.reachable(binaries, account, cluster.folder.parent)
    if connection is None:
        create(cluster, binaries)
    for _ in range(ATTEMPTS):
        started = _launch(cluster, binaries)
        if started is not None:
            return started
    raise EmbeddedStartError(
        f"the PostgreSQL {binaries.version} in {cluster.folder} was started {ATTEMPTS} times and each time killed, "
        f"or its port taken, before it was ready: {cluster.last_words()}: read {cluster.log}, then run this again"
    )


def stop(cluster: Cluster) -> bool:
    """Stop the server at once, rolling back what is open; False when none ran.

    A SIGINT to the postmaster is what `pg_ctl stop -m fast` sends, but pg_ctl needs programs that may be gone
    by now, and signals whatever process was given the number in postmaster.pid. Raises EmbeddedStopError.
    """
    was_running = told = False
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        pid, _ = _pid_file(cluster)
        postmaster = pid if pid and process.is_postmaster(pid, cluster.data) else 0
        if not (postmaster or cluster.alive()):
            return was_running
        was_running = True
        if postmaster and not told:
            os.kill(postmaster, signal.SIGINT)
            told = True
        if not postmaster and time.monotonic() > deadline - STOP_SECONDS + ORPHAN_SECONDS:
            process.kill_orphans(cluster.data)
        if time.monotonic() > deadline:
            raise EmbeddedStopError(
                f"the PostgreSQL in {cluster.folder} (pid {postmaster or 'unknown'}) still runs {STOP_SECONDS:.0f} "
                f"s after it was told to stop: {cluster.last_words()} (log: {cluster.log}): wait, or kill it"
            )
        time.sleep(lock.POLL_SECONDS)


def _launch(cluster: Cluster, binaries: Binaries) -> Connection | None:
    """Start the server and wait for it; None when the port was taken in between, or the server killed."""
    known = cluster.connection()
    if known is None:  # create() has just made it
        raise EmbeddedStartError(f"{cluster.data} vanished while its server was started: run this again")
    with lock.opened(cluster.server_lock) as held:
        # Only a glance of alive() can hold it now, and is short.
        if not lock.take(held, seconds=5.0):
            raise EmbeddedStartError(
                f"a server appeared in {cluster.folder} while one was started: run this again"
            )
        _clear_pid_file(cluster)
        # The port is kept first: killed right after, the next one finds the server where it listens.
        connection = replace(known, port=free_port(known.port), version=binaries.version)
        cluster.remember(connection)
        log = cluster.open_log()
        try:
            offset = os.fstat(log).st_size
            process.detach(
                [
                    *(binaries.program("postgres"), "-D", str(cluster.data), "-c", f"port={connection.port}"),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    *("-c", "logging_collector=off", "-c", "log_destination=stderr"),
                ],
                account=process.server_account(cluster.data),
                log=log,
                keep=held,
                environment=process.SERVER_ENVIRONMENT,
            )
        finally:
            os.close(log)
    if _wait_until_up(cluster, connection):
        return connection
    reason = cluster.last_words(offset)
    if "could not create any TCP/IP sockets" in reason:
        cluster.remember(replace(connection, port=0))
        return None
    if "FATAL" not in reason or "postmaster exit" in reason:  # it did not end by its own will
        return None
    raise EmbeddedStartError(
        f"the PostgreSQL {binaries.version} in {cluster.folder} did not start: {reason}: "
        f"read {cluster.log}, then run this again"
    )


def _wait_until_up(cluster: Cluster, connection: Connection) -> bool:
    """Wait for a server that lives; False when it ended. Raises EmbeddedStartError when it does neither."""
    deadline = time.monotonic() + START_SECONDS
    ready_since = dead_since = None
    pause = lock.POLL_SECONDS
    while cluster.alive():
        pid, ready = _pid_file(cluster)
        now = time.monotonic()
        living = process.is_postmaster(pid, cluster.data) if pid else True  # no pid yet: it is just starting
        dead_since = None if living else dead_since or now
        if dead_since and now - dead_since > ORPHAN_SECONDS:
            process.kill_orphans(cluster.data)
        reason = "it is starting"
        # Asked before it is ready, it would log a FATAL line each time.
        if ready and living:
            ready_since = ready_since or now
            refusal = cluster.refusal(connection)
            if refusal is None:
                return True
            reason = refusal
            pause = min(pause * 1.5, 0.5)
        if now > deadline or (ready_since and now - ready_since > ANSWER_SECONDS):
            raise EmbeddedStartError(
                f"the PostgreSQL in {cluster.folder} (pid {pid or 'unknown'}) runs and does not answer: {reason} "
                f"(log: {cluster.log}): wait for it, or end that process and run this again"
            )
        time.sleep(pause)
    return False


def _pid_file(cluster: Cluster) -> tuple[int, bool]:
    """The postmaster's number in postmaster.pid (0: none), and whether it says that the server is ready."""
    try:
        lines = (cluster.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return 0, False
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
    return pid, len(lines) >= 8 and lines[7].strip() == "ready"


def _clear_pid_file(cluster: Cluster) -> None:
    """Remove what a killed server left; PostgreSQL takes a reused number for itself and never starts again.

    It also guards against children of a dead postmaster, which here hold server.lock, and we have that.
    """
    pid, _ = _pid_file(cluster)
    if pid and process.is_postmaster(pid, cluster.data):
        raise EmbeddedStartError(
            f"a PostgreSQL that batchpred did not start (pid {pid}) has {cluster.data} open: stop it with "
            f"`pg_ctl stop -D {cluster.data}`, then run this again"
        )
    (cluster.data / "postmaster.pid").unlink(missing_ok=True)


def free_port(preferred: int) -> int:
    """The preferred TCP port of 127.0.0.1 where it is free (an address once told stays good), or any other."""
    for port in (preferred, 0):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    raise EmbeddedStartError("127.0.0.1 has no free TCP port: end what uses them, then run this again")
