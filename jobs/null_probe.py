"""What a model makes of a NULL: a NaN in one row may spoil that row's prediction, never another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import ModelError
from jobs.session import reason_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.signature import Signature, Tensor

_ROWS = 8


def probe_nulls(session: Any, signature: Signature) -> list[str]:
    """Score the same rows without and with a NaN in every number of the first one; return notes.

    Raises ModelError where the other rows' predictions change. A model that fails on the made-up rows is not
    judged: the probe of row independence has said so already.
    """
    floats = [tensor for tensor in signature.inputs if tensor.dtype.startswith("float")]
    if not floats:
        return []
    feed = made_up_rows(signature, _ROWS)
    spoilt = {name: rows.copy() for name, rows in feed.items()}
    for tensor in floats:
        spoilt[tensor.name][0] = np.nan
    names = [tensor.name for tensor in signature.outputs]
    try:
        whole = session.run(names, feed)
    except Exception:  # noqa: BLE001  # ONNX Runtime's errors share no other parent
        return []
    try:
        with_null = session.run(names, spoilt)
    except Exception as error:  # noqa: BLE001
        return [f"a NULL in a number makes the model fail, such rows go to quarantine: {reason_of(error)}"]
    for tensor, expected, found in zip(signature.outputs, whole, with_null, strict=True):
        if not _same(expected[1:], found[1:]):
            raise ModelError(
                f"a NULL in one row changes the predictions of output {tensor.name!r} for other rows; the model "
                "mixes rows, as normalisation over the batch does"
            )
    is_nan = any(found.dtype.kind == "f" and np.isnan(found[:1]).any() for found in with_null)
    return ["a NULL in a number gives no prediction: such rows go to quarantine"] if is_nan else []


def made_up_rows(signature: Signature, rows: int) -> dict[str, NDArray[Any]]:
    """Make a feed of that many harmless rows: numbers around zero, integers 0 and 1, the texts '' and 'a'."""
    random = np.random.default_rng(20261121)
    return {tensor.name: _rows(tensor, rows, random) for tensor in signature.inputs}


def _rows(tensor: Tensor, rows: int, random: np.random.Generator) -> NDArray[Any]:
    shape = (rows,) if tensor.rank == 1 else (rows, tensor.width or 4)
    if tensor.dtype == "string":
        return random.choice(np.array(["", "a"], dtype=object), shape)
    if tensor.dtype.startswith("float"):
        return random.normal(size=shape).astype(tensor.dtype)
    return random.integers(0, 2, size=shape).astype(tensor.dtype)


def _same(expected: NDArray[Any], found: NDArray[Any]) -> bool:
    if expected.dtype.kind == "f":
        return bool(
            np.allclose(expected.astype(float), found.astype(float), rtol=1e-3, atol=1e-5, equal_nan=True)
        )
    return bool(np.array_equal(expected, found))
