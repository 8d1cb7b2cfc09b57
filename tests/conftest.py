"""A real PostgreSQL for every test: migrated once into a template database, cloned for each test."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from storage.database import Database
from storage.errors import BatchpredError
from storage.upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tests that share something dear to make (a world to hurt, a trained model, the demo, a cluster) are done by one
# worker, or it would be made in each; all others go wherever there is room. By how their ids begin.
SHARING = {
    "refusing": ("tests/integration/test_api_bad_input.py",),
    "hurting, in one world": (
        "tests/chaos/test_chaos.py::test_a_runner_that_is_wrong",
        "tests/chaos/test_chaos.py::test_a_source_that_changes",
    ),
    "hurting, in another": ("tests/chaos/test_chaos.py",),
    "hurting schedulers": ("tests/chaos/test_schedule_chaos.py",),
    "the demo": ("tests/acceptance/test_first_minutes.py", "tests/acceptance/test_runs_commands.py"),
    "the rides": ("tests/acceptance/test_taxis.py",),
    "the wheel": ("tests/acceptance/test_wheel.py",),
    "a cluster": ("tests/integration/test_embedded.py",),
    "a server under load": ("tests/load/test_load.py",),
}

_server: dict[str, str] = {}
_undo = []


def pytest_configure(config: pytest.Config) -> None:
    """Take up the server that the process which began all workers has started."""
    _server.update(getattr(config, "workerinput", {}).get("server", {}))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Give a worker that is about to start the server all of them share."""
    _start_server()
    node.workerinput["server"] = dict(_server)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give out tests one by one, but for those that share something; not by files, as `loadscope` would."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((name for name, begins in SHARING.items() if nodeid.startswith(begins)), nodeid)

    return Sharing(config, log)


def pytest_report_header(config: pytest.Config) -> str:
    """Say which PostgreSQL the tests run on."""
    with psycopg.connect(_start_server()) as connection:
        version = connection.execute("SHOW server_version").fetchone()[0]
    return f"PostgreSQL {version}: {_server['kind']}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what the header started."""
    while _undo:
        _undo.pop()()


def _start_server() -> str:
    """Take TEST_DATABASE_URL, else a container where a Docker engine answers, else the embedded server."""
    if _server:
        return _server["url"]
    if url := os.environ.get("TEST_DATABASE_URL"):
        _server.update(kind="TEST_DATABASE_URL", url=url)
        return url
    if (container := _container()) is not None:
        _undo.append(container.stop)
        _server.update(kind="a container", url=container.get_connection_url())
        return _server["url"]
    # Not below pytest's own folder: that is closed to the user an embedded server runs as under root.
    home = Path(tempfile.mkdtemp(prefix="batchpred-tests-"))
    home.chmod(0o755)
    from storage import embedded

    server = embedded.start(home)
    _undo.append(lambda: (embedded.stop(home), shutil.rmtree(home, ignore_errors=True)))
    with psycopg.connect(server.url, autocommit=True) as connection:
        # Nothing here outlives the tests, and making a database a test is mostly waiting for the disk.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    # Files that are copied come with the cache of the catalogue's descriptions, which a first session has to make
    # otherwise: half the processor time, as long as the checkpoints that this needs wait for no disk.
    _server.update(kind="embedded", url=server.url, cloning="STRATEGY FILE_COPY")
    return server.url


def _container():
    # Looked for first: the Docker client leaks its socket where no engine answers.
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return None
    from testcontainers.community.postgres import PostgresContainer

    try:
        return PostgresContainer("postgres:18", driver=None).start()
    except Exception:  # docker-py raises what it pleases where no engine answers
        return None


@pytest.fixture(autouse=True)
def log_as_before():
    """A command that a test calls sends the log to that test's stderr: the next one has its own."""
    log = logging.getLogger("batchpred")
    before = list(log.handlers), log.propagate, log.level
    yield
    log.handlers, log.propagate, log.level = before


@pytest.fixture(scope="session")
def server_url() -> str:
    """The address of a superuser on the test server."""
    return _start_server()


def _replace_path(url: str, name: str) -> str:
    head, _, query = url.partition("?")
    base = head.rsplit("/", 1)[0]
    return f"{base}/{name}" + (f"?{query}" if query else "")


@contextmanager
def new_database(server_url: str, template: str = "template0") -> Iterator[str]:
    """Create a database for the length of the block and give its address."""
    name = f"bp_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8' {_server.get('cloning', '')}"
        )
    try:
        yield _replace_path(server_url, name)
    finally:
        # A connection of its own: the server may have been restarted in between.
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def template_name(server_url: str) -> Iterator[str]:
    """A database at the newest schema revision, to be cloned."""
    with new_database(server_url) as url:
        with psycopg.connect(server_url, autocommit=True) as connection:
            # Roles belong to the whole server: two workers that make them at once would trip over each other.
            connection.execute("SELECT pg_advisory_lock(hashtext('batchpred tests'))")
            upgrade(Database.at(url))
        yield url.partition("?")[0].rsplit("/", 1)[1]


@pytest.fixture
def empty_database(server_url: str) -> Iterator[Database]:
    """A database without any schema of ours."""
    with new_database(server_url) as url:
        yield Database.at(url)


@pytest.fixture
def database(server_url: str, template_name: str) -> Iterator[Database]:
    """A database of the test's own, at the newest schema revision."""
    with new_database(server_url, template_name) as url:
        yield Database.at(url)


@pytest.fixture
def command(database, tmp_path, monkeypatch, capsys):
    """The command in an empty folder: give it words, get exit code and what it printed (or the error's text)."""
    from batchpred import cli

    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
    monkeypatch.setenv("BATCHPRED_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        try:
            code = cli.app([str(word) for word in words], standalone_mode=False) or 0
        except BatchpredError as error:
            return error.exit_code, str(error)
        told = capsys.readouterr()
        return code, json.loads(told.out) if "--json" in words else told.out + told.err

    return run
