"""The built wheel: it has everything, and works where nothing else of the project is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "batchpred", "jobs", "migrations", "storage")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_every_file_of_every_package(wheel):
    """No module, SQL file, type marker or demo file is left behind, and nothing else is shipped."""
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert files == {path for path in shipped if ".dist-info/" not in path}
    assert {f"{package}/py.typed" for package in PACKAGES} <= shipped


def test_the_wheel_upgrades_a_database(wheel, empty_database, tmp_path):
    """Migrations and SQL are found where the project is installed from the wheel alone."""
    environment = {
        **os.environ, "PYTHONPATH": str(wheel), "BATCHPRED_DATABASE_URL": empty_database.url,
        "BATCHPRED_HOME": str(tmp_path),
    }  # fmt: skip

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert str(wheel) in python("-c", "import storage; print(storage.__file__)")
    assert "is at schema revision" in python("-m", "batchpred", "db", "upgrade")
    assert '"schema": "0' in python("-m", "batchpred", "db", "status", "--json")
