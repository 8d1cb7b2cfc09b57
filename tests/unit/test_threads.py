"""How many processors this process may use: its mask, and the limits of its control groups."""

from __future__ import annotations

import os

import pytest

from jobs.threads import available_cpus


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A fake root folder, on a host where this process may run on 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    return tmp_path


def write(root, path, text):
    """Write a file below the fake root."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_affinity(root):
    """Without any quota, the processors that the process may run on count."""
    assert available_cpus(root) == 64


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("", 64)],
)
def test_version_2(root, quota, cpus):
    """A cgroup v2 quota is rounded up to whole processors, and `max` is none."""
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cpu.max", quota)
    assert available_cpus(root) == cpus


def test_parent(root):
    """The tightest quota among a group and its parents binds."""
    write(root, "proc/self/cgroup", "0::/pod/box\n")
    write(root, "sys/fs/cgroup/pod/box/cpu.max", "max 100000")
    write(root, "sys/fs/cgroup/pod/cpu.max", "300000 100000")
    assert available_cpus(root) == 3


@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/abc", "cpu,cpuacct", "cpu"])
def test_version_1(root, folder):
    """A cgroup v1 quota is found in the group's own folder, and at the mount as a container sees it."""
    write(root, "proc/self/cgroup", "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n")
    write(root, f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us", "400000\n")
    write(root, f"sys/fs/cgroup/{folder}/cpu.cfs_period_us", "100000\n")
    assert available_cpus(root) == 4


def test_version_1_without_quota(root):
    """The v1 quota -1 is none."""
    write(root, "proc/self/cgroup", "4:cpu,cpuacct:/\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert available_cpus(root) == 64


def test_group_outside(root):
    """A group that lies outside the container's view is looked up at the mount."""
    write(root, "proc/self/cgroup", "0::/../../other\n")
    write(root, "sys/fs/cgroup/cpu.max", "100000 100000")
    assert available_cpus(root) == 1


def test_here():
    """On the machine at hand there is at least one processor, and no more than it has."""
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
