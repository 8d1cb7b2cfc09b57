"""A model in S3, as moto's server speaks it: fetched, cached, followed when it changes, and outages outlived."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

if not os.environ.get("BATCHPRED_TEST_MLFLOW"):
    pytest.skip("needs an MLflow and a moto server: make test-models", allow_module_level=True)
from pyarrow import fs

from jobs.errors import ModelError
from jobs.http_get import RegistryOutageError
from jobs.mlflow_registry import MlflowServer
from jobs.remote_models import fetch_remote
from tests.unit import onnx_models as models

BIN = Path(os.environ["BATCHPRED_TEST_MLFLOW"])


def test_a_model_in_s3(tmp_path):
    """The file is fetched and cached; a new file is noticed and said; without the server the cached one is used."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [BIN / "moto_server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        place = f"127.0.0.1:{port}"
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        store = fs.S3FileSystem(
            access_key="KEY", secret_key="SECRET", scheme="http", endpoint_override=place, region="us-east-1",
            allow_bucket_creation=True,
        )  # fmt: skip
        store.create_dir("bucket")
        options = f"scheme=http&endpoint_override={place}&region=us-east-1"
        ref = f"s3://KEY:SECRET@bucket/models/churn.onnx?{options}"

        def put(data):
            with store.open_output_stream("bucket/models/churn.onnx") as file:
                file.write(data)

        first, second = models.one_node("Abs"), models.one_node("Neg", shape=("N", 3))
        put(first)
        found = fetch_remote(ref, MlflowServer(), tmp_path)
        assert ("churn", None, first, ()) == (found.name, found.version, found.data, found.notes)
        put(second)
        found = fetch_remote(ref, MlflowServer(), tmp_path)
        assert second == found.data
        assert ("s3://bucket/models/churn.onnx is another file than the last run here took",) == found.notes
        with pytest.raises(ModelError, match=r"there is no file s3://bucket/models/nobody.onnx"):
            fetch_remote(ref.replace("churn", "nobody"), MlflowServer(), tmp_path)
    finally:
        process.terminate()
        process.wait(30)
    found = fetch_remote(ref, MlflowServer(), tmp_path)
    assert second == found.data
    assert "from the cache" in found.notes[0]
    assert "SECRET" not in found.notes[0]
    with pytest.raises(RegistryOutageError):
        fetch_remote(ref, MlflowServer(), tmp_path / "cold")
