"""The file locks that say who uses, starts and serves an embedded cluster; the kernel drops a dead one's."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_SECONDS = 0.02


def open_owned(path: Path, flags: int) -> int:
    """Open a 0600 file, made if need be, that belongs to the owner of its folder even when root makes it."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A lock file's descriptor, closed, and so unlocked, at the end.

    A bare descriptor on purpose: a Python file object was once garbage-collected with the lock it held.
    """
    descriptor = open_owned(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int, *, shared: bool = False, seconds: float | None = 0.0) -> bool:
    """Lock, waiting at most `seconds` (None: for ever); False when others still hold it then."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if seconds is None:
        fcntl.flock(descriptor, operation)
        return True
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def release(descriptor: int) -> None:
    """Unlock and keep the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def held_by_others(path: Path) -> bool:
    """Whether somebody holds the lock exclusively; creates nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not take(descriptor, shared=True)
    finally:
        os.close(descriptor)
