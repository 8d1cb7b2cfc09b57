"""Rows to learn from, and the way of an estimator from Python into a published table."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

import batchpred
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.run import run_job
from storage import model_life

RANDOM = np.random.default_rng(20261121)
ROWS = 2000
NUMBERS = [f"n{i}" for i in range(6)]


@pytest.fixture(scope="module")
def rows():
    """Numbers with some NULLs in n5, two texts, a class and an amount to learn."""
    frame = pd.DataFrame({name: RANDOM.normal(size=ROWS).astype(np.float32) for name in NUMBERS})
    frame["plan"] = RANDOM.choice(["basic", "plus", "pro"], ROWS)
    frame["words"] = [" ".join(RANDOM.choice(["late", "fine", "broken", "great"], 4)) for _ in range(ROWS)]
    frame["amount"] = frame["n0"] * 3 + frame["n1"] ** 2 + (frame["plan"] == "pro") * 2
    frame["kind"] = (frame["amount"] > 1).astype(int) + (frame["amount"] > 4)
    return frame


@pytest.fixture
def pushed_and_run(database, tmp_path, monkeypatch):
    """Push an estimator, run a job over the same rows with it, and give what was published, in the rows' order."""
    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)

    def run(estimator, frame, outputs, **options):
        version = batchpred.push(estimator, "m", frame, alias="champion", **options)
        table = (
            frame
            if hasattr(frame, "columns")
            else pd.DataFrame(frame, columns=[f"x{i}" for i in range(frame.shape[1])])
        )
        kinds = {"f": "float8", "i": "bigint", "O": "text", "U": "text", "T": "text"}
        columns = ", ".join(
            f'"{name}" {kinds.get(np.dtype(dtype).kind if isinstance(dtype, np.dtype) else "O", "text")}'
            for name, dtype in table.dtypes.items()
        )
        with database.connect(purpose="test") as connection:
            connection.execute(f"CREATE TABLE t (id bigint, {columns})")
            with connection.cursor().copy("COPY t FROM STDIN") as copy:
                for i, row in enumerate(table.itertuples(index=False)):
                    copy.write_row((i, *row))
        told = ", ".join(f'{column}: "{output}"' for column, output in outputs.items())
        path = tmp_path / "m.job.yaml"
        path.write_text(
            "version: 1\nname: m\nsource: {query: 'SELECT * FROM t', bounded: false}\nkey: [id]\n"
            f"model: m@champion\noutput: {{columns: {{{told}}}}}\ndrift: {{on_alert: block}}\n"
        )
        job = load_job(path, {})
        interval = interval_named("2026-01-01", "day", job.job.zone, datetime.now(UTC))
        report = run_job(Runtime(database, tmp_path / "cache"), job, interval)
        assert ("published", None) == (report.status, report.error)
        # These are the rows of the reference, and what it was told of them.
        assert [] == report.drift["not_in_reference"]
        assert [] == [each for each in report.drift["columns"] if each["psi"] > 1e-3]
        with database.connect(purpose="test") as connection:
            published = connection.execute(
                f"SELECT {', '.join(outputs)} FROM predictions.m ORDER BY id"
            ).fetchall()
            profile = model_life.profile(connection, version)
        return pd.DataFrame(published), version, profile

    return run
