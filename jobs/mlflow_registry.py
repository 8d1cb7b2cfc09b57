"""Models of an MLflow server, over plain HTTP: three calls, and no MLflow client.

    registered-models/alias                          which version an alias names
    model-versions/get-download-uri                  where its files are (`source` is not it since MLflow 3)
    mlflow-artifacts/artifacts/<path>/MLmodel        which of them is the ONNX file; then that file itself

A server that does not answer, or answers 5xx, is an outage, which a cached version outlives; any other refusal is
an error, in the server's own words.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

import yaml

from jobs.errors import ModelError
from jobs.http_get import get, server_address

_REF = re.compile(
    r"mlflow:(?P<name>[^@/:%\s][^@/:%]{0,250})(?:@(?P<alias>[\w-]+)|/(?P<version>[1-9][0-9]{0,8}))"
)


@dataclass(frozen=True)
class MlflowServer:
    """Where MLflow is and how to log in: a token, or a name and a password; none of it is ever shown."""

    uri: str = ""
    token: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """The server's address without a login in it, for messages."""
        try:
            parts = urllib.parse.urlsplit(self.uri)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:  # where it is asked, `_address` says what is wrong
            return "an address that is none"
        return f"{parts.scheme}://{parts.hostname}{port}"

    def version_of(self, name: str, alias: str) -> int:
        """Ask which version an alias names. Raises ModelError and RegistryOutageError."""
        answer = self._ask("registered-models/alias", name=name, alias=alias)
        try:
            return int(answer["model_version"]["version"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"{self.place} did not say which version {name}@{alias} is; is it MLflow?"
            ) from None

    def artifact_uri(self, name: str, version: int) -> str:
        """Ask where a version's files are. Raises ModelError and RegistryOutageError."""
        answer = self._ask("model-versions/get-download-uri", name=name, version=str(version))
        if "artifact_uri" not in answer:
            raise ModelError(
                f"{self.place} did not say where the files of {name}/{version} are; is it MLflow?"
            )
        return str(answer["artifact_uri"])

    def read_artifact(self, artifact_uri: str, path: str) -> bytes:
        """Fetch a file of a version from the server's artifact proxy. Raises ModelError, RegistryOutageError."""
        folder = urllib.parse.urlsplit(artifact_uri).path.strip("/")
        quoted = urllib.parse.quote(f"{folder}/{path}")
        return self._get(f"/api/2.0/mlflow-artifacts/artifacts/{quoted}")

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        answer = self._get(f"/api/2.0/mlflow/{what}?{urllib.parse.urlencode(parameters)}")
        try:
            told = json.loads(answer)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ModelError(
                f"{self.place} answered {what} with something that is no JSON; is it an MLflow server?"
            )
        return told

    def _get(self, path: str) -> bytes:
        hints = {401: "; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD"}
        return get(self._address() + path, self._login(), who=f"MLflow at {self.place}", hints=hints).body

    def _address(self) -> str:
        """The server's address without a login in it: that goes into a header. Raises ModelError."""
        parts = server_address(self.uri)
        if parts is None:
            raise ModelError(
                "the model is in MLflow, and MLFLOW_TRACKING_URI does not say where: set it to http(s)://HOST:PORT"
            )
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def _login(self) -> dict[str, str]:
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        parts = urllib.parse.urlsplit(self.uri)
        username = self.username or urllib.parse.unquote(parts.username or "")
        password = self.password if self.username else urllib.parse.unquote(parts.password or "")
        if username:
            pair = base64.b64encode(f"{username}:{password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}


@dataclass(frozen=True)
class MlflowRef:
    """`mlflow:NAME@ALIAS` or `mlflow:NAME/3`."""

    name: str
    alias: str | None
    version: int | None

    @classmethod
    def parse(cls, text: str) -> MlflowRef:
        """Parse a reference. Raises ModelError."""
        found = _REF.fullmatch(text)
        if not found:
            raise ModelError(
                f"model {text!r} is no reference into MLflow: write mlflow:NAME@ALIAS or mlflow:NAME/3"
            )
        return cls(found["name"], found["alias"], int(found["version"]) if found["version"] else None)


def onnx_file_of(mlmodel: bytes) -> str:
    """Read in an MLmodel file which of the version's files is the ONNX model. Raises ModelError."""
    flavors: Any = None
    try:
        flavors = yaml.safe_load(mlmodel)["flavors"]
        data = flavors["onnx"]["data"]
    except (yaml.YAMLError, KeyError, TypeError):
        there = ", ".join(flavors) if isinstance(flavors, dict) else "no flavor at all"
        raise ModelError(
            f"this MLflow version has no ONNX flavor (it has {there}); log it with mlflow.onnx.log_model"
        ) from None
    path = str(data)
    if path.startswith("/") or ".." in path.split("/"):
        raise ModelError(f"the MLmodel file names {path!r}, which lies outside the version's folder")
    return path
