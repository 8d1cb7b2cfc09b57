"""The command as a user runs it: a process of its own, in a project folder, on a database of the test's own."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
