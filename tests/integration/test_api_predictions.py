"""The read API's answers: one key, its history, several keys and pages, each from one published state."""

import uuid
from datetime import date
from urllib.parse import quote

import pytest


def get(api, path, **options):
    answer = api.get(path, **options)
    assert 200 == answer.status_code, answer.text
    return answer.json()


def test_a_key_is_answered_with_where_it_comes_from(api, publish_rows, make_job):
    """The current prediction of a key carries run, model, interval and time, and the run as its ETag."""
    run = publish_rows(make_job(), 5, {"id": [42], "score": [0.5]}, version=3)
    answer = api.get("/v1/jobs/churn/predictions/42")
    body = answer.json()
    assert body.pop("scored_at").endswith("Z")
    assert {
        "job": "churn",
        "key": {"id": 42},
        "prediction": {"score": 0.5},
        "run_id": run,
        "model": {"name": "churn", "version": 3},
        "interval_start": "2026-01-05T00:00:00Z",
        "interval_end": "2026-01-06T00:00:00Z",
        "as_of_date": "2026-01-05",
    } == body
    assert (f'"{run}"', str(run)) == (answer.headers["etag"], answer.headers["batchpred-run"])
    assert "max-age=1" in answer.headers["cache-control"]


def test_what_a_client_has_is_not_sent_again(api, publish_rows, make_job):
    """If-None-Match with the run's tag is answered 304 until another run is published; 404 without a prediction."""
    publish_rows(make_job(), 5, {"id": [42], "score": [0.5]})
    tag = api.get("/v1/jobs/churn/predictions/42").headers["etag"]
    again = api.get("/v1/jobs/churn/predictions/42", headers={"If-None-Match": f'W/"x", {tag}'})
    assert (304, b"", tag) == (again.status_code, again.content, again.headers["etag"])
    for path, said, status in (
        ("/42", "*", 304), ("/43", tag, 404), ("/43", "*", 404), ("/43?as_of=2026-01-05", tag, 404),
    ):  # fmt: skip
        answer = api.get(f"/v1/jobs/churn/predictions{path}", headers={"If-None-Match": said})
        assert status == answer.status_code, (path, said)
    publish_rows(make_job(), 6, {"id": [42], "score": [0.6]})
    fresh = api.get("/v1/jobs/churn/predictions/42", headers={"If-None-Match": tag})
    assert (200, 0.6) == (fresh.status_code, fresh.json()["prediction"]["score"])


def test_a_stale_job_says_so(api, publish_rows, make_job):
    """Past late_after every answer has a header, and the job says it is late; one without promise never is."""
    publish_rows(make_job(), 5, {"id": [1], "score": [0.5]})
    publish_rows(make_job("calm", late_after=None), 5, {"id": [1], "score": [0.5]})
    stale = api.get("/v1/jobs/churn/predictions/1").headers["batchpred-stale"]
    assert "late since 2026-01-07T02:00:00Z" == stale
    assert "batchpred-stale" not in api.get("/v1/jobs/calm/predictions/1").headers
    assert {"churn": True, "calm": None} == {job["job"]: job["late"] for job in get(api, "/v1/jobs")["jobs"]}


def test_an_interval_is_asked_for_by_its_date(api, publish_rows, make_job):
    """`as_of` answers from the interval of that local date, and 404 where none is published."""
    first = publish_rows(make_job(), 5, {"id": [1], "score": [0.5]})
    publish_rows(make_job(), 6, {"id": [2], "score": [0.6]})
    body = get(api, "/v1/jobs/churn/predictions/1?as_of=2026-01-05")
    assert (first, 0.5) == (body["run_id"], body["prediction"]["score"])
    assert 404 == api.get("/v1/jobs/churn/predictions/1").status_code
    assert 404 == api.get("/v1/jobs/churn/predictions/1?as_of=2026-01-04").status_code


