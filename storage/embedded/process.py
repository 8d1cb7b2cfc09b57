"""How programs of the embedded PostgreSQL are run: as whom, with what environment, and detached from us."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# PGPORT, PGDATA, TZ or LD_PRELOAD of the caller must not reach a server that many callers share, and the
# messages we look for in its log are English.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# initdb took 1.6 s on two busy cores; this is for a disk that hangs.
PROGRAM_SECONDS = 300.0


@dataclass(frozen=True)
class Account:
    """A user of this machine that PostgreSQL is run as."""

    uid: int
    gid: int


def server_account(data: Path) -> Account | None:
    """Whom the server of `data` runs as; None is whoever we are.

    PostgreSQL refuses root, so root lends it to the owner of the data folder and, for a new one, to `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if data.is_dir():
        owner = data.stat()
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def run(argv: Sequence[str], *, account: Account | None, stdin: str = "") -> tuple[int, str]:
    """Run a program to its end: exit status, and stdout with stderr.

    Raises OSError when it cannot be run at all, PermissionError where `account` cannot reach it.
    """
    done = subprocess.run(  # noqa: S603 - our own programs, no shell
        list(argv),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd="/",  # the caller's folder may be closed to `account`
        env=SERVER_ENVIRONMENT,
        timeout=PROGRAM_SECONDS,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    return done.returncode, done.stdout


def can_enter(folder: Path, account: Account | None) -> bool:
    """Whether `account` can enter `folder`; tried, since modes alone do not tell (ACLs, mounts)."""
    status, _ = run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account=account)
    return status == 0


def detach(
    argv: Sequence[str],
    *,
    account: Account | None,
    log: int,
    keep: int,
    environment: Mapping[str, str] | None,
) -> None:
    """Start a program in a session of its own, as nobody's child, writing to the descriptor `log`.

    Of our other descriptors it gets `keep` alone: had it our stdout, `$(batchpred db url)` would wait for it.
    The shell in between leaves us no child to wait for. `environment` None is our own.
    """
    subprocess.run(  # noqa: S603 - the script is a constant, the program an argument
        ["/bin/sh", "-c", '"$@" &', "sh", *argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        check=True,
        cwd="/",
        env=environment,
        pass_fds=(keep,),
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether `pid` lives and is the PostgreSQL server of `data`, not a process that was given its old number."""
    try:
        command = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except OSError:
        if Path("/proc/self").exists():
            return False
        _, command = run(["/bin/ps", "-o", "command=", "-p", str(pid)], account=None)
    program = command.partition(" -D ")[0]
    return Path(program).name in {"postgres", "postmaster"} and f" -D {data} " in f"{command.strip()} "


def kill_orphans(data: Path) -> None:
    """Kill what a dead postmaster of `data` left running, found by its working folder (Linux only).

    Safe because nothing they still do can be acknowledged wrongly: the next start replays the log.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = (entry / "cwd").readlink() == data and (entry / "comm").read_text().startswith("postgres")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if ours:
            os.kill(int(entry.name), signal.SIGKILL)
