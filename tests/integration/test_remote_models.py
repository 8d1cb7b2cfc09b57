"""Models in MLflow and in object storage: asked at each run, cached by digest, and outages outlived.

A stub speaks MLflow's three calls here; tests/models/test_mlflow.py does the same with a real MLflow server.
"""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs.errors import ModelError
from jobs.http_get import RegistryOutageError
from jobs.mlflow_registry import MlflowServer
from jobs.remote_models import _opened, fetch_remote, is_remote, shown
from tests.integration.serving import serving
from tests.unit import onnx_models as models

MODELS = {1: models.one_node("Abs"), 2: models.one_node("Neg")}


class Stub(BaseHTTPRequestHandler):
    """Answers as MLflow does, from what the test set on the server."""

    def do_GET(self):  # noqa: PLR0911
        server, url = self.server, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        server.calls.append(url.path.rsplit("/", 1)[-1])
        if server.status:
            return self._answer(server.status, b"<html>Bad <b>gateway</b></html>")
        if server.login and self.headers["Authorization"] != server.login:
            return self._answer(401, b"You are not authenticated.")
        if url.path.endswith("registered-models/alias"):
            if asked["alias"] != "champion":
                told = {
                    "error_code": "INVALID_PARAMETER_VALUE",
                    "message": "Registered model alias not found.",
                }
                return self._answer(404, json.dumps(told).encode())
            return self._answer(
                200, json.dumps({"model_version": {"version": str(server.champion)}}).encode()
            )
        if url.path.endswith("get-download-uri"):
            uri = f"mlflow-artifacts:/1/models/m-{asked['version']}/artifacts"
            return self._answer(200, json.dumps({"artifact_uri": uri}).encode())
        if url.path.endswith("/MLmodel"):
            return self._answer(200, b"flavors:\n  onnx:\n    data: model.onnx\n")
        return self._answer(200, MODELS[int(url.path.split("/m-")[1].split("/")[0])])

    def _answer(self, status, body):
        self.send_response(status)
        if self.server.broken:
            self.send_header("Content-Length", str(len(body) + 1))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def running_stub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.calls, server.status, server.login, server.champion = [], None, None, 1
    server.broken = False
    with serving(server):
        yield server


@pytest.fixture
def stub():
    with running_stub() as server:
        yield server


def at(server, **login):
    return MlflowServer(f"http://127.0.0.1:{server.server_address[1]}", **login)


REF = "mlflow:churn@champion"


def test_an_alias_that_moves_is_followed_and_said(stub, tmp_path):
    """Each fetch asks what the alias names; a known version is not downloaded again; a move is said."""
    first = fetch_remote(REF, at(stub), tmp_path)
    assert ("mlflow:churn", 1, MODELS[1], ()) == (first.name, first.version, first.data, first.notes)
    stub.calls.clear()
    assert 1 == fetch_remote(REF, at(stub), tmp_path).version
    assert ["alias"] == stub.calls
    stub.champion = 2
    moved = fetch_remote(REF, at(stub), tmp_path)
    assert (2, MODELS[2]) == (moved.version, moved.data)
    assert ("mlflow:churn@champion names version 2 now; the last run here took 1",) == moved.notes
    stub.calls.clear()
    assert 1 == fetch_remote("mlflow:churn/1", at(stub), tmp_path).version
    assert [] == stub.calls


@pytest.mark.parametrize("how", ["away", "broken"])
def test_an_outage_does_not_stop_a_cached_version(stub, tmp_path, how):
    """Where MLflow is away or broken, what it named last is used, and that is said; uncached it is an error."""
    server = at(stub)
    fetch_remote(REF, server, tmp_path / "warm")
    if how == "away":
        stub.shutdown()
        stub.socket.close()
    else:
        stub.status = 502
    found = fetch_remote(REF, server, tmp_path / "warm")
    assert (1, MODELS[1]) == (found.version, found.data)
    assert "scored with mlflow:churn/1, which it named on" in found.notes[0]
    with pytest.raises(RegistryOutageError):
        fetch_remote(REF, server, tmp_path / "cold")


