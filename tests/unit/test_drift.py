"""What counts as drift: bins, their shares, and what is beyond chance."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.drift import MIN_ROWS, by_chance, failed, line, psi_parts, verdict
from jobs.drift_counts import Reference
from jobs.jobspec.checks import Drift
from jobs.model import ScoringPlan
from jobs.profile import make_profile
from jobs.signature import FeatureColumn, OutputColumn

ROWS = 2_000


def reference(values, dtype="float32", key=()):
    """The reference of one feature, v, of such values; the score is always 0.5."""
    profile = make_profile(pa.table({"v": values}), {"p[1]": np.full(len(values), 0.5, np.float32)})
    scoring = ScoringPlan(
        (FeatureColumn("v", "x", dtype, 0, 1, 2),), (OutputColumn("score", "p", 1, "float32"),)
    )
    return Reference.of("m/1", profile, scoring, key)


def judged(reference, *chunks, **asked):
    """The verdict on v over the chunks of a run, and the whole of it."""
    counts = [
        reference.count_chunk(pa.table({"v": chunk}), pa.table({"score": np.full(len(chunk), 0.5)}))
        for chunk in chunks
    ]
    found = verdict(reference, counts, Drift(**asked))
    return next(each for each in found["columns"] if each["column"] == "v"), found


def normal(count=ROWS, seed=1):
    return np.random.default_rng(seed).normal(size=count)


def test_psi_is_what_the_formula_says():
    """Two bins, half and half against one to nine: (0.5 - 0.1) ln 5 + (0.5 - 0.9) ln (5/9)."""
    parts = psi_parts(np.array([50, 50]), np.array([0.1, 0.9]), 1_000)
    assert pytest.approx(0.4 * np.log(5) - 0.4 * np.log(5 / 9)) == parts.sum()
    assert 0 == psi_parts(np.array([10, 90, 0]), np.array([0.1, 0.9, 0]), 1_000).sum()


def test_chance_is_the_quantile_of_chi_squared():
    """99.95 % of chi-squared with 9 degrees of freedom lie below 29.67."""
    assert pytest.approx(29.67 * (1 / 500 + 1 / 1_000), rel=0.02) == by_chance(500, 1_000, 10, 20)


@pytest.mark.parametrize(
    ("was", "now", "most"),
    [
        (normal(), normal() + 1, "1.2"),
        (normal(), np.where(np.arange(ROWS) % 2, np.nan, normal()), "NULL"),
        (normal(), np.full(ROWS, np.nan), "NULL"),
        (normal(), np.where(np.arange(ROWS) % 2, np.inf, normal()), "1.2"),
        (normal(), np.where(np.arange(ROWS) % 2, -np.inf, normal()), "below -1."),
        (np.full(ROWS, 7.0), np.full(ROWS, 7.1), "above 7"),
        (np.full(ROWS, 7.0), np.full(ROWS, 6.9), "below 7"),
        (np.full(ROWS, 0.0), np.full(ROWS, 0.01), "above 0"),
        (np.arange(ROWS) % 20 == 0, np.arange(ROWS) % 2 == 0, "above 0"),
        (np.where(np.arange(ROWS) % 20 == 0, 9.0, 0.0), np.zeros(ROWS), "0"),
        (np.full(ROWS, np.nan), normal(), "not NULL"),
    ],
)
def test_a_number_that_has_moved(was, now, most):
    """A shift, NULLs, infinities, a constant that is another one, a rare value that is common or gone."""
    found, whole = judged(reference(was), now)
    assert ("alert", "alert") == (found["level"], whole["level"])
    assert most in found["gained_most"]
    assert "none" == judged(reference(was), was[: ROWS // 2], was[ROWS // 2 :])[0]["level"]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int32(), pa.decimal128(8, 1)])
def test_a_number_is_its_value_whatever_holds_it(kind):
    """What was profiled as one type and is read as another lies in the same bins, to the last row."""
    values = np.arange(ROWS) % 11
    if not pa.types.is_integer(kind):
        values = values / 10
    made = reference(pa.array(values))
    assert (
        judged(made, pa.array(values))[0] == judged(made, pa.array(values).cast(pa.float64()).cast(kind))[0]
    )


def test_texts():
    """Other shares, NULLs and values that the reference has not are drift; new ones are named, but for a key's."""
    was = pa.array(["a", "a", "b", "c"] * 500)
    new = pa.array(["a", "a", "b", "c\0" + "c" * 80] * 500)
    assert "none" == judged(reference(was, "string"), was)[0]["level"]
    assert "none" == judged(reference(was, "string"), was.dictionary_encode())[0]["level"]
    assert "'b'" == judged(reference(was, "string"), pa.array(["b"] * 500))[0]["gained_most"]
    assert "NULL" == judged(reference(was, "string"), pa.array(["a", None] * 500))[0]["gained_most"]
    assert "NULL" == judged(reference(was, "string"), pa.nulls(500))[0]["gained_most"]
    found, whole = judged(reference(was, "string"), new[:400], new[400:], on_alert="block")
    assert "other values" == found["gained_most"]
    assert {"c\ufffd" + "c" * 58: 500} == found["new_values"]
    assert "cc" not in failed(whole, Drift(on_alert="block"))[0]
    assert {} == judged(reference(was, "string", key=["v"]), new)[0]["new_values"]
    found = judged(reference(was, "string", key=["v"]), pa.array(["b"] * 500))[0]
    assert "a value of it" == found["gained_most"]


def test_what_a_small_reference_never_saw():
    """Of a reference with many values that it saw once, new ones are to be expected and no alarm."""
    random = np.random.default_rng(3)
    weights = 1 / np.arange(1, 41) ** 1.3
    many = [f"c{at}" for at in range(40)]
    was, now = (pa.array(random.choice(many, n, p=weights / weights.sum()).tolist()) for n in (500, 5_000))
    assert "none" == judged(reference(was, "string"), now)[0]["level"]


def test_few_rows():
    """One row too few is not judged; small samples of the same are no alarm, which their PSI alone would be."""
    made = reference(normal())
    found, whole = judged(made, normal(MIN_ROWS - 1) + 9)
    assert ("unjudged", None, "unjudged") == (found["level"], found["psi"], whole["level"])
    assert "drift not judged: 99 rows are fewer than 100" == line(whole)
    found = [judged(made, normal(MIN_ROWS, seed))[0] for seed in range(2, 42)]
    assert {"none"} == {each["level"] for each in found}
    assert any(each["psi"] > 0.1 for each in found)
    assert "alert" == judged(made, normal(MIN_ROWS) + 2)[0]["level"]


def test_chunks_add_up():
    """However a run is cut, its verdict is the same to the last digit."""
    made, values = reference(normal()), normal(seed=7) + 0.2
    parts = np.array_split(values, 13)
    assert judged(made, values) == judged(made, *parts) == judged(made, *reversed(parts))


def test_what_the_reference_does_not_say():
    """A column of another kind or name is named as missing; without any there is no reference."""
    profile = make_profile(pa.table({"v": ["a"] * 50}), {"label": np.array(["x"] * 50)})
    scoring = ScoringPlan(
        (FeatureColumn("v", "x", "float32", 0, 2, 2), FeatureColumn("w", "x", "float32", 1, 2, 2)),
        (
            OutputColumn("label", "label", None, "string"),
            OutputColumn("all", "p", None, "float32", is_vector=True),
        ),
    )
    found = Reference.of("m/1", profile, scoring)
    assert (("v", "w"), ["label"]) == (found.missing, [each.column for each in found.bins])
    assert Reference.of("m/1", profile, ScoringPlan(scoring.features, ())) is None
