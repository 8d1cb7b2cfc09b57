"""What `batchpred doctor` looks at: everything a run needs, each with the way to mend it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING

from storage.errors import BatchpredError

if TYPE_CHECKING:
    from pathlib import Path

    from batchpred.settings import Settings
    from jobs.jobfile import JobFile
    from storage.database import Database


@dataclass(frozen=True)
class Finding:
    """One check: whether it holds, what was found, and what to do where it does not."""

    check: str
    ok: bool
    found: str
    mend: str = ""

    @property
    def mark(self) -> str:
        """How it shows in the table."""
        return "ok" if self.ok else "NOT OK"


def examine(settings: Settings, project: Path) -> list[Finding]:
    """Look at Python, packages, the home folder, the database, and the project's jobs and models."""
    findings = [
        Finding("python", ok=True, found=platform.python_version()),
        _packages("scoring", ("pyarrow", "onnx", "pgpq"), "cpu"),
        _onnxruntime(),
        _packages("read API", ("fastapi", "uvicorn"), "api"),
        _home(settings.home),
    ]
    try:
        database = settings.database()
    except BatchpredError as error:
        return [*findings, Finding("database", ok=False, found="no", mend=str(error))]
    return [*findings, *_database(database), *_project(settings, project)]


def _packages(check: str, names: tuple[str, ...], extra: str) -> Finding:
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    mend = f'{", ".join(missing)} missing: pip install "batchpred[{extra}]"' if missing else ""
    return Finding(check, ok=not missing, found=", ".join(found) or "nothing", mend=mend)


def _onnxruntime() -> Finding:
    from jobs.threads import available_cpus

    try:
        from jobs.device import available_providers
    except ImportError:
        mend = 'pip install "batchpred[cpu]" or "batchpred[gpu]"'
        return Finding("onnxruntime", ok=False, found="no", mend=mend)
    found = f"{', '.join(available_providers())}; {available_cpus()} CPU(s) to use"
    return Finding("onnxruntime", ok=True, found=found)


def _home(home: Path) -> Finding:
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    ok = os.access(nearest, os.W_OK | os.X_OK)
    mend = "" if ok else f"{nearest} cannot be written: set BATCHPRED_HOME to a folder that can"
    return Finding("home", ok=ok, found=str(home), mend=mend)


def _database(database: Database) -> list[Finding]:
    with database.connect(purpose="doctor", as_writer=True) as connection:
        row = connection.execute(
            "SELECT current_user AS me, current_setting('server_version') AS version"
        ).fetchone()
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'batchpred%'").fetchall()
        pooler = ", through a pooler: sessions are settled in each transaction" if connection.is_lent else ""
    assert row is not None  # noqa: S101  # a SELECT without FROM gives one row
    version = row["version"].split()[0]
    names = sorted(role["rolname"] for role in roles)
    return [
        Finding("database", ok=True, found=f"{database.place}, PostgreSQL {version}{pooler}"),
        Finding("writes as", ok=True, found=row["me"]),
        Finding("roles", ok=True, found=", ".join(names) or "none (optional: batchpred db grants)"),
    ]


def _files(job_file: JobFile) -> str:
    """Look for the files of the latest complete interval: whether the store answers, and how many there are."""
    from jobs.file_source import file_source
    from jobs.interval import latest_complete

    job = job_file.job
    interval = latest_complete(job.interval, job.zone, datetime.now(UTC))
    found = file_source(job_file, interval, {}).files
    return f", {len(found)} file(s) for {interval.label}"


def _project(settings: Settings, project: Path) -> list[Finding]:
    try:
        from jobs.plan import resolve_model
        from jobs.transform import load_transform
    except ImportError:  # said above, with the extra that brings what is missing
        return []
    from jobs.jobfile import load_project

    job_files, faults = load_project(project, settings.environ)
    findings = [Finding("job file", ok=False, found="no", mend=str(fault)) for fault in faults]
    runtime = settings.runtime()
    for job_file in job_files:
        name = f"job {job_file.job.name}"
        try:
            with runtime.database.connect(purpose="doctor") as connection:
                job = job_file.job
                model = resolve_model(runtime, connection, job.model, project, device=job.device)
                if job.transform:
                    load_transform(job.transform, project)
            files = _files(job_file) if job.source.path else ""
            found = f"{job_file.path.name}, model {model} on {model.model.obtained.device}{files}"
            findings.append(Finding(name, ok=True, found=found))
        except BatchpredError as error:
            findings.append(Finding(name, ok=False, found=job_file.path.name, mend=str(error)))
    return findings or [Finding("jobs", ok=True, found=f"no *.job.yaml in {project.absolute()}")]
