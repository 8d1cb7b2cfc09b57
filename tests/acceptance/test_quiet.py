"""Whom a project calls as a user runs it: its database, and nobody else."""

import os
import re
import shutil
import socket
import subprocess

import pytest
from psycopg.conninfo import conninfo_to_dict

# Loaded by every Python process that is started, before anything else.
HOOK = """
import os, sys

def heard(event, values):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        host, port = (values[1] if event != "socket.getaddrinfo" else values)[:2]
        with open(os.environ["HEARD"], "a") as kept:
            print(host, port, file=kept)

sys.addaudithook(heard)
"""
CONNECT = re.compile(r'htons\((\d+)\).*?(?:inet_addr\(|AF_INET6, )"([^"]+)"')


@pytest.fixture
def calls(batchpred, tmp_path):
    """Run a command; return the (address, port) that it and its children called by Python, and by the system."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    heard, traced = tmp_path / "heard", tmp_path / "traced"
    path = os.pathsep.join([str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")])
    environment = {**batchpred.environment, "PYTHONPATH": path, "HEARD": str(heard)}

    def run(line):
        for kept in (heard, traced):
            kept.write_text("", encoding="utf-8")
        tracer = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o", str(traced)]
        line = [*(tracer if shutil.which("strace") else []), *line]
        subprocess.run(
            line, cwd=batchpred.folder, env=environment, capture_output=True, text=True, check=True
        )
        python = [tuple(line.rsplit(" ", 1)) for line in heard.read_text(encoding="utf-8").splitlines()]
        return set(python), {
            (host, port) for port, host in CONNECT.findall(traced.read_text(encoding="utf-8"))
        }

    return run


def test_nothing_but_the_database_is_called(batchpred, calls, database):
    """The demo, from an empty folder to three scored days, calls the database's address and no other (P12)."""
    address = conninfo_to_dict(database.url)
    port = str(address.get("port", 5432))
    host = address.get("hostaddr") or address["host"]
    allowed = {(name, port) for name in {host, *(each[4][0] for each in socket.getaddrinfo(host, None))}}
    python, system = calls(batchpred.line("demo", "--folder", "."))
    assert set() == (python | system) - allowed
    if shutil.which("strace"):
        assert system


def test_the_guard_hears_a_call(batchpred, calls):
    """A library that called home, by Python or past it, would be heard."""
    with socket.create_server(("127.0.0.1", 0)) as home:
        address = ("127.0.0.1", str(home.getsockname()[1]))
        line = f"import socket; socket.create_connection({home.getsockname()!r})"
        python, system = calls([batchpred.line()[0], "-c", line])
    assert address in python
    assert not shutil.which("strace") or address in system