def test_a_damaged_cache_is_not_trusted(stub, tmp_path):
    """A flipped bit in the cache is fetched anew while MLflow answers."""
    found = fetch_remote(REF, at(stub), tmp_path)
    (tmp_path / f"{found.sha256}.onnx").write_bytes(MODELS[2])
    assert MODELS[1] == fetch_remote(REF, at(stub), tmp_path).data


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ({"token": "t0ken"}, "Bearer t0ken"),
        ({"username": "ada", "password": "s3cret"}, "Basic " + base64.b64encode(b"ada:s3cret").decode()),
    ],
    ids=["token", "password"],
)
def test_logins_are_sent_and_never_shown(stub, tmp_path, login, sent):
    """A token or a password opens the server; a wrong one is an error, not an outage, and is not repeated."""
    stub.login = sent
    assert 1 == fetch_remote(REF, at(stub, **login), tmp_path).version
    wrong = at(stub, token="wr0ng")
    with pytest.raises(ModelError, match=r"refuses \(401\).*MLFLOW_TRACKING_TOKEN") as raised:
        fetch_remote(REF, wrong, tmp_path)
    assert not isinstance(raised.value, RegistryOutageError)
    assert "wr0ng" not in str(raised.value) + repr(wrong)


def test_a_login_in_the_address_is_sent_and_never_shown(stub, tmp_path):
    """As MLflow's own client does it; without a port the password would stand where a port is looked for."""
    stub.login = "Basic " + base64.b64encode(b"ada:s3/cret").decode()
    place = f"127.0.0.1:{stub.server_address[1]}"
    assert 1 == fetch_remote(REF, MlflowServer(f"http://ada:s3%2Fcret@{place}"), tmp_path).version
    for address in ("http://ada:s3cret@[", "http://ada:s3/cret@host", "http://ada:s3cret@nowhere.invalid"):
        with pytest.raises(ModelError) as raised:
            fetch_remote(REF, MlflowServer(address), tmp_path / "cold")
        assert "s3" not in str(raised.value)


def test_an_answer_that_is_not_mlflows_is_one_line(stub, tmp_path):
    """Another server's JSON, and an answer that breaks off, are errors of the model, not of the program."""
    stub.champion = "newest"
    with pytest.raises(ModelError, match="did not say which version churn@champion is"):
        fetch_remote(REF, at(stub), tmp_path)
    stub.champion = 1
    stub.broken = True
    with pytest.raises(RegistryOutageError, match="IncompleteRead"):
        fetch_remote(REF, at(stub), tmp_path)


def test_mistakes_in_references(stub, tmp_path):
    """An unknown alias is told in MLflow's words; a wrong form, and a missing address, in ours."""
    for ref, server, says in (
        ("mlflow:churn@nobody", at(stub), "Registered model alias not found"),
        ("mlflow:churn", at(stub), "write mlflow:NAME@ALIAS or mlflow:NAME/3"),
        (REF, MlflowServer(), "MLFLOW_TRACKING_URI does not say where"),
        ("s3://bucket?x", MlflowServer(), "s3://bucket"),
    ):
        with pytest.raises(ModelError, match=says):
            fetch_remote(ref, server, tmp_path)


@pytest.mark.parametrize("scheme", ["abfs", "abfss", "az"])
def test_azure_has_the_names_that_sources_give_it(scheme):
    """A model in Azure may be written as a source may; nothing is asked of it here."""
    uri = f"{scheme}://c@acc.dfs.core.windows.net/d/m.onnx"
    assert is_remote(uri)
    system, path = _opened(uri)
    assert ("abfs", "c/d/m.onnx") == (system.type_name, path)


def test_no_login_in_an_address_that_is_shown():
    """Keys and options of an object's address are left out."""
    assert "s3://bucket/m.onnx" == shown("s3://KEY:SECRET@bucket/m.onnx?endpoint_override=x")
