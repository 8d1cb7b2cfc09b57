"""What becomes of a chunk whose keys or outputs PostgreSQL could not hold."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from jobs.model import Scored
from jobs.score import last_named, score_chunk
from storage.job_table import Column
from storage.sources import SourceColumn


def plan(key_type, outputs, scored):
    """A plan whose model answers with what is given: what is tested comes after the model."""
    columns = tuple(Column(name, type_) for name, type_ in outputs.items())
    key = (Column("id", key_type),)
    return SimpleNamespace(
        table=SimpleNamespace(key=key, outputs=columns, columns=key + columns),
        batches=None,
        transform=None,
        drift=None,
        features=(SourceColumn("x", "float8", "double"),),
        source=SimpleNamespace(where="q.sql"),
        scoring=None,
        model=SimpleNamespace(model=SimpleNamespace(score=lambda *_: scored)),
    )


def scored(rows, **columns):
    return Scored(pa.record_batch(columns), np.array(rows, dtype=np.int64), [])


def test_outputs_that_do_not_fit_are_set_aside():
    """An unsigned integer past bigint and a label with NUL go to quarantine, each with its reason; others stay."""
    answer = scored(
        [0, 1, 2, 3],
        n=pa.array([1, 2**63, 3, 4], pa.uint64()),
        label=pa.array(["a", "b", "c\0", None], pa.string()),
    )
    rows = pa.table({"id": [10, 11, 12, 13], "x": [0.0, 1.0, 2.0, 3.0]})
    chunk = score_chunk(plan("bigint", {"n": "bigint", "label": "text"}, answer), rows)
    assert [
        {"id": 10, "n": 1, "label": "a"},
        {"id": 13, "n": 4, "label": None},
    ] == chunk.predictions.to_pylist()
    assert [
        ({"id": 11}, "the model's n does not fit bigint", {"x": 1.0}),
        ({"id": 12}, "the model's label holds a NUL character, which text cannot", {"x": 2.0}),
    ] == chunk.quarantined
    assert (4, 2, 2) == (chunk.counts.read, chunk.counts.scored, chunk.counts.quarantined)


@pytest.mark.parametrize(
    ("key_type", "keys", "bad", "key", "reason"),
    [
        ("bigint", pa.array([None, 4]), 0, None, "key column id is NULL"),
        (
            "date",
            pa.array([0, 2_147_483_647], pa.int32()).cast(pa.date32()),
            1,
            "infinity",
            "key column id lies outside the years 1 to 9999",
        ),
        (
            "text",
            pa.array(["a", "ü" * 1001]),
            1,
            "ü" * 1000 + "… (1001 characters)",
            "key column id is longer than 1000 bytes",
        ),
    ],
    ids=["NULL", "endless date", "long text"],
)
def test_keys_that_name_nothing_are_set_aside(key_type, keys, bad, key, reason):
    """NULL, an endless date and very long text are no keys: the row is set aside unscored, the other is scored."""
    rows = pa.table({"id": keys, "x": [0.0, 1.0]})
    chunk = score_chunk(plan(key_type, {"s": "double precision"}, scored([0], s=pa.array([0.5]))), rows)
    assert [keys[1 - bad].as_py()] == chunk.predictions["id"].to_pylist()
    assert [({"id": key}, reason, {"x": float(bad)})] == chunk.quarantined
    assert (2, 1, 1) == (chunk.counts.read, chunk.counts.scored, chunk.counts.quarantined)
    assert 1 - bad == last_named((Column("id", key_type),), rows)
    assert last_named((Column("id", key_type),), rows.slice(bad, 1)) is None
