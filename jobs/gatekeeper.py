"""A model file is examined in a child process, under limits of memory and time, before anything here opens it.

The child (this module, run by itself) reads the file on stdin, does what jobs.onnx_file.prepare does and probes
NULLs, and writes one line of JSON on stdout, followed by the bytes to keep where they are not those it was given.
What a hostile file can do to it:

    ask for more memory than the limit     the allocation fails inside the child, or the child dies of it
    loop without end                       RunOptions.terminate stops a run; the child is killed at the time limit
    crash ONNX Runtime                     the child dies of a signal
    write on stdout or stderr              stdout is moved aside before the file is touched, stderr is not shown

and each time the parent says so in one line, unharmed. Limits of memory are the system's (RLIMIT_DATA, which Linux
enforces and macOS does not).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError

if TYPE_CHECKING:
    from jobs.onnx_file import PreparedModel

# An idle child with ONNX and ONNX Runtime loaded maps 0.4 GB of data; a model needs a few times its own size.
MEMORY_BYTES = 4 << 30
MEMORY_PER_BYTE = 8
SECONDS = 120.0


def examine(data: bytes, *, memory: int = MEMORY_BYTES, seconds: float = SECONDS) -> PreparedModel:
    """Do what `jobs.onnx_file.prepare` does in a child process. Raises ModelError, in one line."""
    from jobs.onnx_file import PreparedModel, refuse_lookalikes
    from jobs.signature import Signature

    refuse_lookalikes(data)  # needs no child
    limit = memory + MEMORY_PER_BYTE * len(data)
    told, kept = _ask(data, limit, seconds)
    if "error" in told:
        raise ModelError(told["error"])
    told |= {"signature": Signature.from_json(told["signature"]), "notes": tuple(told["notes"])}
    return PreparedModel(data=kept or data, **told)


def latency(data: bytes, *, memory: int = MEMORY_BYTES, seconds: float = SECONDS) -> float:
    """Measure in a child process how many milliseconds 10,000 made-up rows take on one thread, at best of five.

    Raises ModelError.
    """
    told, _ = _ask(data, memory + MEMORY_PER_BYTE * len(data), seconds, "latency")
    if "error" in told:
        raise ModelError(told["error"])
    return float(told["milliseconds"])


def _ask(data: bytes, limit: int, seconds: float, what: str = "examine") -> tuple[dict[str, Any], bytes]:
    line = [sys.executable, "-P", "-m", "jobs.gatekeeper", str(limit), what]
    # It sees no address of a database and no token: of the environment it gets only where Python looks, and where
    # the loader looks, without which ONNX Runtime's builds for a GPU may not load.
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries
    child = subprocess.Popen(  # noqa: S603  # our own module
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        out, _ = child.communicate(data, timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise ModelError(
            f"the model was not examined within {seconds:.0f} seconds and was refused; it may loop without end"
        ) from None
    except BaseException:
        child.kill()
        child.wait()
        raise
    head, _, kept = out.partition(b"\n")
    if child.returncode == 0 and head.startswith(b"{"):
        return json.loads(head), kept
    raise ModelError(_death(child.returncode, limit))


def _death(code: int, limit: int) -> str:
    gigabytes = f"{limit / (1 << 30):.1f} GB"
    if code == -signal.SIGKILL:
        return f"the model was refused: the process that examined it was killed, perhaps for memory ({gigabytes})"
    if code < 0:
        name = signal.Signals(-code).name
        return f"the model was refused: it crashed ONNX Runtime ({name}), perhaps for memory ({gigabytes})"
    return f"the model was refused: the process that examined it left with code {code}, without a word"


def _examine(data: bytes) -> tuple[dict[str, Any], bytes]:
    from jobs.null_probe import probe_nulls
    from jobs.onnx_file import prepare
    from jobs.session import open_session

    prepared = prepare(data)
    nulls = probe_nulls(open_session(prepared.data, threads=1), prepared.signature)
    told = {name: value for name, value in vars(prepared).items() if name != "data"}
    told |= {"signature": prepared.signature.to_json(), "notes": [*prepared.notes, *nulls]}
    return told, b"" if prepared.data is data else prepared.data


def _latency(data: bytes) -> tuple[dict[str, Any], bytes]:
    from jobs.null_probe import made_up_rows
    from jobs.session import open_session, reason_of
    from jobs.signature import Signature

    session = open_session(data, threads=1)
    feed = made_up_rows(Signature.of_session(session), 10_000)
    seconds = []
    try:
        for _ in range(6):  # the first one warms up
            began = time.perf_counter()
            session.run(None, feed)
            seconds.append(time.perf_counter() - began)
    except Exception as error:
        raise ModelError(f"the model cannot be timed on made-up rows: {reason_of(error)}") from error
    return {"milliseconds": min(seconds[1:]) * 1000}, b""


def _main() -> None:
    """Examine or time the file on stdin; `argv[1]` is the most data, in bytes, that this process may map."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints from here on does not print into the answer
    data = sys.stdin.buffer.read()
    told: dict[str, Any]
    kept = b""
    try:
        told, kept = {"examine": _examine, "latency": _latency}[sys.argv[2]](data)
    except ModelError as error:
        told = {"error": str(error)}
    except MemoryError:
        told = {"error": f"the model was refused: it needs more memory than {limit / (1 << 30):.1f} GB"}
    answer.write(json.dumps(told).encode() + b"\n" + kept)
    answer.flush()
    os._exit(0)  # ONNX Runtime's own end may crash after a failed allocation


if __name__ == "__main__":
    _main()
