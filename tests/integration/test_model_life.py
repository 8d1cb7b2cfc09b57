"""How versions are promoted, moved back, retired, deleted and verified, and what stands in the way."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from storage import model_life, registry, runs
from storage.model_life import ModelNeededError, NoEarlierVersionError
from storage.registry import Facts, ModelNotFoundError, ModelRef
from storage.retirement import Rule, retire_stale, stale

DESCRIBED = {"signature": {"inputs": [], "outputs": []}, "opset": {"ai.onnx": 18}, "notes": []}


def push(connection, data, **options):
    return registry.push(connection, "churn", data, described=DESCRIBED, source="test", **options)[0]


def champion(connection):
    return registry.resolve(connection, ModelRef.parse("churn@champion")).version


@pytest.fixture
def three(connection):
    """Versions 1 to 3, each promoted in turn."""
    for data in (b"one", b"two", b"three"):
        version = push(connection, data)
        model_life.promote(connection, ModelRef("churn", version=version.version), "champion")
    return connection


def test_rollbacks_walk_back_one_promotion_each(three):
    """Each rollback takes one promotion back, in milliseconds; a later promotion counts from where it stands."""
    began = time.monotonic()
    assert (3, 2) == vars_of(model_life.rollback(three, "churn", "champion", why="worse"))
    assert 0.5 > time.monotonic() - began
    model_life.rollback(three, "churn", "champion")
    assert 1 == champion(three)
    with pytest.raises(NoEarlierVersionError, match="no earlier version"):
        model_life.rollback(three, "churn", "champion")
    model_life.promote(three, ModelRef.parse("churn/3"), "champion")
    assert (3, 1) == vars_of(model_life.rollback(three, "churn", "champion"))
    kinds = [(move["kind"], move["why"]) for move in model_life.alias_moves(three, "churn")]
    assert ["promote"] * 3 == [kind for kind, _ in kinds[:3]]
    assert ("rollback", "worse") == kinds[3]


def vars_of(move):
    return move.from_version, move.to_version


def test_promoting_what_is_promoted_changes_nothing(three):
    """The second promotion moves nothing and is not recorded."""
    before = len(model_life.alias_moves(three, "churn"))
    assert not model_life.promote(three, ModelRef.parse("churn/3"), "champion").moved
    assert before == len(model_life.alias_moves(three, "churn"))


def test_a_rollback_to_a_named_version(three):
    """Back to any version the alias pointed at before, and to no other."""
    push(three, b"four")
    with pytest.raises(NoEarlierVersionError, match="did not point at version 4 before"):
        model_life.rollback(three, "churn", "champion", to_version=4)
    assert (3, 1) == vars_of(model_life.rollback(three, "churn", "champion", to_version=1))


def test_which_version_was_champion_on_a_day(three):
    """The history answers for any day, also one on which the alias moved."""
    three.execute(
        "UPDATE batchpred.model_alias_moves"
        " SET moved_at = timestamptz '2026-03-01 12:00+00' + (move_id - 1) * interval '1 day'"
    )
    moves = model_life.alias_moves(three, "churn", "champion")
    march = [datetime(2026, 3, day, tzinfo=UTC) for day in range(1, 6)]
    told = [
        [span["version"] for span in model_life.spans(moves, day, day + timedelta(days=1))] for day in march
    ]
    assert [[1], [1, 2], [2, 3], [3], [3]] == told
    assert [] == model_life.spans(moves, march[0] - timedelta(days=1), march[0])


def test_what_an_alias_needs_is_not_deleted(three):
    """Neither what an alias points at nor what it would roll back to; any other goes, its number for ever."""
    for number, says in ((3, "churn@champion points at it"), (2, "churn@champion would roll back to it")):
        with pytest.raises(ModelNeededError, match=says):
            model_life.delete(three, ModelRef("churn", version=number))
    model_life.delete(three, ModelRef.parse("churn/1"))
    with pytest.raises(ModelNotFoundError, match="was deleted on"):
        registry.resolve(three, ModelRef.parse("churn/1"))
    assert [3, 2] == [each.version for each in registry.versions(three, "churn")]
    assert 4 == push(three, b"one").version
    assert ["ok"] * 3 == [file.status for file in model_life.verify(three)]


def test_a_file_two_names_share_stays_while_one_needs_it(connection):
    """Deleting one name's version leaves the bytes to the other name."""
    push(connection, b"one")
    registry.push(connection, "other", b"one", described=DESCRIBED, source="test")
    model_life.delete(connection, ModelRef.parse("churn/1"))
    assert [("ok", ["other/1"])] == [(file.status, file.versions) for file in model_life.verify(connection)]
    model_life.delete(connection, ModelRef.parse("other/1"))
    assert [] == model_life.verify(connection)
    assert [] == connection.execute("SELECT 1 AS one FROM batchpred.model_pieces").fetchall()


def test_what_a_run_needs_is_not_deleted_nor_retired(connection, make_job, publish_rows):
    """While predictions of a version are there it is not deleted; while they are current it is not retired."""
    push(connection, b"one")
    publish_rows(make_job(), 1, {"id": [1], "score": [0.5]})
    with pytest.raises(ModelNeededError, match=r"run 1 \(churn, 2026-01-01\), whose predictions readers see"):
        model_life.delete(connection, ModelRef.parse("churn/1"))
    with pytest.raises(ModelNeededError, match="the current predictions of churn are its"):
        model_life.retire(connection, ModelRef.parse("churn/1"), "old")
    push(connection, b"two")
    publish_rows(make_job(), 2, {"id": [1], "score": [0.5]}, version=2)
    assert model_life.retire(connection, ModelRef.parse("churn/1"), "old")[1]


