"""Which keys are a canary's: the same for ever, of every type, and as many as the share says."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from jobs.share import is_in_share
from storage.job_table import Column

DIGEST = hashlib.sha256(b"a model").hexdigest()
WIDE = 2**64


def place(values, digest=DIGEST):
    """The place of a key, computed one step after the other as the module's top says it."""
    place = int(digest[:16], 16)
    for value in values:
        if isinstance(value, str):
            h = 14695981039346656037
            for byte in value.encode():
                h = (h ^ byte) * 1099511628211 % WIDE
        else:
            h = value % WIDE
        z = ((place ^ h) + 0x9E3779B97F4A7C15) % WIDE
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WIDE
        z = (z ^ z >> 27) * 0x94D049BB133111EB % WIDE
        place = z ^ z >> 31
    return place


def sides(share, **columns):
    key = [
        Column(name, "text" if pa.types.is_string(each.type) else "bigint") for name, each in columns.items()
    ]
    return is_in_share(key, pa.table(columns), DIGEST, share).tolist()


@pytest.mark.parametrize(
    "columns",
    [
        {"id": [0, 1, -1, 2**63 - 1, -(2**63), *range(500)]},
        {"id": ["", "a", "ä", "ab", "a" * 999, *map(str, range(500))]},
        {"a": ["x", "x", "y"] * 100, "b": [*range(299), -5]},
    ],
    ids=["integers", "text", "two columns"],
)
def test_the_side_is_what_the_document_says(columns):
    """Key by key the vectorised side is that of the arithmetic as it is written down."""
    expected = [place(row) >> 32 < 0.2 * 2**32 for row in zip(*columns.values(), strict=True)]
    assert expected == sides(0.2, **{name: pa.array(values) for name, values in columns.items()})


def test_sides_never_change():
    """These keys are the canary's in this version and every later one: published predictions say so."""
    assert [0, 3, 5, 14, 16, 19, 20, 24, 27] == np.flatnonzero(sides(0.25, id=pa.array(range(30)))).tolist()
    names = ["anna", "bert", "carl", "dora", "emil", "fritz", "gabi", "hans"]
    assert ["bert", "carl"] == [
        name for name, mine in zip(names, sides(0.25, id=pa.array(names)), strict=True) if mine
    ]


def test_the_share_is_the_share():
    """Of many keys as many are the canary's as the share says; a greater share keeps those of a smaller."""
    for key in (pa.array(range(100_000)), pa.array([f"customer-{n}" for n in range(100_000)])):
        small, large = (np.array(sides(share, id=key)) for share in (0.05, 0.2))
        assert abs(small.mean() - 0.05) < 0.003
        assert abs(large.mean() - 0.2) < 0.005
        assert not (small & ~large).any()


def test_chunks_slices_and_types_change_no_side():
    """A key has its side alone, in a chunk or a slice, as 32 or 64 bits; NULL is nobody's harm."""
    whole = sides(0.3, id=pa.array(range(1000)))
    assert whole[17:600] == sides(0.3, id=pa.array(range(1000)).slice(17, 583))
    assert whole == [sides(0.3, id=pa.array([n]))[0] for n in range(1000)]
    assert whole == sides(0.3, id=pa.array(range(1000), pa.int32()))
    texts = pa.array([f"k{n}" for n in range(200)])
    assert sides(0.3, id=texts)[50:] == sides(0.3, id=texts.slice(50))
    assert 3 == len(sides(0.3, id=pa.array(["a", None, "b"])))
    long = [f"{n:01000}" for n in range(200)]
    assert sides(0.3, id=pa.array(long)) == sides(0.3, id=pa.array([f"{text} is no key" for text in long]))
    assert [] == sides(0.3, id=pa.array([], pa.string()))
    dates = is_in_share([Column("d", "date")], pa.table({"d": pa.array(range(99), pa.date32())}), DIGEST, 0.3)
    assert whole[:99] == dates.tolist()


def test_another_canary_meets_other_keys():
    """The same share of another file is another set of keys."""
    other = hashlib.sha256(b"another").hexdigest()
    key, rows = [Column("id", "bigint")], pa.table({"id": range(10_000)})
    one, two = (is_in_share(key, rows, digest, 0.1) for digest in (DIGEST, other))
    assert 50 < (one & two).sum() < 150
