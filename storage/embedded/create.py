"""How an embedded cluster is made: initdb beside its final place, our settings, our database, one rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from storage.embedded import process
from storage.embedded.cluster import DATABASE, USER, Connection
from storage.embedded.errors import EmbeddedStartError

if TYPE_CHECKING:
    from storage.embedded.binaries import Binaries
    from storage.embedded.cluster import Cluster


def create(cluster: Cluster, binaries: Binaries) -> None:
    """Make the cluster beside its final place, then put it there whole; the caller holds start.lock.

    Raises EmbeddedStartError when initdb fails.
    """
    account = process.server_account(cluster.data)
    for leftover in cluster.folder.glob("new-*"):  # of a creation that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="new-", dir=cluster.folder))
    try:
        password = secrets.token_urlsafe(24)
        data, secret = scratch / "data", scratch / "password"
        data.mkdir(mode=0o700)
        secret.write_text(password, encoding="ascii")  # readable by its folder's owner alone
        if account:
            for path in (secret, data, scratch):
                os.chown(path, account.uid, account.gid)
        # The builtin provider (17) sorts and folds alike on every machine; before it, plain C does.
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.major >= 17 else []
        _run_or_raise(
            cluster,
            [
                *(binaries.program("initdb"), "-D", str(data), "-U", USER, f"--pwfile={secret}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *builtin),
                *("--data-checksums", "--no-instructions"),
            ],
            account,
        )
        _run_or_raise(
            cluster,
            [binaries.program("postgres"), "--single", "-D", str(data), "-c", "exit_on_error=on", "postgres"],
            account,
            stdin=f"CREATE DATABASE {DATABASE}\n",
        )
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(settings())
            file.flush()
            os.fsync(file.fileno())
        cluster.remember(Connection(port=0, password=password, version=binaries.version))
        data.rename(cluster.data)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_or_raise(
    cluster: Cluster, argv: list[str], account: process.Account | None, stdin: str = ""
) -> None:
    descriptor = cluster.open_log()
    try:
        offset = os.fstat(descriptor).st_size
        status, output = process.run(argv, account=account, stdin=stdin)
        os.write(descriptor, output.encode())
    finally:
        os.close(descriptor)
    if status != 0:
        raise EmbeddedStartError(
            f"no PostgreSQL cluster could be made in {cluster.folder}: {cluster.last_words(offset)} "
            f"({Path(argv[0]).name} left with {status}): read {cluster.log}, then run this again"
        )


def settings() -> str:
    """What our postgresql.conf adds to initdb's; it stands there to be edited, and ALTER SYSTEM overrides it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    buffers = max(16, min(256, memory // 8 // 2**20))
    try:
        shared = os.statvfs("/dev/shm")  # noqa: S108 - PostgreSQL's place for parallel queries
        # Docker gives 64 MB, where a parallel hash join fails with "could not resize shared memory segment".
        small = shared.f_blocks * shared.f_frsize < 256 * 2**20
    except OSError:  # not Linux
        small = False
    lines = {
        "max_connections": "100",
        "shared_buffers": f"{buffers}MB",  # an eighth of the memory, at most 256 MB
        "max_locks_per_transaction": "256",  # one view over many partitions locks each
        "max_wal_size": "2GB",
        "fsync": "on",
        "synchronous_commit": "on",  # off lost 7 of 8 published runs when the server was killed
        **({"dynamic_shared_memory_type": "sysv"} if small else {}),
    }
    return "\n# set by batchpred\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
