"""Whether a model scores each row by itself: the same rows in one batch and one by one must agree."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import ModelError
from jobs.session import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jobs.signature import Signature, Tensor

_PROBE_ROWS = 64  # more than the 50 rows from which ONNX Runtime's trees split the work in another way
_PROBE_SECONDS = 60.0
_TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-5}


def check_rows_are_independent(session: Any, signature: Signature) -> list[str]:
    """Score synthetic rows in one batch and one by one, and compare.

    Returns notes. Raises ModelError where predictions are not one per row, or differ (onnxruntime#10058), and
    where the model is still busy after a minute: a Loop can be endless.
    """
    random = np.random.default_rng(20261121)
    feed = {tensor.name: _synthetic(tensor, random) for tensor in signature.inputs}
    wanted = [tensor.name for tensor in signature.outputs]
    clock = _Clock()
    try:
        with clock:
            batch = session.run(wanted, feed, clock.options)
            single = [
                session.run(wanted, {name: rows[i : i + 1] for name, rows in feed.items()}, clock.options)
                for i in range(_PROBE_ROWS)
            ]
    except Exception as error:  # ONNX Runtime's errors share no other parent
        if clock.expired:
            raise ModelError(
                f"the model did not score {_PROBE_ROWS} synthetic rows within {_PROBE_SECONDS:.0f} seconds; "
                "it may loop without end"
            ) from error
        if isinstance(error, MemoryError) or "allocat" in str(error):
            raise ModelError(
                f"the model asks for too much memory to score {_PROBE_ROWS} rows: {reason_of(error)}"
            ) from error
        return [f"not checked whether predictions depend on the batch size: {reason_of(error)}"]
    for index, tensor in enumerate(signature.outputs):
        _compare(tensor, batch[index], [run[index] for run in single])
    return []


class _Clock:
    """Ends the runs that are given its `options` once the time is up."""

    def __init__(self) -> None:
        import onnxruntime

        self.options = onnxruntime.RunOptions()
        self.expired = False
        self._timer = threading.Timer(_PROBE_SECONDS, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        self.expired = True
        self.options.terminate = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _synthetic(tensor: Tensor, random: np.random.Generator) -> NDArray[Any]:
    """Harmless rows: numbers around zero, integers 0 and 1 (which may be indices), the texts '' and 'a'."""
    shape = (_PROBE_ROWS,) if tensor.rank == 1 else (_PROBE_ROWS, tensor.width or 4)
    if tensor.dtype == "string":
        return random.choice(np.array(["", "a"], dtype=object), shape)
    if tensor.dtype.startswith("float"):
        return random.normal(size=shape).astype(tensor.dtype)
    return random.integers(0, 2, size=shape).astype(tensor.dtype)


def _compare(tensor: Tensor, batch: NDArray[Any], single: Sequence[NDArray[Any]]) -> None:
    for rows, returned in ((_PROBE_ROWS, batch), *((1, row) for row in single)):
        if np.shape(returned)[:1] != (rows,) or np.shape(returned)[1:] != np.shape(batch)[1:]:
            raise ModelError(
                f"output {tensor.name!r} has shape {list(np.shape(returned))} for {rows} rows; "
                "a model must return one prediction per row"
            )
    joined = np.concatenate(single)
    if batch.dtype.kind == "f":
        # Relative to the largest prediction: sums in another order differ by that, also where they are near 0.
        size = np.abs(batch[np.isfinite(batch)].astype(np.float64)).max(initial=0.0)
        allowed = _TOLERANCE[tensor.dtype] * size
        same = np.allclose(batch.astype(np.float64), joined, rtol=0, atol=allowed, equal_nan=True)
    else:
        same = np.array_equal(batch, joined)
    if not same:
        raise ModelError(
            f"the predictions of output {tensor.name!r} depend on the batch size: the same synthetic rows scored "
            "in one batch and one by one differ; dynamic quantisation, normalisation over the batch and random "
            "operators do that"
        )
