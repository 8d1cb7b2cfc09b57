"""Which keys are a canary's: told by key and file alone, so alike in every run and on every machine.

A key's place is a 64-bit number, computed for whole columns with numpy in arithmetic modulo 2**64:

    seed       the first 16 hexadecimal digits of the sha256 of the canary's file
    numbers    the value itself, of dates their days since 1970-01-01
    text       FNV-1a of its UTF-8 bytes: h = 14695981039346656037; for each byte h = (h XOR byte) × 1099511628211
    a key      h = seed, and for each of its columns h = mix(h XOR value); mix is one step of SplitMix64

It is the canary's where place // 2**32 < share × 2**32. So a key stays on its side in every run, chunk and batch;
with a greater share the same canary keeps the keys it had; and another canary meets other keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import numpy_of, whole
from jobs.score import MAX_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from storage.job_table import Column

_OFFSET, _PRIME = np.uint64(14_695_981_039_346_656_037), np.uint64(1_099_511_628_211)


def is_in_share(key: Sequence[Column], rows: pa.Table, sha256: str, share: float) -> NDArray[np.bool_]:
    """Tell of N rows, as [N], which keys are in the share (0 to 1) of the canary whose file has this digest.

    A NULL counts as zero or an empty text, and of a text longer than a key can be its beginning: no prediction can
    have such a key.
    """
    places = np.full(rows.num_rows, int(sha256[:16], 16), dtype=np.uint64)
    for column in key:
        values = whole(rows.column(column.name))
        places = _mixed(places ^ (_text(values) if column.type == "text" else _number(values)))
    return (places >> np.uint64(32)) < np.uint64(round(share * 2**32))


def _number(values: pa.Array) -> NDArray[np.uint64]:
    if pa.types.is_date32(values.type):
        values = values.view(pa.int32())
    found: NDArray[Any] = numpy_of(values, null=0).astype(np.int64)
    return found.view(np.uint64)


def _text(values: pa.Array) -> NDArray[np.uint64]:
    if values.null_count:
        values = values.fill_null(_EMPTY)
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    starts, lengths = ends[:-1], np.minimum(np.diff(ends), MAX_KEY_BYTES)
    found = np.full(len(values), _OFFSET, dtype=np.uint64)
    # The longest first: those that have a byte more are then the first so many.
    order = np.argsort(-lengths, kind="stable")
    starts, sizes, hashed = starts[order], lengths[order], found[order]
    for place in range(int(sizes[0]) if len(sizes) else 0):
        left = int(np.searchsorted(-sizes, -place))
        hashed[:left] = (hashed[:left] ^ bytes_[starts[:left] + place]) * _PRIME
    found[order] = hashed
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E37_79B9_7F4A_7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))


# Made of its bytes: of a Python text it would import pandas (jobs/arrays.py).
_EMPTY = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes(8)), pa.py_buffer(b"")])[0]
