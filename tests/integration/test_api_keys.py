"""The keys of the read API: who is let in, to what, how often, and what the database's role may do."""

from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from api import access
from api.app import create_app
from storage import api_keys
from storage.database import Database
from tests.integration.conftest import running

PATH = "/v1/jobs/churn/predictions/1"


@pytest.fixture
def connection(database):
    with database.connect(purpose="test") as connection:
        yield connection


@pytest.fixture
def served(publish_rows, make_job):
    """Two jobs with a published run each."""
    for name in ("churn", "other"):
        publish_rows(make_job(name), 5, {"id": [1], "score": [0.5]})


@pytest.fixture
def keyed(database, served):
    """A client of a server that wants keys."""
    with running(create_app(database)) as address, httpx.Client(base_url=address) as client:
        yield client


def bearer(token):
    return {"Authorization": b"Bearer " + (token if isinstance(token, bytes) else token.encode())}


def test_every_wrong_key_gets_one_answer(keyed, connection):
    """Missing, wrong, revoked, expired, non-ASCII and misplaced keys: 401 with one and the same body."""
    good = api_keys.create(connection, "service")
    revoked = api_keys.create(connection, "revoked")
    api_keys.revoke(connection, api_keys.key_id_of(revoked.encode()))
    expired = api_keys.create(connection, "expired", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    changed = good[:-1] + ("A" if good[-1] != "A" else "B")
    wrong = [
        {}, bearer("x"), bearer(changed), bearer(revoked), bearer(expired), bearer("schlüssel"),
        bearer(b"\xff\xfe"), bearer("bp_000000000000_" + "a" * 43), bearer("x" * 5000),
        {"Authorization": f"Basic {good}"}, {"X-Api-Key": good}, {"Authorization": good},
    ]  # fmt: skip
    answers = [keyed.get(PATH, headers=headers) for headers in wrong]
    answers.append(keyed.get(PATH, params={"key": good}))
    answers.append(keyed.get(PATH, headers=[("Authorization", f"Bearer {good}")] * 2))
    assert [401] * len(answers) == [answer.status_code for answer in answers]
    assert 1 == len({answer.content for answer in answers})
    assert {"Bearer"} == {answer.headers["www-authenticate"] for answer in answers}
    assert 200 == keyed.get(PATH, headers=bearer(good)).status_code


def test_what_is_refused_says_nothing_of_what_is_there(keyed):
    """Without a key unknown paths and jobs, other methods and bad input are all 401."""
    for method, path in (("GET", "/v1/none"), ("GET", "/v1/jobs/none"), ("DELETE", PATH), ("GET", PATH + "x"),
                         ("GET", "/metrics")):  # fmt: skip
        assert 401 == keyed.request(method, path).status_code
    assert 200 == keyed.get("/healthz").status_code


def test_another_tenants_job_is_like_an_unknown_one(keyed, connection):
    """A key for one job sees that job alone; the others are answered as if they were not there."""
    headers = bearer(api_keys.create(connection, "tenant", jobs=["churn"]))
    assert ["churn"] == [job["job"] for job in keyed.get("/v1/jobs", headers=headers).json()["jobs"]]
    for rest in ("", "/runs", "/predictions", "/predictions/1", "/predictions/1/history"):
        other = keyed.get(f"/v1/jobs/other{rest}", headers=headers)
        unknown = keyed.get(f"/v1/jobs/none{rest}", headers=headers)
        assert (404, 404) == (other.status_code, unknown.status_code)
        assert other.content == unknown.content
        assert 200 == keyed.get(f"/v1/jobs/churn{rest}", headers=headers).status_code
    body = {"keys": [1]}
    assert 404 == keyed.post("/v1/jobs/other/predictions:batchGet", json=body, headers=headers).status_code


def test_a_revoked_key_opens_nothing_after_the_stated_time(database, served, connection, monkeypatch):
    """A key that was used and then revoked is refused once what is remembered of it has run out."""
    monkeypatch.setattr(access, "KEY_SECONDS", 0.0)
    with running(create_app(database)) as address, httpx.Client(base_url=address) as client:
        token = api_keys.create(connection, "service")
        assert 200 == client.get(PATH, headers=bearer(token)).status_code
        api_keys.revoke(connection, api_keys.key_id_of(token.encode()))
        assert 401 == client.get(PATH, headers=bearer(token)).status_code


def test_the_first_key_ends_reading_without(database, served, connection, monkeypatch):
    """A server of this machine alone answers everybody until a key is made, and from then on asks for one."""
    monkeypatch.setattr(access, "KEY_SECONDS", 0.0)
    with running(create_app(database, keyless=True)) as address, httpx.Client(base_url=address) as client:
        assert 200 == client.get(PATH).status_code
        token = api_keys.create(connection, "service")
        assert 401 == client.get(PATH).status_code
        assert 200 == client.get(PATH, headers=bearer(token)).status_code


def test_a_key_may_ask_so_often(keyed, connection):
    """Past its requests a second a key is told to wait; other keys are not."""
    slow, free = (
        api_keys.create(connection, "slow", requests_per_second=1),
        api_keys.create(connection, "free"),
    )
    statuses = [keyed.get(PATH, headers=bearer(slow)).status_code for _ in range(20)]
    assert (200, True) == (statuses[0], 429 in statuses)
    refused = next(
        a for a in (keyed.get(PATH, headers=bearer(slow)) for _ in range(20)) if a.status_code == 429
    )
    assert "1" == refused.headers["retry-after"]
    assert [200] * 20 == [keyed.get(PATH, headers=bearer(free)).status_code for _ in range(20)]


def test_only_a_digest_is_kept(connection):
    """Nothing in the table shows the key, and two keys of one name differ."""
    tokens = [api_keys.create(connection, "service") for _ in range(2)]
    rows = connection.execute("SELECT k::text AS said FROM batchpred.api_keys AS k").fetchall()
    assert 2 == len(set(tokens)) == len(rows)
    assert [] == [row for row in rows for token in tokens if token[16:] in row["said"]]


def test_keys_that_cannot_be_meant_are_not_made(connection):
    """A key without a name, or for a job that has never run, is refused with the jobs there are."""
    with pytest.raises(api_keys.KeyOptionError, match="needs a name"):
        api_keys.create(connection, " ")
    with pytest.raises(api_keys.KeyOptionError, match="no job 'churm' has run here; there are: none yet"):
        api_keys.create(connection, "service", jobs=["churm"])
    with pytest.raises(api_keys.UnknownKeyError, match="batchpred keys list"):
        api_keys.revoke(connection, "000000000000")


@pytest.fixture
def api_login(database, connection):
    """The database as a login that has the role batchpred_api and no other right."""
    name = f"api_{datetime.now(UTC).timestamp():.6f}".replace(".", "_")
    connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'weak' IN ROLE batchpred_api")
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    yield Database.at(f"postgresql://{name}:weak@{parts['host']}:{parts['port']}/{parts['dbname']}")
    connection.execute(f"DROP ROLE {name}")


def test_the_apis_role_is_enough_to_serve(api_login, served, connection):
    """A login with the role batchpred_api answers everything the API offers."""
    headers = bearer(api_keys.create(connection, "service"))
    with running(create_app(api_login)) as address, httpx.Client(base_url=address, headers=headers) as client:
        for path in ("/v1/jobs", "/v1/jobs/churn", "/v1/jobs/churn/runs", PATH, f"{PATH}/history",
                     "/v1/jobs/churn/predictions", f"{PATH}?as_of=2026-01-05"):  # fmt: skip
            assert 200 == client.get(path).status_code, path
        assert 200 == client.post("/v1/jobs/churn/predictions:batchGet", json={"keys": [1]}).status_code


def test_the_apis_role_reads_the_served_views_and_nothing_else(api_login, served):
    """Of every table and view, the role may read those that are served, may list no key, and may write nowhere."""
    with api_login.connect(purpose="test") as reader:
        rows = reader.execute(
            "SELECT c.oid::regclass::text AS name, c.oid FROM pg_class AS c JOIN pg_namespace AS n "
            "ON n.oid = c.relnamespace WHERE n.nspname IN ('batchpred', 'batchpred_data', 'predictions') "
            "AND c.relkind IN ('r', 'p', 'v', 'm')"
        ).fetchall()
        may = {"SELECT": set(), "INSERT, UPDATE, DELETE, TRUNCATE": set()}
        for right, names in may.items():
            for row in rows:
                if reader.execute(
                    "SELECT has_table_privilege(%s::oid, %s) AS may", [row["oid"], right]
                ).fetchone()["may"]:
                    names.add(row["name"])
        assert {
            "SELECT": {
                "batchpred.alembic_version", "batchpred.served", "batchpred.served_runs", "predictions._freshness",
                "predictions._runs", "predictions.churn", "predictions.churn_history", "predictions.other",
                "predictions.other_history",
            },
            "INSERT, UPDATE, DELETE, TRUNCATE": set(),
        } == may  # fmt: skip
        for statement in ("SELECT * FROM batchpred.api_keys", "CREATE TABLE predictions.mine (a int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


def test_a_runner_cannot_make_keys(database):
    """The writer's role runs jobs; who may read is not its decision."""
    with database.connect(purpose="test", as_writer=True) as writer:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api_keys.create(writer, "mine")


def test_pages_of_other_origins_read_where_they_are_allowed(database, served, connection):
    """Without --allow-origin no answer lets a page read it; with it those origins may ask and read, others not."""
    headers = {"Origin": "https://app.example.com", **bearer(api_keys.create(connection, "page"))}
    asking = {
        "Origin": "https://app.example.com",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    allowed = []
    for origins in ((), ("https://app.example.com",), ("https://other.example.com",)):
        app = create_app(database, origins=origins)
        with running(app) as address, httpx.Client(base_url=address) as client:
            found = client.get(PATH, headers=headers)
            assert 200 == found.status_code
            asked = client.options(PATH, headers=asking)
            allowed.append([each.headers.get("access-control-allow-origin") for each in (found, asked)])
    assert [[None, None], ["https://app.example.com"] * 2, [None, None]] == allowed
