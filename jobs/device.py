"""Where a model runs: the devices a job may ask for, and what ONNX Runtime gave instead of what was asked.

`device: cuda` means that or nothing: the run stops where another provider is obtained, or where the provider takes
no part of the model. A fallback must be written down as a second name, `device: [cuda, cpu]`, and is then recorded
on the run. `auto` is the GPU where this machine and the model have use for one, else the CPU: it asks for nothing
in particular, so either is what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.errors import DeviceError, ModelError
from jobs.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# ONNX Runtime gives what a provider does not take to the next one: TensorRT's rest stays on the same GPU.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider", "CPUExecutionProvider"),
    "openvino": ("OpenVINOExecutionProvider", "CPUExecutionProvider"),
}
# Whose memory is not the machine's: inputs are bound there, and outputs copied back once.
_GPU = frozenset({"cuda", "tensorrt"})
_INSTALL = {
    "cuda": 'pip install "batchpred[gpu]" on a machine with an NVIDIA GPU',
    "tensorrt": "install TensorRT beside onnxruntime-gpu on a machine with an NVIDIA GPU",
    "coreml": "run on macOS with the onnxruntime that has CoreML",
    "openvino": "install onnxruntime-openvino in place of onnxruntime",
}


@dataclass(frozen=True)
class Obtained:
    """What a session runs on: the device and provider, how many of the model's operators each provider took,
    and why an earlier name of the job's list was passed over.
    """  # noqa: D205  # one sentence

    device: str
    provider: str
    operators: dict[str, int] = field(default_factory=dict)
    fallback: str | None = None


def open_on(
    data: bytes,
    threads: int,
    asked: Sequence[str],
    opener: Callable[..., Any] | None = None,
) -> tuple[Any, Obtained]:
    """Open a model on the first device of `asked` that takes it; return the session and what was obtained.

    Raises DeviceError where none does, and ModelError where ONNX Runtime refuses the model on the CPU.
    """
    opener = opener or open_session
    names = ("cuda", "cpu") if tuple(asked) == ("auto",) else tuple(asked)
    passed_over: list[str] = []
    for name in names:
        try:
            session, operators = _open(data, threads, name, opener)
        except DeviceError as error:
            passed_over.append(str(error))
            continue
        if tuple(asked) == ("auto",) and name != "cpu" and not _has_use_for(operators):
            continue
        fallback = "; ".join(passed_over) if passed_over and tuple(asked) != ("auto",) else None
        return session, Obtained(name, session.get_providers()[0], operators, fallback)
    raise DeviceError(
        f"{'; '.join(passed_over)}; {_INSTALL.get(names[-1], 'install onnxruntime')}, or allow another in writing: "
        f"`device: [{', '.join(names)}, cpu]`"
    )


def _open(data: bytes, threads: int, device: str, opener: Callable[..., Any]) -> tuple[Any, dict[str, int]]:
    wanted = PROVIDERS[device]
    there = available_providers()
    if wanted[0] not in there:
        raise DeviceError(
            f"device {device}: this machine's ONNX Runtime has no {wanted[0]} (it has {', '.join(there)})"
        )
    providers = [name for name in wanted if name in there]
    try:
        # On the CPU several batches are scored at once, each by one thread (jobs/batch_size.py).
        session = opener(data, 1 if device == "cpu" else threads, providers)
    except ModelError as error:
        if device == "cpu":
            raise
        raise DeviceError(f"device {device}: {error}") from error
    obtained = session.get_providers()
    if obtained[:1] != [wanted[0]]:
        raise DeviceError(
            f"device {device}: asked ONNX Runtime for {wanted[0]} and got {', '.join(obtained)}"
        )
    operators = _operators(session)
    if device != "cpu" and operators and not operators.get(wanted[0]):
        raise DeviceError(
            f"device {device}: {wanted[0]} takes none of the model's operators, all would run on "
            f"{', '.join(operators)}"
        )
    return session, operators


def _has_use_for(operators: dict[str, int]) -> bool:
    """Whether a GPU gets most of a model: trees and scalers of ai.onnx.ml run on the CPU alone."""
    on_cpu = operators.get("CPUExecutionProvider", 0)
    return sum(operators.values()) - on_cpu > on_cpu


def _operators(session: Any) -> dict[str, int]:
    """How many operators each provider took, by ONNX Runtime's own word; {} where this version does not say."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001  # a version that lacks it, or was not asked to record it
        return {}
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def available_providers() -> list[str]:
    """The execution providers this build of ONNX Runtime offers, the preferred one first."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def runner(session: Any, device: str) -> Callable[[list[str], dict[str, Any]], list[Any]]:
    """Return what scores one batch: the session's `run`, or on a GPU a run with bound inputs and outputs.

    Bound, a batch is copied to the GPU once and its wanted outputs back once. Text cannot be bound: a model that
    takes or gives some is run as on the CPU.
    """
    if device not in _GPU:
        run: Callable[[list[str], dict[str, Any]], list[Any]] = session.run
        return run
    if any(node.type == "tensor(string)" for node in (*session.get_inputs(), *session.get_outputs())):
        return session.run  # type: ignore[no-any-return]
    return lambda wanted, feed: run_bound(session, wanted, feed, "cuda")


def run_bound(session: Any, wanted: list[str], feed: dict[str, Any], memory: str) -> list[Any]:
    """Score a batch with its inputs and outputs bound in `memory`: cuda, or cpu."""
    import onnxruntime

    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, memory, 0))
    for name in wanted:
        binding.bind_output(name, memory)
    session.run_with_iobinding(binding)
    returned: list[Any] = binding.copy_outputs_to_cpu()
    return returned
