"""The embedded PostgreSQL: a real server that starts with the first command and stops when nobody needs it.

Each process that uses it holds a shared lock for its life; a reaper of its own stops the server once the last
one is gone and nobody came for a while. `start` pins it until `stop`. Any process may be killed at any moment:
what it held is released by the kernel, and the next `ensure_running` puts right what it finds.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import SubprocessError
from typing import TYPE_CHECKING

from storage.embedded import binaries as installed
from storage.embedded import lock, process, reaper, server
from storage.embedded.cluster import DATABASE, USER, Cluster
from storage.embedded.errors import EmbeddedStartError, EmbeddedStopError, EmbeddedUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.embedded.cluster import Connection

__all__ = [
    "EmbeddedServer",
    "EmbeddedStartError",
    "EmbeddedStopError",
    "EmbeddedUnavailableError",
    "ensure_running",
    "start",
    "status",
    "stop",
]

# The shared lock of this process on each cluster it uses, as a bare descriptor that only the process's end closes.
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that is up; its repr leaves out the address, which has the password in it."""

    url: str = field(repr=False)
    data_directory: Path
    port: int
    version: str
    pinned: bool


def ensure_running(home: Path, *, linger_seconds: float = 600.0) -> EmbeddedServer:
    """Start the server of `home` if it is down, made on first use, and keep it up for this process's life.

    It stays for `linger_seconds` after the last such process and the last client; the newest caller's wish counts.
    Raises EmbeddedUnavailableError where no programs are found, EmbeddedStartError where it does not start.
    """
    with _explained(home):
        cluster = _find_or_found(home)
        with cluster.starting():
            _hold(cluster, linger_seconds)
            # Before the server: were this process killed between the two, it would stay up for ever.
            # And after: one killed a moment ago may still have held its lock (met in a test that kills at random).
            reaper.ensure_reaper(cluster)
            connection = server.bring_up(cluster)
            reaper.ensure_reaper(cluster)
            return _described(cluster, connection)


def start(home: Path) -> EmbeddedServer:
    """Start the server of `home` if it is down, and pin it: it stays up until `stop`.

    Raises what `ensure_running` raises.
    """
    with _explained(home):
        cluster = _find_or_found(home)
        with cluster.starting():
            pinned_before = cluster.pin.exists()
            # Before the server: killed between the two, this process would leave it up with no reaper and no pin.
            os.close(lock.open_owned(cluster.pin, os.O_WRONLY))
            try:
                return _described(cluster, server.bring_up(cluster))
            except BaseException:
                if not pinned_before:
                    cluster.pin.unlink(missing_ok=True)
                raise


def stop(home: Path) -> bool:
    """Stop the server of `home` whoever uses it, and unpin it; False when it was not running.

    Raises EmbeddedStopError when it still runs after two minutes.
    """
    with _explained(home):
        stopped = False
        for cluster in _clusters(home):
            with cluster.starting():
                cluster.pin.unlink(missing_ok=True)
                stopped = server.stop(cluster) or stopped
                held = _held.pop(cluster.folder, None)
                if held is not None:  # else the reaper would wait for the end of this process
                    os.close(held)
        return stopped


def status(home: Path) -> EmbeddedServer | None:
    """The server of `home`, None when it is not up; starts nothing and creates nothing.

    Raises EmbeddedStartError where its files cannot be read.
    """
    with _explained(home):
        for cluster in _clusters(home):
            connection = cluster.connection()
            if connection is not None and cluster.refusal(connection) is None:
                return _described(cluster, connection)
        return None


def _described(cluster: Cluster, connection: Connection) -> EmbeddedServer:
    return EmbeddedServer(
        url=f"postgresql://{USER}:{connection.password}@127.0.0.1:{connection.port}/{DATABASE}",
        data_directory=cluster.data,
        port=connection.port,
        version=connection.version,
        pinned=cluster.pin.exists(),
    )


def _clusters(home: Path) -> list[Cluster]:
    """The clusters that were made in `home`, the newest major version first."""
    made = [entry for entry in home.resolve().glob("postgres-*") if re.fullmatch(r"postgres-\d+", entry.name)]
    clusters = [Cluster(entry) for entry in made if (entry / "data").is_dir()]
    return sorted(clusters, key=lambda cluster: cluster.major, reverse=True)


def _find_or_found(home: Path) -> Cluster:
    """The cluster of `home`, or the folder for one.

    One that exists decides the version: programs of a newer one would open an empty database beside it.
    """
    for cluster in _clusters(home):
        return cluster
    home = home.resolve()
    major = installed.find().major
    cluster = Cluster(home / f"postgres-{major}")
    account = process.server_account(cluster.data)
    existing = next(parent for parent in (cluster.folder, *cluster.folder.parents) if parent.is_dir())
    if account and not process.can_enter(existing, account):
        raise EmbeddedStartError(
            f"root may not run PostgreSQL, and the account lent to it (uid {account.uid}) cannot enter {existing}: "
            "set BATCHPRED_HOME to a folder that everybody may enter, such as /var/lib/batchpred"
        )
    for folder in (*reversed(cluster.folder.parents), cluster.folder):
        if folder.is_dir():
            continue
        folder.mkdir(exist_ok=True)
        # Only what we made is given a mode; with root's, the lent account must get through.
        if account:
            folder.chmod(0o755)
        elif folder == cluster.folder:
            folder.chmod(0o700)
    return cluster


def _hold(cluster: Cluster, linger_seconds: float) -> None:
    """Hold the shared lock until this process ends; once per cluster."""
    held = _held.get(cluster.folder)
    if held is not None and not _is_file(held, cluster.users_lock):  # the folder was removed and made again
        os.close(_held.pop(cluster.folder))
        held = None
    if held is None:
        held = lock.open_owned(cluster.users_lock, os.O_RDWR)
        if not lock.take(held, shared=True, seconds=10.0):
            os.close(held)
            raise EmbeddedStartError(
                f"{cluster.users_lock} stays locked: end the process that holds it (`fuser`)"
            )
        _held[cluster.folder] = held
    reaper.note_user(held, linger_seconds)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    """Turn what the operating system refused into an error that says where and what next."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise EmbeddedStartError(
            f"the embedded PostgreSQL in {home} cannot be used: {where}{error.strerror or error}: "
            "put that right, or set BATCHPRED_HOME to a folder of your own"
        ) from error
    except SubprocessError as error:
        raise EmbeddedStartError(
            f"the embedded PostgreSQL in {home} cannot be used: {error}: run this again"
        ) from None
