"""The command as a user runs it: a process of its own, in a project folder, on a database of the test's own."""

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from batchpred import cli
from storage.database import Database
from tests.conftest import new_database

# A shell's background job ignores Ctrl-C, and so would the commands it starts; some of them are to be stopped so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Result:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Command:
    """`batchpred`, in a folder and with an environment."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**os.environ, **environment}
        self.environment.pop("TEST_DATABASE_URL", None)
        # Compiling every module at every start would be half of a command's time.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __call__(self, *arguments: object, check: bool = False, **environment: str) -> Result:
        done = subprocess.run(
            self.line(*arguments), cwd=self.folder, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"batchpred {arguments} left with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.line(*arguments), cwd=self.folder, env={**self.environment, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, *arguments: object, check: bool = False, **environment: str) -> Result:
        """The same without a process: for the second and later kinds of what one process has shown already."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.environment, **environment}, clear=True),
            mock.patch.object(sys, "argv", ["batchpred", *map(str, arguments)]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            cli.main()
        gc.unfreeze()  # what main() froze for the end of a process that goes on
        if check and left.value.code:
            raise AssertionError(f"batchpred {arguments} left with {left.value.code}:\n{err.getvalue()}")
        return Result(left.value.code, out.getvalue(), err.getvalue())

    def line(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "batchpred", *map(str, arguments)]

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def batchpred(tmp_path, database):
    """The command on the test's database, in an empty project folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    return Command(folder, {"BATCHPRED_DATABASE_URL": database.url, "BATCHPRED_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="session")
def done(server_url, template_name, tmp_path_factory):
    """The demo, done once for all: the name of its database, its folder, and what it said."""
    folder = tmp_path_factory.mktemp("done")
    with new_database(server_url, template_name) as url:
        first = Command(folder, {"BATCHPRED_DATABASE_URL": url, "BATCHPRED_HOME": str(folder / "home")})
        yield url.partition("?")[0].rsplit("/", 1)[1], folder, first("demo", check=True)


@pytest.fixture
def demo(server_url, done, tmp_path):
    """The demo, done: a copy of its folder and of its database."""
    name, made, said = done
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    with new_database(server_url, name) as url:
        copy = Command(folder, {"BATCHPRED_DATABASE_URL": url, "BATCHPRED_HOME": str(tmp_path / "home")})
        copy.demo, copy.database = said, Database.at(url)
        yield copy
