"""Digests of chunks, and which chunks of a new reading are done."""

from datetime import date

import pyarrow as pa
import pytest

from jobs.resume import Resumption, digest_of
from storage.runs import ChunkCounts
from storage.unfinished import DoneChunk

ROWS = {
    "id": pa.array([1, 2, 3]),
    "n": pa.array([1, None, 3], pa.int32()),
    "x": pa.array([0.5, None, float("nan")]),
    "t": pa.array(["a", None, "é"]),
    "b": pa.array([True, None, False]),
    "d": pa.array([date(2026, 1, 1), None, date(2026, 1, 3)]),
}
TABLE = pa.table(ROWS)


def test_a_digest_does_not_depend_on_how_rows_are_cut():
    """The same rows in other batches, sliced out of a larger table, have the same digest."""
    larger = pa.concat_tables([TABLE, TABLE, TABLE])
    pieces = pa.Table.from_batches(
        TABLE.slice(0, 1).combine_chunks().to_batches() + TABLE.slice(1).combine_chunks().to_batches()
    )
    assert [digest_of(TABLE)] * 2 == [digest_of(larger.slice(3, 3)), digest_of(pieces)]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([1, 2, 4])),
        ("n", pa.array([1, 0, 3], pa.int32())),
        ("x", pa.array([0.5, float("nan"), None])),
        ("x", pa.array([0.5, 0.0, float("nan")])),
        ("t", pa.array(["a", "", "é"])),
        ("t", pa.array(["", None, "aé"])),
        ("b", pa.array([True, False, False])),
        ("d", pa.array([date(2026, 1, 1), date(1970, 1, 1), date(2026, 1, 3)])),
        ("n", pa.array([1, None, 3], pa.int64())),
    ],
)
def test_any_other_value_is_another_digest(column, values):
    """A changed value, type or NULL shows in the digest, also where NULL stands for zero or nothing."""
    assert digest_of(TABLE) != digest_of(pa.table({**ROWS, column: values}))


def test_chunks_are_done_up_to_the_first_that_differs():
    """What agrees again further on is scored anew: everything behind the difference is taken back."""
    chunks = [pa.table({"id": [number]}) for number in range(4)]
    done = [DoneChunk(n, ChunkCounts(1, 1, 0), digest_of(chunk), {"id": n}) for n, chunk in enumerate(chunks)]
    changed = [chunks[0], pa.table({"id": [9]}), *chunks[2:]]
    resumption = Resumption(done)
    assert [1, 2, 3] == [chunk.number for chunk in resumption.unscored(changed)]
    assert (1, True) == (resumption.kept, resumption.has_outdated)
    shorter = Resumption(done)
    assert ([], 2, True) == (list(shorter.unscored(chunks[:2])), shorter.kept, shorter.has_outdated)
