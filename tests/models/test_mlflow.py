"""A real MLflow server: an alias moves, the next run scores with the new version; an outage is outlived."""

import os
import socket
import subprocess
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

if not os.environ.get("BATCHPRED_TEST_MLFLOW"):
    pytest.skip("needs an MLflow and a moto server: make test-models", allow_module_level=True)

from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.mlflow_registry import MlflowServer
from jobs.plan import Runtime
from jobs.run import run_job
from tests.unit import onnx_models as models

BIN = Path(os.environ["BATCHPRED_TEST_MLFLOW"])
LOG = """
import mlflow, onnx, sys
mlflow.set_tracking_uri(sys.argv[1])
for path in sys.argv[2:]:
    with mlflow.start_run():
        mlflow.onnx.log_model(onnx.load(path), name="model", registered_model_name="double")
client = mlflow.MlflowClient()
client.set_registered_model_alias("double", "champion", "1")
"""
JOB = """\
version: 1
name: m
source: {query: "SELECT g::bigint AS id, g::float4 AS x FROM generate_series(1, 10) AS g", bounded: false}
key: [id]
model: mlflow:double@champion
output: {columns: {score: y}}
"""


@pytest.fixture
def server(tmp_path):
    """MLflow with a store of its own, and how to stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [
        str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination", str(tmp_path / "files"),
    ]  # fmt: skip
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def test_an_alias_in_mlflow_moves(server, database, tmp_path, monkeypatch):
    """Version 1 scores, the alias moves, version 2 scores, which is said; MLflow goes down, and 2 scores on."""
    address, process = server
    paths = []
    for number, operator in enumerate(("Abs", "Neg")):
        paths.append(tmp_path / f"{number}.onnx")
        data = models.one_node(operator, models.FLOAT, ("N", 1))
        paths[-1].write_bytes(data)
    (tmp_path / "log.py").write_text(LOG)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    subprocess.run([BIN / "python", tmp_path / "log.py", address, *paths], check=True, cwd=tmp_path)
    path = tmp_path / "m.job.yaml"
    path.write_text(JOB)
    job = load_job(path, {})
    interval = interval_named("2026-01-01", "day", job.job.zone, datetime.now(UTC))
    runtime = Runtime(database, tmp_path / "cache", mlflow=MlflowServer(address))

    def run():
        report = run_job(runtime, job, interval)
        assert report.error is None
        with database.connect(purpose="test") as connection:
            scores = connection.execute(
                "SELECT score, model_name, model_version FROM predictions.m WHERE id = 3"
            )
            return report, tuple(scores.fetchone().values())

    assert (3.0, "mlflow:double", 1) == run()[1]
    move = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]);"
        "mlflow.MlflowClient().set_registered_model_alias('double', 'champion', '2')"
    )
    subprocess.run([BIN / "python", "-c", move, address], check=True, cwd=tmp_path)
    report, published = run()
    assert (-3.0, "mlflow:double", 2) == published
    assert ["mlflow:double@champion names version 2 now; the last run here took 1"] == report.warnings
    process.terminate()
    process.wait(30)
    report = run_job(runtime, job, interval, force=True)
    assert ("published", 2) == (report.status, report.model["version"])
    assert "does not answer" in report.warnings[0]
    assert "from the cache" in report.warnings[0]
