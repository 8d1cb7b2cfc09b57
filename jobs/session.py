"""How a model's bytes become an ONNX Runtime session, and what ONNX Runtime's errors mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CPU = "CPUExecutionProvider"
_LONGEST_REASON = 200  # characters: one line of a terminal or of a quarantine table

# What ONNX Runtime and the libraries beneath it say when a device's memory is full: its arena ("Failed to allocate
# memory for requested buffer of size …"), the CUDA driver, cuBLAS and cuDNN, and C++ on the CPU.
_NO_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|cuda_error_out_of_memory|cudaerrormemoryallocation"
    r"|(?:cublas|cudnn)_status_alloc_failed|bad[ _]alloc(?:ation)?|available memory of \d+ is smaller",
    re.IGNORECASE,
)


def open_session(data: bytes, threads: int, providers: Sequence[str] = (_CPU,)) -> Any:
    """An `onnxruntime.InferenceSession` on the first of `providers`, with `threads` threads. Raises ModelError.

    It loads from bytes, never from a path: from a path ONNX Runtime followed external data to a file
    outside the model's folder.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the processors from the reader and the writer: on two of them, beside another
    # busy thread, 30 batches of trees took 0.90-1.15 s with spinning and 0.75-0.79 s without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Which provider took which operator: a session names its providers even where they took nothing.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4  # each failure arrives as an exception too, and belongs in the quarantine
    try:
        session = onnxruntime.InferenceSession(data, options, providers=list(providers))
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {reason_of(error)}"
        ) from error
    session.disable_fallback()
    if (obtained := session.get_providers())[:1] != list(providers[:1]):
        raise ModelError(f"asked ONNX Runtime for {providers[0]} and got {', '.join(obtained)}")
    return session


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device had too little memory for a batch: half of it may fit, and no row is at fault."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def reason_of(error: Exception) -> str:
    """The first line of what ONNX Runtime says, without its codes and source paths, in 200 characters."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    # The path of a C++ source, then the function in it with its parameters.
    text = re.sub(
        r"(?:/[\w.+-]+){2,}(?::\d+)?(?: [^()]*onnxruntime::[^()]*\([^()]*\)(?: const)?)?\s*", "", text
    )
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node\. Name:'.*?' Status Message: ", r"\1: ", text
    )
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
