"""How many processors this process may really use, which inside a container is fewer than the host has."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def available_cpus(root: Path = Path("/")) -> int:
    """The processors this process may use: CPU affinity or cgroup quota, whichever is less, and at least 1.

    ONNX Runtime sizes its pool to the host (onnxruntime#29510), so inside a container that may use two of
    64 processors its 64 threads throttle each other. A quota of 1.5 processors counts as 2. `root` is the
    folder that holds `proc` and `sys`; a quota that cannot be read there counts as none.
    """
    if sys.platform == "linux":
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Every quota, in processors, that the groups of this process and their parents set."""
    mount = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            for folder in _upwards(mount, group):
                yield from _quota(*_text(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for name in {controllers, "cpu"}:
                for folder in _upwards(mount / name, group):
                    quota = _text(folder / "cpu.cfs_quota_us")
                    yield from _quota(quota, _text(folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The group's folder and all above it up to the mount: a parent's quota binds its children too.

    Inside a container the group may be named as the host sees it and its folder be missing; the mount
    itself is then the container's own group.
    """
    path = PurePosixPath(group.lstrip("/"))
    if ".." in path.parts:  # a group outside this container's view
        path = PurePosixPath()
    for folder in (path, *path.parents):
        yield mount / folder


def _quota(quota: str = "", period: str = "", *_: str) -> Iterator[float]:
    try:
        limit, span = int(quota), int(period)
    except ValueError:
        return  # "max", or a file that is not there
    if limit > 0 and span > 0:
        yield limit / span


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
