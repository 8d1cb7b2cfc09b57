"""A model file beside a SHA256SUMS, and the image's build steps that write one."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from jobs.errors import ModelDamagedError
from jobs.sums import listed

DOCKERFILE = Path(__file__).resolve().parents[2] / "Dockerfile"


def test_the_list_is_believed(tmp_path):
    """The listed digest passes; another one, and a file that is not listed, are refused; no list, no check."""
    path = tmp_path / "m.onnx"
    assert b"x" == listed(path, b"x")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'x').hexdigest()}  m.onnx\n")
    assert b"x" == listed(path, b"x")
    with pytest.raises(ModelDamagedError, match="says"):
        listed(path, b"y")
    with pytest.raises(ModelDamagedError, match="does not name it"):
        listed(tmp_path / "other.onnx", b"x")


@pytest.mark.parametrize(("claimed", "code"), [(b"model", 0), (b"another", 1), (None, 0)])
def test_the_image_build_checks_the_digest(tmp_path, claimed, code):
    """The Dockerfile's own step, run in a clean folder, lists the model and fails where the digest is another."""
    (step,) = re.findall(r"RUN (sha256sum .*?)(?=\n[A-Z])", DOCKERFILE.read_text(), re.DOTALL)
    step = step.replace("\\\n", " ")
    (tmp_path / "churn.onnx").write_bytes(b"model")
    digest = hashlib.sha256(claimed).hexdigest() if claimed else ""
    environment = {"MODEL_SHA256": digest, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", step], env=environment, cwd=tmp_path, check=False)
    assert code == done.returncode
    assert b"model" == listed(tmp_path / "churn.onnx", b"model")
