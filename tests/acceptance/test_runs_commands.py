"""`batchpred runs`, `rollback` and `quarantine` as a person uses them after a bad night."""

import pytest

from tests.acceptance.conftest import Command


@pytest.fixture
def rides(demo):
    """The demo's project, three days published, each with sixteen or so rides in quarantine."""
    return Command(demo.folder / "rides", demo.environment)


def test_from_a_blocked_run_to_a_rollback(rides):
    """A blocked run is shown, published with a reason, rolled back, and everything is on record."""
    job = rides.folder / "rides.job.yaml"
    good = rides.call("runs", "list", "rides", "--json", check=True).json["runs"][0]
    text = job.read_text(encoding="utf-8")
    job.write_text(text.replace("min_rows: 100,", "min_rows: 999999,"), encoding="utf-8")
    blocked = rides("run", "rides", "--force", "--json")
    assert (3, "blocked") == (blocked.code, blocked.json["runs"][0]["status"])
    run_id = blocked.json["runs"][0]["run_id"]
    shown = rides("runs", "show", run_id, check=True)
    assert f'batchpred runs publish {run_id} --override "why"' in shown.out
    assert 2 == rides.call("runs", "publish", run_id, "--override", " ").code
    moved = rides("runs", "publish", run_id, "--override", "a holiday", "--json", check=True).json
    assert (good["run_id"], run_id) == (moved["from_run"], moved["to_run"])
    back = rides("rollback", "rides", "--why", "it was none", "--json", check=True).json
    assert (run_id, good["run_id"]) == (back["from_run"], back["to_run"])
    record = rides.call("runs", "show", run_id, "--json", check=True).json["moves"]
    assert [("override", "a holiday"), ("rollback", "it was none")] == [(m["kind"], m["why"]) for m in record]


def test_quarantined_rows_are_listed_and_tried_again(rides, demo):
    """Once the source is mended a retry publishes the interval whole, with nothing left in quarantine."""
    before = rides("quarantine", "list", "rides", "--json", check=True).json["quarantine"]
    assert 0 < len(before)
    assert all("payment is NULL" in row["reason"] and row["key"]["ride_id"] for row in before)
    with demo.database.connect(purpose="test") as connection:
        connection.execute("UPDATE batchpred_demo.rides SET payment = 'cash' WHERE payment IS NULL")
    left = rides("quarantine", "retry", "rides", "--json", check=True).json
    assert (len(before), 0) == (left["quarantined_before"], left["runs"][0]["rows"]["quarantined"])
    assert [] == rides.call("quarantine", "list", "rides", "--json", check=True).json["quarantine"]
    key = before[0]["key"]["ride_id"]
    assert 0 == rides.call("get", "rides", key).code


def test_a_forgotten_key_is_gone_and_gc_leaves_what_is_seen(rides):
    """A ride that is forgotten is found no more; gc has nothing to drop while everything can be reached."""
    key = rides.call("quarantine", "list", "rides", "--json", check=True).json["quarantine"][0]["key"][
        "ride_id"
    ]
    seen = next(
        each for each in range(key - key % 1_000_000, key) if not rides.call("get", "rides", each).code
    )
    assert {"predictions": 1, "quarantined": 0} == rides("forget", "rides", seen, "--json", check=True).json
    assert 1 == rides.call("get", "rides", seen).code
    assert {"dropped": [], "withdrawn": [], "left": []} == rides("gc", "--json", check=True).json
