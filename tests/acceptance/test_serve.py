"""`batchpred keys` and `batchpred serve` as a user runs them."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_up(process, address):
    """Ask until the server answers; its own end is a failure with its words."""
    with httpx.Client(base_url=address, timeout=5) as client:
        while process.poll() is None:
            try:
                return client.get("/healthz")
            except httpx.TransportError:
                time.sleep(0.05)
    raise AssertionError(process.stderr.read())


def test_keys_are_made_listed_and_revoked(batchpred):
    """A key is printed once on stdout, listed by its id, and can be closed."""
    made = batchpred("keys", "create", "shop", "--expires", "30d", "--rate", 100, check=True)
    token = made.out.strip()
    assert re.fullmatch(r"bp_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", token)
    key_id = token.split("_")[1]
    listed = batchpred("keys", "list", check=True)
    assert key_id in listed.out
    assert token.split("_", 2)[2] not in listed.out
    batchpred("keys", "revoke", key_id, check=True)
    (row,) = batchpred("keys", "list", "--json", check=True).json["keys"]
    assert (key_id, "revoked", 100) == (row["key_id"], row["status"], row["requests_per_second"])
    wrong = batchpred("keys", "create", "shop", "--expires", "soon")
    assert (2, "error: --expires 'soon' is no span; it reads 12h or 90d\n") == (wrong.code, wrong.err)


def test_an_open_address_wants_a_key_first(batchpred):
    """Until a key is made `serve` listens on this machine only, and says how to change that."""
    refused = batchpred("serve", "--host", "0.0.0.0")
    assert 2 == refused.code
    assert "batchpred keys create NAME, or stay on 127.0.0.1" in refused.err


def test_serve_says_who_may_read_and_stops_when_told(batchpred, free_port):
    """Without a key the server says that it answers this machine only; a signal ends it with exit code 0."""
    process = batchpred.start("serve", "--port", free_port)
    try:
        address = f"http://127.0.0.1:{free_port}"
        assert {"status": "ok"} == wait_until_up(process, address).json()
        assert {"jobs": []} == httpx.get(f"{address}/v1/jobs", timeout=5).json()
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert 0 == process.returncode
    assert "no key was made yet, so for this machine only" in said


def test_two_workers_answer_on_one_port_and_end_together(batchpred, free_port):
    """`--workers 2` serves one address from two processes; one that dies is replaced, and a signal ends all."""
    process = batchpred.start("serve", "--port", free_port, "--workers", 2)
    try:
        address = f"http://127.0.0.1:{free_port}"
        assert {"status": "ok"} == wait_until_up(process, address).json()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if children.exists():
            first = int(children.read_text().split()[0])
            os.kill(first, signal.SIGKILL)
            until = time.monotonic() + 60
            while len(left := children.read_text().split()) < 2 or str(first) in left:
                assert time.monotonic() < until, left
                time.sleep(0.02)
        assert {"jobs": []} == httpx.get(f"{address}/v1/jobs", timeout=5).json()
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert 0 == process.returncode


def test_a_port_in_use_is_said(batchpred):
    """A port that another program has is refused in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = batchpred("serve", "--port", taken.getsockname()[1])
    assert (2, 1) == (refused.code, len(refused.err.splitlines()))
    assert "Address already in use; choose another with --port" in refused.err
