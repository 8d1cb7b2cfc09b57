"""A new user's first minutes: demo, look-ups, the API, a project of one's own, the schedule, the doctor."""

import json
import socket
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta


def call(url, **headers):
    """GET an address; give the status and the JSON."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def serving(batchpred, **environment):
    """The read API on a free port, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = batchpred.start("serve", "--port", port, **environment)
    try:
        base = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            try:
                call(f"{base}/healthz")
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.communicate(timeout=20)


def yesterday():
    return datetime.now(UTC).date() - timedelta(days=1)


def test_the_demo_publishes_three_days_and_can_be_repeated(demo):
    """Three days are published the first time, unchanged the second, and the next things to try are shown."""
    assert 3 == demo.demo.out.count("published")
    for command in ("batchpred get rides", "psql", "batchpred serve"):
        assert command in demo.demo.out
    again = demo("demo", check=True)
    assert (3, 0) == (again.out.count("unchanged"), again.out.count("published"))


def test_what_the_demo_says_to_try_works(demo):
    """The key it names can be looked up, and the view it names has rows, none from quarantine."""
    key = demo.demo.out.split("batchpred get rides ")[1].split()[0]
    found = demo("get", "rides", key, "--json", check=True).json
    assert (int(key), yesterday().isoformat()) == (found["ride_id"], found["as_of_date"])
    with demo.database.connect(purpose="test") as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM predictions.rides) AS published,"
            " (SELECT count(*) FROM batchpred.quarantine) AS quarantined,"
            " (SELECT count(*) FROM batchpred_demo.rides) AS rides"
        ).fetchone()
    assert row["rides"] == row["published"] + row["quarantined"]
    assert 0 < row["quarantined"] < 0.05 * row["rides"]


def test_client_server_and_database_meet(demo):
    """The API answers the key that was published, and says what is wrong with others."""
    key = yesterday().toordinal() * 1_000_000
    with serving(demo) as base:
        assert (200, {"status": "ok"}) == call(f"{base}/healthz")
        status, answer = call(f"{base}/v1/jobs/rides/predictions/{key}")
        assert (200, "rides", {"ride_id": key}, {"name": "rides", "version": 1}) == (
            status, answer["job"], answer["key"], answer["model"],
        )  # fmt: skip
        assert demo("get", "rides", key, "--json", check=True).json["tip"] == answer["prediction"]["tip"]
        for path, expected in (
            ("rides/predictions/1", 404),
            ("nobody/predictions/1", 404),
            ("rides/predictions/abc", 422),
            ("rides/predictions/1/2", 422),
            ("rides/predictions/a%00b", 422),
        ):
            status, problem = call(f"{base}/v1/jobs/{path}")
            assert (expected, expected) == (status, problem["status"]), path


def test_a_key_is_wanted_where_one_was_made(demo):
    """Once a key was made only its bearer is answered; the health of the process is open."""
    token = demo("keys", "create", "shop", "--json", check=True).json["key"]
    key = yesterday().toordinal() * 1_000_000
    with serving(demo) as base:
        url = f"{base}/v1/jobs/rides/predictions/{key}"
        assert 200 == call(f"{base}/healthz")[0]
        assert [401, 401, 401, 200] == [
            call(url)[0],
            call(url, Authorization="Bearer wrong")[0],
            call(url, Authorization="Basic b3Blbi1zZXNhbWU=")[0],
            call(url, Authorization=f"Bearer {token}")[0],
        ]


def test_an_open_address_needs_a_key(batchpred):
    """Without a key the server does not listen where other machines could read."""
    result = batchpred("serve", "--host", "0.0.0.0")
    assert 2 == result.code
    assert "batchpred keys create NAME, or stay on 127.0.0.1" in result.err


def test_init_writes_a_project_that_is_sound(batchpred):
    """What `init` writes is a valid job; what it would overwrite stays."""
    batchpred("init", "churn", check=True)
    plan = batchpred("plan", "churn")
    assert (1, True) == (plan.code, "no model is called 'churn'" in plan.err)
    again = batchpred("init", "churn")
    assert (2, True) == (again.code, "exists already; nothing was written" in again.err)
    assert 2 == batchpred("init", "Churn!").code


def test_the_doctor_says_what_to_mend(demo):
    """All is well after the demo; a job whose model is missing is named with the command that mends it."""
    well = demo("doctor", "-C", "rides", "--json", check=True).json["checks"]
    assert [] == [each for each in well if not each["ok"]]
    demo("init", "churn", check=True)
    ill = demo("doctor", "--json")
    assert 1 == ill.code
    (finding,) = [each for each in ill.json["checks"] if not each["ok"]]
    assert "batchpred models push churn FILE.onnx" in finding["mend"]


def test_a_plan_writes_nothing(demo):
    """`plan` and `run --dry-run` show the same and leave the ledger as it was."""
    day = yesterday().isoformat()
    plan = demo("plan", "rides", "-C", "rides", "--date", day, "--json", check=True).json
    assert plan == demo("run", "rides", "-C", "rides", "--date", day, "--dry-run", "--json", check=True).json
    (shown,) = plan["plans"]
    assert (2000, "predictions.rides (incremental)") == (shown["rows"], shown["into"])
    assert f"'{day} 00:00:00+00:00'::timestamptz" in shown["sql"]
    assert shown["replaces"].startswith("nothing, unless --force: run 3")
    with demo.database.connect(purpose="test") as connection:
        assert 3 == connection.execute("SELECT count(*) AS n FROM batchpred.runs").fetchone()["n"]


def test_a_forced_run_swaps_whole(demo):
    """`--force` publishes a new run in the place of the old one."""
    day = yesterday().isoformat()
    (run,) = demo("run", "rides", "-C", "rides", "--date", day, "--force", "--json", check=True).json["runs"]
    assert ("published", 4) == (run["status"], run["run_id"])
    (again,) = demo("run", "rides", "-C", "rides", "--date", day, "--json", check=True).json["runs"]
    assert ("unchanged", 4) == (again["status"], again["run_id"])


def test_a_tick_runs_what_is_missing(demo):
    """`tick` runs the due interval once, and has nothing to do the second time."""
    with demo.database.connect(purpose="test") as connection:
        connection.execute("DELETE FROM batchpred.published")
    first = demo("tick", "-C", "rides", "--json", check=True).json["runs"]
    assert ["published"] == [run["status"] for run in first]
    assert {"runs": []} == demo("tick", "-C", "rides", "--json", check=True).json


def test_the_schema_is_what_editors_want(batchpred):
    """`batchpred schema` is a strict JSON Schema that names what a job cannot be without."""
    schema = batchpred("schema", check=True).json
    assert (False, {"name", "source", "key", "model", "output", "version"}) == (
        schema["additionalProperties"], set(schema["required"]),
    )  # fmt: skip


def test_the_scheduler_runs_what_is_missing_and_stops_when_told(demo):
    """`schedule` publishes the due interval by itself, survives a broken job file, and ends with 0 on SIGTERM."""
    with demo.database.connect(purpose="test") as connection:
        connection.execute("DELETE FROM batchpred.published")
        (demo.folder / "rides" / "broken.job.yaml").write_text("nonsense", encoding="utf-8")
        process = demo.start("schedule", "-C", "rides", "--every", "1")
        try:
            for _ in range(300):
                if connection.execute("SELECT count(*) AS n FROM batchpred.published").fetchone()["n"]:
                    break
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.1)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
    assert 0 == process.returncode
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert {"scheduler started", "job file refused", "run published"} <= set(events)