ODD = ["a b", "a/b", "history", "ü%", "..", "", "'; DROP TABLE x; --", "%s{}", "日本", "a+b&c=d#e?", "\t\n"]


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_text_keys_may_hold_any_character(api, publish_rows, make_job, mode):
    """A text key is found whatever its characters, percent-encoded in the path or in a batch."""
    publish_rows(
        make_job(mode=mode, name_="text"), 5, {"name_": ODD, "score": [float(n) for n in range(len(ODD))]}
    )
    # A dot segment is the client's to fold: only raw paths keep it, so it is asked for in the batch below.
    for place, key in enumerate(ODD):
        if key != "..":
            body = get(api, f"/v1/jobs/churn/predictions/{quote(key, safe='')}")
            assert (key, float(place)) == (body["key"]["name_"], body["prediction"]["score"])
    batch = api.post("/v1/jobs/churn/predictions:batchGet", json={"keys": [*ODD, "no"]}).json()
    assert ODD == [each["key"]["name_"] for each in batch["predictions"]]
    assert [{"name_": "no"}] == batch["missing"]


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
@pytest.mark.parametrize(
    ("kind", "stored", "asked"),
    [
        ("integer", -(2**63), str(-(2**63))),
        ("integer", 7, "%2B7"),
        ("uuid", str(uuid.UUID(int=5)), str(uuid.UUID(int=5)).upper().replace("-", "")),
        ("date", date(2026, 2, 28), "2026-02-28"),
    ],
)
def test_keys_of_every_kind(api, publish_rows, make_job, *, mode, kind, stored, asked):
    """Integer, uuid and date keys are found as people write them."""
    publish_rows(make_job(mode=mode, k=kind), 5, {"k": [stored], "score": [0.5]})
    shown = stored.isoformat() if kind == "date" else stored
    assert {"k": shown} == get(api, f"/v1/jobs/churn/predictions/{asked}")["key"]
    assert {"k": shown} == get(api, f"/v1/jobs/churn/predictions/{asked}/history")["key"]


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_composite_keys(api, publish_rows, make_job, mode):
    """A key of several columns is path parts in order, or a list or object in a batch; its parts may be odd."""
    job = make_job(mode=mode, shop="integer", item="text", on="date")
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    publish_rows(job, 5, {"shop": [1, 1], "item": ["a/b", "history"], "on": days, "score": [0.1, 0.2]})
    path = "/v1/jobs/churn/predictions"
    assert 0.1 == get(api, f"{path}/1/a%2Fb/2026-01-01")["prediction"]["score"]
    assert 1 == len(get(api, f"{path}/1/a%2Fb/2026-01-01/history")["predictions"])
    assert 404 == api.get(f"{path}/2/a%2Fb/2026-01-01").status_code
    keys = [
        [1, "history", "2026-01-02"],
        {"on": "2026-01-01", "item": "a/b", "shop": 1},
        [1, "a", "2026-01-01"],
    ]
    batch = api.post(f"{path}:batchGet", json={"keys": keys}).json()
    assert [0.2, 0.1] == [each["prediction"]["score"] for each in batch["predictions"]]
    assert [{"shop": 1, "item": "a", "on": "2026-01-01"}] == batch["missing"]


def test_a_last_part_history_is_told_by_the_number_of_parts(api, publish_rows, make_job):
    """`/a/history` is a key where the job's key has two columns, and a history where it has one."""
    publish_rows(make_job(a="text", b="text"), 5, {"a": ["x"], "b": ["history"], "score": [0.1]})
    publish_rows(make_job("one", a="text"), 5, {"a": ["x"], "score": [0.2]})
    assert 0.1 == get(api, "/v1/jobs/churn/predictions/x/history")["prediction"]["score"]
    assert 1 == len(get(api, "/v1/jobs/churn/predictions/x/history/history")["predictions"])
    assert 1 == len(get(api, "/v1/jobs/one/predictions/x/history")["predictions"])


def test_a_job_may_be_called_as_a_part_of_the_path(api, publish_rows, make_job):
    """The job `predictions` is read like any other: its key begins behind the word that stands there twice."""
    publish_rows(make_job("predictions", a="text"), 5, {"a": ["x"], "score": [0.1]})
    for rest in ("x", "x?as_of=2026-01-05"):
        assert 0.1 == get(api, f"/v1/jobs/predictions/predictions/{rest}")["prediction"]["score"]
    assert 1 == len(get(api, "/v1/jobs/predictions/predictions/x/history")["predictions"])


def test_incremental_jobs_answer_with_each_keys_newest_interval(api, publish_rows, make_job):
    """Current is each key's newest interval, whoever wrote last; every prediction names its own run."""
    job = make_job(mode="incremental")
    second = publish_rows(job, 2, {"id": [1, 2], "score": [0.1, 0.2]})
    third = publish_rows(job, 3, {"id": [2, 3], "score": [0.3, 0.4]})
    publish_rows(job, 1, {"id": [1, 9], "score": [0.8, 0.9]})
    body = get(api, "/v1/jobs/churn/predictions/1")
    assert (0.1, second, "2026-01-02") == (body["prediction"]["score"], body["run_id"], body["as_of_date"])
    batch = api.post("/v1/jobs/churn/predictions:batchGet", json={"keys": [1, 2, 3]}).json()
    assert [(0.1, second), (0.3, third), (0.4, third)] == [
        (each["prediction"]["score"], each["run_id"]) for each in batch["predictions"]
    ]
    assert {second, third} == {run["run_id"] for run in batch["runs"]}
    page = get(api, "/v1/jobs/churn/predictions")
    assert [0.1, 0.3, 0.4, 0.9] == [each["prediction"]["score"] for each in page["predictions"]]


