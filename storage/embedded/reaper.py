"""The one small process beside an embedded server that stops it once nobody has used it for a while.

It sleeps in the kernel until the last user process is gone, however it went (users.lock), and then looks now and
then: a process that took the lock meanwhile, or a client that is connected, starts the time anew. Killed, it is
replaced by the next process that uses the server; until then the server just stays up.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from storage.embedded import lock, process, server
from storage.embedded.cluster import Cluster

# -I keeps the caller's folder and PYTHON* variables out; where this package lies is said instead.
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from storage.embedded.reaper import main; main(sys.argv[2:])"

DEFAULT_LINGER_SECONDS = 600.0

# To look for clients costs a connection: every 5 s at most, to look at the locks costs nothing.
LOOK_SECONDS = 5.0
LOCK_SECONDS = 0.5


def note_user(users: int, linger_seconds: float) -> None:
    """Say in the lock file that somebody came, by its time, and how many seconds the server may linger."""
    os.pwrite(users, f"{linger_seconds:20.3f}\n".encode(), 0)  # one width: never read half old, half new


def ensure_reaper(cluster: Cluster) -> None:
    """Start the reaper unless there is one or the server is pinned; the caller holds start.lock.

    The lock goes to it by inheritance, so there is no moment in which a second could be started.
    """
    if cluster.pin.exists():
        return
    with lock.opened(cluster.reaper_lock) as held:
        if not lock.take(held):
            return
        package_parent = str(Path(__file__).resolve().parents[2])
        log = cluster.open_log()
        try:
            process.detach(
                [sys.executable, "-I", "-c", BOOT, package_parent, str(cluster.folder), str(held)],
                account=None,
                log=log,
                keep=held,
                environment=None,
            )
        finally:
            os.close(log)


def main(arguments: list[str]) -> None:
    """Be the reaper of the cluster in the folder given first, holding the reaper lock's descriptor given second."""
    folder, held = Path(arguments[0]), int(arguments[1])
    os.set_inheritable(held, False)
    os.pwrite(held, f"{os.getpid():<12}\n".encode(), 0)  # for whoever asks `cat reaper.lock`
    with contextlib.suppress(FileNotFoundError):  # the folder was removed: nothing is left to do
        watch(Cluster(folder), held)


def watch(cluster: Cluster, held: int) -> None:
    """Wait for the end of use again and again, until the server is stopped or gone."""
    while True:
        with lock.opened(cluster.users_lock) as users:
            lock.take(users, seconds=None)
        last_user = _wait_quiet(cluster)
        if last_user is not None and _retire(cluster, held, last_user):
            return


def _wait_quiet(cluster: Cluster) -> int | None:
    """The time stamp of the last user once the server was left alone long enough or is gone; None when used."""
    last_user = -1
    quiet_since = looked = time.monotonic()
    while True:
        with lock.opened(cluster.users_lock) as users:
            if not lock.take(users):
                return None
            stamp = os.fstat(users).st_mtime_ns
            linger = _linger_seconds(users)
        if not cluster.alive():
            return stamp
        now = time.monotonic()
        if stamp != last_user:
            last_user, quiet_since = stamp, now
        if now - looked >= min(LOOK_SECONDS, linger / 10):
            looked = now
            if cluster.has_clients():
                quiet_since = now
        if now - quiet_since >= linger:
            return stamp
        time.sleep(min(LOCK_SECONDS, max(0.1, linger / 20)))


def _retire(cluster: Cluster, held: int, last_user: int) -> bool:
    """Stop the server unless it is pinned or was used after all; True when this reaper's work is done.

    The files are opened anew: were the folder removed and made again, the old ones would lock nothing.
    """
    with cluster.starting(seconds=None), lock.opened(cluster.users_lock) as users:
        if not lock.take(users) or os.fstat(users).st_mtime_ns != last_user:
            return False
        if not cluster.pin.exists() and cluster.alive():
            if cluster.has_clients():
                return False
            server.stop(cluster)
        # Before start.lock: whoever takes that next must see that there is no reaper.
        os.close(held)
        return True


def _linger_seconds(users: int) -> float:
    try:
        return float(os.pread(users, 64, 0))
    except ValueError:
        return DEFAULT_LINGER_SECONDS