def test_a_retired_version_is_out_of_use(three):
    """It is neither promoted, scored with, nor rolled back to, until it is taken back."""
    with pytest.raises(ModelNeededError, match="churn@champion points at it"):
        model_life.retire(three, ModelRef.parse("churn/3"), "old")
    model_life.retire(three, ModelRef.parse("churn/2"), "biased")
    with pytest.raises(ModelNotFoundError, match=r"was retired on .* \(biased\)"):
        model_life.promote(three, ModelRef.parse("churn/2"), "champion")
    with pytest.raises(ModelNotFoundError, match=r"models retire churn/2 --undo"):
        registry.resolve(three, ModelRef.parse("churn/2"), to_score=True)
    assert [1] == model_life.earlier_targets(three, "churn", "champion")
    assert model_life.take_back(three, ModelRef.parse("churn/2"))[1]
    assert [2, 1] == model_life.earlier_targets(three, "churn", "champion")


def test_a_version_that_a_run_scores_with_is_not_retired(three, database, make_job):
    """Neither by hand nor by rule while its runner holds the interval; once that has stopped it can be."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    slot = runs.Slot("churn", start, start + timedelta(days=1), start.date())
    pin = runs.Pin("churn", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
    old = Rule(older_than=timedelta())
    assert [] == stale(three, "churn", Rule(older_than=timedelta(days=99_999_999))), (
        "longer ago than dates go"
    )
    with runs.claim(database, three, slot) as claim:
        run_id = runs.start_run(three, claim, pin, {"query": "SELECT 1"})
        with pytest.raises(ModelNeededError, match=f"run {run_id} of churn scores with it"):
            model_life.retire(three, ModelRef.parse("churn/1"), "old")
        assert [] == stale(three, "churn", old)
    assert [1] == [each.version for each, _ in stale(three, "churn", old)]
    assert model_life.retire(three, ModelRef.parse("churn/1"), "old")[1]


def test_retirement_by_age_and_by_metric(connection):
    """Versions past an age, or with a metric past a bound, are told; never one in use or one to roll back to."""
    for number, auc in enumerate((0.6, 0.9, 0.65, 0.7, 0.95)):
        version = push(connection, bytes([number]), facts=Facts({"auc": auc}))
        if number in (3, 4):
            model_life.promote(connection, ModelRef("churn", version=version.version), "champion")
    connection.execute(
        "UPDATE batchpred.model_versions SET created_at = now() - version * interval '10 days'"
    )
    bad = stale(connection, "churn", Rule(metrics={"auc": (0.8, None)}))
    assert [(3, "auc is 0.65, below 0.8"), (1, "auc is 0.6, below 0.8")] == [
        (each.version, reason) for each, reason in bad
    ]
    high = stale(connection, "churn", Rule(metrics={"auc": (None, 0.8), "rmse": (1.0, None)}))
    assert [(2, "auc is 0.9, above 0.8")] == [(each.version, reason) for each, reason in high]
    old = stale(connection, "churn", Rule(timedelta(days=15)))
    assert [3, 2] == [each.version for each, _ in old]
    kept = stale(connection, "churn", Rule(timedelta(days=5), keep=3))
    assert [2, 1] == [each.version for each, _ in kept]
    done = retire_stale(connection, "churn", Rule(timedelta(days=25)), why="by gates.yaml")
    assert [3] == [each.version for each, _ in done]
    assert done[0][1].startswith("by gates.yaml: pushed on ")
    assert done[0][1].endswith(", longer ago than 25d")
    assert [] == retire_stale(connection, "churn", Rule(timedelta(days=25)))
    told = model_life.events(connection, "churn")
    assert [("retired", 3, {"why": done[0][1]})] == [(e["kind"], e["version"], e["details"]) for e in told]


def test_facts_are_kept_with_the_version(connection):
    """Metrics, tags, card, profile and who pushed it from where come back as they were given."""
    facts = Facts({"auc": 0.91}, {"team": "growth"}, "# Churn\n", {"version": 1})
    version = push(connection, b"one", facts=facts)
    assert ({"auc": 0.91}, {"team": "growth"}, "# Churn\n") == (version.metrics, version.tags, version.card)
    assert " on " in version.pushed_from
    assert {"version": 1} == model_life.profile(connection, version)


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        ("UPDATE batchpred.model_pieces SET data = set_byte(data, 0, 99)", "damaged"),
        ("UPDATE batchpred.model_pieces AS p SET data = o.data FROM batchpred.model_pieces AS o"  # noqa: ISC004
         " WHERE p.sha256 <> o.sha256", "damaged"),
        ("DELETE FROM batchpred.model_pieces", "missing"),
    ],
    ids=["flipped", "swapped", "gone"],
)  # fmt: skip
def test_a_damaged_store_is_found(connection, damage, status):
    """Hashing the store anew finds flipped, swapped and missing files."""
    push(connection, b"one")
    push(connection, b"two")
    connection.execute(damage)
    assert {status} == {file.status for file in model_life.verify(connection)}


def test_near_names_are_suggested(three):
    """A slip in a name or an alias is answered with the nearest."""
    for text, says in (
        ("chrun@champion", "did you mean 'churn'"),
        ("churn@champoin", "did you mean 'champion'"),
    ):
        with pytest.raises(ModelNotFoundError, match=says):
            registry.resolve(three, ModelRef.parse(text))