def test_history_is_newest_first_and_pages(api, publish_rows, make_job):
    """History lists every published interval of a key once, newest first, page by page."""
    for day in (2, 1, 3):
        publish_rows(make_job(), day, {"id": [1], "score": [day / 10]})
    publish_rows(make_job(), 2, {"id": [1], "score": [0.9]}, version=2)
    path = "/v1/jobs/churn/predictions/1/history"
    first = get(api, f"{path}?limit=2")
    rest = get(api, f"{path}?limit=2&cursor={first['next_cursor']}")
    assert [0.3, 0.9] == [each["prediction"]["score"] for each in first["predictions"]]
    assert ([0.1], None) == (
        [each["prediction"]["score"] for each in rest["predictions"]],
        rest["next_cursor"],
    )
    assert 404 == api.get("/v1/jobs/churn/predictions/7/history").status_code


def read_pages(api, path, between=lambda: None):
    """Read all pages and return the scores; `between` happens after the first."""
    body = get(api, path)
    scores = [each["prediction"]["score"] for each in body["predictions"]]
    between()
    while body["next_cursor"]:
        body = get(api, f"{path.partition('?')[0]}?limit=2&cursor={body['next_cursor']}")
        scores += [each["prediction"]["score"] for each in body["predictions"]]
    return scores


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_pages_are_of_one_published_state(api, publish_rows, make_job, mode):
    """A publish in the middle of a reading changes nothing of it; the next reading sees it."""
    job = make_job(mode=mode, a="text", b="integer")
    rows = {"a": ["x", "x", "y", "z", "z"], "b": [1, 2, 1, 1, 3], "score": [0.1, 0.2, 0.3, 0.4, 0.5]}
    publish_rows(job, 2, rows)
    path = "/v1/jobs/churn/predictions?limit=2"
    newer = {**rows, "score": [0.9] * 5}
    assert rows["score"] == read_pages(api, path, lambda: publish_rows(job, 3, newer))
    assert [0.9] * 5 == read_pages(api, path)
    assert rows["score"] == read_pages(api, f"{path}&as_of=2026-01-02")


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_a_cursor_of_a_replaced_run_is_gone(api, publish_rows, make_job, mode):
    """Where the run that a reading began with is replaced, its cursor is answered 410."""
    publish_rows(make_job(mode=mode), 2, {"id": [1, 2], "score": [0.1, 0.2]})
    cursor = get(api, "/v1/jobs/churn/predictions?limit=1")["next_cursor"]
    publish_rows(make_job(mode=mode), 2, {"id": [1, 2], "score": [0.1, 0.2]}, version=2)
    answer = api.get(f"/v1/jobs/churn/predictions?limit=1&cursor={cursor}")
    assert (410, "Gone") == (answer.status_code, answer.json()["title"])


def test_jobs_and_runs_say_what_is_served(api, publish_rows, make_job):
    """A job names its key, outputs, model and newest run; its runs are listed newest interval first."""
    runs = {day: publish_rows(make_job(), day, {"id": [1, 2], "score": [0.1, 0.2]}) for day in (2, 3, 1)}
    job = get(api, "/v1/jobs/churn")
    assert ([{"name": "id", "type": "integer"}], [{"name": "score", "type": "double precision"}], 7200) == (
        job["key"], job["outputs"], job["late_after_seconds"],
    )  # fmt: skip
    assert (runs[3], "a" * 64, 2) == (
        job["current"]["run_id"], job["current"]["model"]["sha256"], job["current"]["predictions"],
    )  # fmt: skip
    first = get(api, "/v1/jobs/churn/runs?limit=2")
    rest = get(api, f"/v1/jobs/churn/runs?limit=2&cursor={first['next_cursor']}")
    assert [runs[3], runs[2], runs[1]] == [run["run_id"] for run in first["runs"] + rest["runs"]]


def test_numbers_that_json_lacks_are_texts(api, publish_rows, make_job):
    """NaN and the infinities are texts, NULL is null: each stays what it was."""
    job = make_job(outputs=("a", "b", "c", "d"))
    row = {"a": [float("nan")], "b": [float("-inf")], "c": pa_null(), "d": [1e300]}
    publish_rows(job, 2, {"id": [1], **row})
    assert {"a": "NaN", "b": "-Infinity", "c": None, "d": 1e300} == get(api, "/v1/jobs/churn/predictions/1")[
        "prediction"
    ]


def pa_null():
    import pyarrow as pa

    return pa.array([None], pa.float64())
