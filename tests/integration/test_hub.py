"""`hf:` models: one GET of a commit's file, with redirects as the hub makes them, and what must not go wrong.

A stand-in answers here as the hub's `resolve` does: small files itself, large ones by a redirect to another host.
"""

import hashlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batchpred.settings import Settings
from jobs.errors import ModelError
from jobs.http_get import RegistryOutageError
from jobs.hub import Hub
from jobs.mlflow_registry import MlflowServer
from jobs.remote_models import fetch_remote
from tests.integration.serving import serving
from tests.unit import onnx_models as models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REF = f"hf:acme/churn/onnx/model v2.onnx@{COMMIT}"
DATA = models.one_node("Abs")


class Stand(BaseHTTPRequestHandler):
    """The hub, or the store it redirects to, as the test set it up."""

    def do_GET(self):  # noqa: PLR0911
        server = self.server
        server.calls.append((self.path, self.headers["Authorization"]))
        if server.is_store:
            return self._answer(200, server.data)
        if server.status:
            return self._answer(server.status, b"<html>no</html>", **{"X-Error-Message": server.said})
        if server.token and self.headers["Authorization"] != f"Bearer {server.token}":
            return self._answer(401, b"Invalid username or password.")
        if self.path.startswith("/acme/old"):
            return self._answer(307, b"", Location=self.path.replace("old", "churn"))
        if self.path.startswith("/acme/ftp"):
            return self._answer(302, b"", Location="ftp://127.0.0.1:9/model.onnx")
        if self.path != f"/acme/churn/resolve/{COMMIT}/onnx/model%20v2.onnx":
            return self._answer(404, b"Entry not found", **{"X-Error-Code": "EntryNotFound"})
        told = {"X-Repo-Commit": server.commit}
        if server.store is None:
            return self._answer(200, server.data, **told)
        told["X-Linked-ETag"] = f'"{hashlib.sha256(DATA).hexdigest()}"'
        return self._answer(302, b"", **told, Location=f"http://127.0.0.1:{server.store}/cdn?signed=1")

    def _answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def standing(*, is_store=False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    server.calls, server.data, server.status, server.said, server.token = [], DATA, None, "", ""
    server.commit, server.store, server.is_store = COMMIT, None, is_store
    with serving(server):
        yield server


@pytest.fixture
def hub():
    with standing() as server:
        yield server


@pytest.fixture
def store(hub):
    with standing(is_store=True) as server:
        hub.store = server.server_address[1]
        yield server


def fetch(server, cache, ref=REF, token=""):
    return fetch_remote(
        ref, MlflowServer(), cache, Hub(f"http://127.0.0.1:{server.server_address[1]}/", token)
    )


def test_a_commits_file_is_fetched_once(hub, tmp_path):
    """It comes as it is there, named by its repository and path; from the cache nobody is asked, even when away."""
    found = fetch(hub, tmp_path)
    assert ("hf:acme/churn/onnx/model v2.onnx", None, DATA) == (found.name, found.version, found.data)
    assert 1 == len(hub.calls)
    hub.status = 503
    assert (found, 1) == (fetch(hub, tmp_path), len(hub.calls))
    with pytest.raises(RegistryOutageError, match=r"the hub at http://127.0.0.1:[0-9]+ answers 503"):
        fetch(hub, tmp_path / "cold")


def test_the_token_stays_with_the_hub(hub, store, tmp_path):
    """A large file lies on another host: the redirect is followed without the token, and the digest is checked."""
    hub.token = "t0ken"
    assert DATA == fetch(hub, tmp_path, token="t0ken").data
    assert ([("/cdn?signed=1", None)], "Bearer t0ken") == (store.calls, hub.calls[0][1])
    store.data = models.one_node("Neg")
    with pytest.raises(ModelError, match="does not have the digest that the hub tells"):
        fetch(hub, tmp_path / "cold", token="t0ken")
    with pytest.raises(
        ModelError, match=r"refuses \(401\): Invalid username or password.; set HF_TOKEN"
    ) as raised:
        fetch(hub, tmp_path / "cold", token="wr0ng")
    assert "wr0ng" not in str(raised.value) + repr(Hub(token="wr0ng"))


def test_a_renamed_repository_is_followed(hub, store, tmp_path):
    """On the same host the token goes along."""
    hub.token = "t0ken"
    assert DATA == fetch(hub, tmp_path, REF.replace("churn", "old"), token="t0ken").data
    assert ["Bearer t0ken"] * 2 == [login for _, login in hub.calls]


def test_what_is_refused(hub, tmp_path):
    """A revision that moves, a path that climbs, an unknown file, a hub that answers with another commit's."""
    for ref, says in (
        ("hf:acme/churn/model.onnx@main", "write all 40 digits of it, not 'main'"),
        ("hf:acme/churn/model.onnx", "names no file of a hub"),
        (f"hf:acme/churn/../x.onnx@{COMMIT}", "names no file of a hub"),
        (f"hf:acme/..%2f/x.onnx@{COMMIT}", "names no file of a hub"),
        (f"hf:model.onnx@{COMMIT}", "names no file of a hub"),
        (f"hf:acme/churn/nobody.onnx@{COMMIT}", r"refuses \(404\): Entry not found"),
        (f"hf:acme/ftp/model.onnx@{COMMIT}", r"redirects to ftp://, and files are fetched by HTTP alone"),
    ):
        with pytest.raises(ModelError, match=says):
            fetch(hub, tmp_path, ref)
    hub.commit = "f" * 40
    with pytest.raises(ModelError, match=r"answered hf:acme/churn.* with the file of commit ffff"):
        fetch(hub, tmp_path)
    hub.status, hub.said = 403, "Access to model acme/churn is restricted"
    with pytest.raises(ModelError, match=r"\(403\): Access to model acme/churn is restricted; ask its owner"):
        fetch(hub, tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_where_the_hub_is():
    """HF_ENDPOINT and HF_TOKEN say it, as they do for the hub's own client; an address that is none is told."""
    assert (
        Hub("http://hub.test/hf", "t")
        == Settings.read({"HF_ENDPOINT": "http://hub.test/hf", "HF_TOKEN": "t"}).hub()
    )
    assert Hub() == Settings.read({}).hub()
    assert "http://hub.test/hf" == Hub("http://hub.test/hf/").place
    for address in ("hub.test", "ftp://hub.test", "https://t0ken@hub.test", "http://["):
        with pytest.raises(ModelError, match="HF_ENDPOINT is no address") as raised:
            fetch_remote(REF, MlflowServer(), None, Hub(address))
        assert "t0ken" not in str(raised.value)
