"""Who this process is, and whether the process that wrote down another such identity is certainly gone."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return an identity that no later process on this or another machine can have by accident.

    A pid alone is reused, and means another process in another container or after a restart: so the boot,
    the pid namespace and the process's start time stand beside it.
    """
    return {"host": socket.gethostname(), "pid": os.getpid(), "world": _world(), "born": _born(os.getpid())}


def this_person() -> str:
    """Name the user this process belongs to and the machine, for records of who did something."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user it has no name for
        name = str(os.getuid())
    return f"{name} on {socket.gethostname()}"


def is_known_dead(holder: dict[str, Any] | None) -> bool:
    """Tell whether that process is gone for certain: it ran in this very process world and is not there now.

    False wherever nothing can be known, as about another machine: then only its lease tells.
    """
    if not holder or not holder.get("world") or holder["world"] != _world():
        return False
    return bool(_born(holder["pid"]) != holder["born"])


def _world() -> str | None:
    """Name the set of processes in which a pid has one meaning; None where the system does not tell (macOS)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  # a link to no path
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, or None where there is none such."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Fields after the command's closing parenthesis; a zombie (state Z) writes nothing any more.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
