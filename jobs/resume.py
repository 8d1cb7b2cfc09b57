"""Which chunks of a run that stopped still stand, and which must be scored anew.

What a resumed run reads. The snapshot of the first attempt died with its session, so a resumed run could mix
the rows of two moments. We could have frozen the input (a copy of what the query gave, made when the run is
planned), which costs every run that is never killed a second copy of its rows, and keeps rows that their owner
may have deleted since. Instead the boundaries are checked again: a resumed run reads the whole query once, in
one new snapshot, and only saves the scoring and writing of chunks that are still what they were. Reading is a
small part of a run; and the result is the table that one clean run would have made now, not at the time of a
run that failed.

Why rows are read in the order of the key. A query without ORDER BY gives its rows in any order, and in another
one after an update, with another plan or with parallel workers: the tenth chunk of a second reading would not
be the tenth chunk of the first. So the source sorts by the key, text by its bytes. Keys are unique, so equal
rows come in equal order, and a chunk is a range of the key. For a million shuffled rows of 21 columns the sort
cost 0.7 s (2.3 s to read instead of 1.6); building the primary key of a table written in order wins part back.

Files are read in the order of their names instead, which is the same each time, and a run is taken up only where
they are still the same files (storage/files/source.py). Should their rows differ all the same, because
`chunk_rows` is another, nothing is cut back: the run begins anew.

How it is told. A chunk's ledger entry, which commits with its rows, holds a digest of what was read: key and
features, NULL apart from zero. The chunks are read and cut again. As long as digests agree a chunk is done and
skipped; from the first that differs on, because the source changed or `chunk_rows` did, everything behind the
last agreeing chunk's key is taken back and scored anew. A killed run over an unchanged source so repeats the
chunks that were not committed, and no others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import nulls_in, numpy_of, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from storage.unfinished import DoneChunk


class RowsChangedError(Exception):
    """The source changed under a run whose table is complete already: it cannot be taken back, only left."""

    def __init__(self) -> None:
        super().__init__("its source changed after it was complete; another run took its place")


@dataclass(frozen=True)
class NumberedChunk:
    """A chunk as it was read: its number, its rows in the order of the key, and their digest."""

    number: int
    rows: pa.Table
    sha256: str

    def key_at(self, row: int | None, key: Sequence[str]) -> dict[str, Any]:
        """Return a row's key as JSON holds it; empty where no row of the chunk has one."""
        if row is None:
            return {}
        values = {name: self.rows[name][row].as_py() for name in key}
        return {name: value if isinstance(value, int) else str(value) for name, value in values.items()}


class Resumption:
    """Goes through the chunks of a new reading beside those that are done.

    `uncounted` names columns that were read for somebody else and are no part of a chunk's digest. Where drift is
    judged, a chunk that was not counted against this `reference` (its digest) is not done.
    """

    def __init__(
        self, done: Sequence[DoneChunk], uncounted: Sequence[str] = (), reference: str | None = None
    ) -> None:
        self._done = done
        self._uncounted = list(uncounted)
        self._reference = reference
        self.kept = 0

    @property
    def has_outdated(self) -> bool:
        """Whether chunks are in the ledger that this reading does not give; known when it gave another or ended."""
        return self.kept < len(self._done)

    def unscored(self, chunks: Iterable[pa.Table]) -> Iterator[NumberedChunk]:
        """Yield the chunks that are not done, numbered as in the ledger."""
        agreeing = True
        numbers = count()  # enumerate would hold the chunk it gave
        for rows in chunks:
            number = next(numbers)
            digest = digest_of(rows.drop_columns(self._uncounted))
            agreeing = agreeing and number < len(self._done) and self._is_done(self._done[number], digest)
            if agreeing:
                self.kept = number + 1
            else:
                yield NumberedChunk(number, rows, digest)
            del rows  # or they would stay in memory until the next chunk is read

    def _is_done(self, chunk: DoneChunk, digest: str) -> bool:
        is_counted = self._reference is None or chunk.drift_reference == self._reference
        return chunk.rows_sha256 == digest and is_counted


def digest_of(rows: pa.Table) -> str:
    """Return the sha256 of a table's names, types and values, however its buffers are cut.

    Of a million rows of 21 numbers it takes what sha256 takes for their 168 MB; with the processor's own
    instructions for it that was the quickest of the hashes that serve (BLAKE2b half as quick, SHA-512 three
    quarters).
    """
    digest = hashlib.sha256(str(rows.schema.remove_metadata()).encode())
    digest.update(rows.num_rows.to_bytes(8, "little"))
    for column in rows.columns:
        for part in _buffers(whole(column)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _buffers(array: pa.Array) -> Iterator[bytes | memoryview | pa.Buffer]:
    """The bytes that say what an array holds; what lies under a NULL or outside a slice is not among them."""
    if pa.types.is_date32(array.type):
        array = array.view(pa.int32())
    if array.null_count:
        yield np.packbits(nulls_in(array)).tobytes()
    if pa.types.is_string(array.type):
        if array.null_count:
            array = array.fill_null(_EMPTY)
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        yield np.diff(ends).tobytes()
        if data is not None and len(array):
            yield memoryview(data)[int(ends[0]) : int(ends[-1])]
    else:
        yield pa.py_buffer(np.ascontiguousarray(numpy_of(array, null=0)))


# Made of its bytes: of a Python text it would import pandas (jobs/arrays.py).
_EMPTY = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes(8)), pa.py_buffer(b"")])[0]
