"""What device a job gets: the one it asked for, a fallback that was written down, or an error."""

import hashlib

import numpy as np
import onnxruntime
import pytest

from jobs import device
from jobs.device import open_on, run_bound, runner
from jobs.errors import DeviceError
from jobs.jobspec.job import Job
from jobs.model import Model
from jobs.session import open_session
from tests.unit import onnx_models as models

MODEL = models.matrix(zipmap=False)[1]


class Part:
    """What ONNX Runtime says of a part of the model: who runs it, and its operators."""

    def __init__(self, ep_name, count):
        self.ep_name, self.count = ep_name, count

    def get_nodes(self):
        return [None] * self.count


class Session:
    """A session that obtained these providers and gave them so many operators."""

    def __init__(self, providers, **operators):
        self.providers, self.operators = providers, operators

    def get_providers(self):
        return self.providers

    def get_provider_graph_assignment_info(self):
        return [Part(f"{name}ExecutionProvider", count) for name, count in self.operators.items()]


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose ONNX Runtime has CUDA, and sessions that behave as told."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(device, "available_providers", lambda: there)

    def opener(**operators):
        return lambda _data, _threads, providers: Session(providers, **operators)

    return opener


def test_no_such_device():
    """A device this machine lacks stops the run: the message says what there is and how to allow another."""
    with pytest.raises(DeviceError) as caught:
        open_on(MODEL, 1, ("cuda",))
    for part in ("has no CUDAExecutionProvider", "CPUExecutionProvider", "batchpred[gpu]", "[cuda, cpu]"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_written_fallback_is_taken_and_said():
    """A second name is the permission to fall back; what was passed over, and why, is kept."""
    session, obtained = open_on(MODEL, 1, ("cuda", "cpu"))
    assert ("cpu", "CPUExecutionProvider") == (obtained.device, obtained.provider)
    assert "device cuda: this machine's ONNX Runtime has no CUDA" in obtained.fallback
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert obtained.operators == {"CPUExecutionProvider": 1}


def test_cuda_is_obtained(gpu):
    """Asked for and obtained: no fallback, and the operators each provider took are told."""
    _, obtained = open_on(MODEL, 1, ("cuda",), gpu(CUDA=9, CPU=1))
    assert ("cuda", "CUDAExecutionProvider", None) == (obtained.device, obtained.provider, obtained.fallback)
    assert obtained.operators == {"CUDAExecutionProvider": 9, "CPUExecutionProvider": 1}


def test_a_silent_fallback_is_refused(gpu):
    """A session that names another provider than the one asked for, or gives it nothing to do, is no GPU run."""

    def silent(_data, _threads, _providers):
        return Session(["CPUExecutionProvider"], CPU=10)

    with pytest.raises(DeviceError, match="asked ONNX Runtime for CUDAExecutionProvider and got CPU"):
        open_on(MODEL, 1, ("cuda",), silent)
    with pytest.raises(DeviceError, match="takes none of the model's operators"):
        open_on(MODEL, 1, ("cuda",), gpu(CPU=10))


def test_auto(gpu):
    """Auto is the GPU where it takes most of the model, else the CPU, and neither is a fallback."""
    assert open_on(MODEL, 1, ("auto",), gpu(CUDA=9, CPU=1))[1].device == "cuda"
    for opener in (gpu(CUDA=1, CPU=9), gpu(CPU=9)):
        obtained = open_on(MODEL, 1, ("auto",), opener)[1]
        assert ("cpu", None) == (obtained.device, obtained.fallback)


def test_bound_run_agrees():
    """A run with bound inputs and outputs returns what a plain one does, also when it is used again."""
    session = open_session(MODEL, 1)
    for count in (5, 3):
        feed = {"X": np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)}
        expected = session.run(["label", "probabilities"], feed)
        found = run_bound(session, ["label", "probabilities"], feed, "cpu")
        for one, two in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, two)


def test_text_is_not_bound():
    """On a GPU a model with text inputs is run without binding, which ONNX Runtime lacks for text."""
    session = open_session(models.pipeline()[1], 1)
    assert session.run == runner(session, "cuda")
    assert session.run != runner(open_session(MODEL, 1), "cuda")


def test_a_model_says_where_it_runs():
    """A loaded model keeps what was asked, obtained and passed over."""
    model = Model.load(
        MODEL, sha256=hashlib.sha256(MODEL).hexdigest(), name="m", device=("tensorrt", "cuda", "cpu")
    )
    assert model.provider == "CPUExecutionProvider"
    assert all(name in model.obtained.fallback for name in ("tensorrt", "cuda"))
    assert set(onnxruntime.get_available_providers()) == set(device.available_providers())


@pytest.mark.parametrize(
    ("written", "kept"),
    [("cuda", ("cuda",)), (["cuda", "cpu"], ("cuda", "cpu")), ("auto", ("auto",))],
)
def test_written(written, kept):
    """One name, or several in order of preference."""
    assert kept == Job.model_validate({**_JOB, "device": written}).device


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("gpu", "'gpu' is no device"),
        ("cudaa", "did you mean cuda?"),
        ([], "name each once"),
        (["cpu", "cpu"], "name each once"),
        (["auto", "cpu"], "auto stands alone"),
        (True, "True is no device"),
    ],
)
def test_written_wrong(written, says):
    """What is no device is refused with the nearest right word."""
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        Job.model_validate({**_JOB, "device": written})


_JOB = {
    "version": 1,
    "name": "j",
    "source": {"query": "SELECT 1"},
    "key": ["id"],
    "model": "m@c",
    "output": {"columns": {"y": "y"}},
}
