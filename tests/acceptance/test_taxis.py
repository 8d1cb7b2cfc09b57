"""The main job on real rides: trained with scikit-learn, run by the command, read with SQL."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

TAXIS = Path(__file__).resolve().parents[3] / "shared" / "data" / "taxis.csv"
NUMBERS = ["passengers", "distance", "fare", "tolls"]
WORDS = ["color", "payment", "pickup_borough"]

pytestmark = pytest.mark.skipif(
    not TAXIS.exists(), reason="the real rides (shared/data/taxis.csv) are not here"
)

JOB = """\
version: 1
name: tips
description: Expected tip of each taxi ride
schedule: {cron: "0 3 * * *", timezone: America/New_York}
interval: day
source: {query_file: tips.sql}
key: [ride_id]
model: tips@champion
output: {columns: {tip: variable}, mode: incremental}
checks: {max_quarantined: 0.05}
"""
QUERY = """\
SELECT ride_id, passengers, distance, fare, tolls, color, payment, pickup_borough
  FROM taxis
 WHERE pickup AT TIME ZONE 'America/New_York' >= :date::timestamp
   AND pickup >= :interval_start AND pickup < :interval_end
"""


@pytest.fixture(scope="module")
def rides():
    """The rides with a key; pickup is local New York time."""
    data = pd.read_csv(TAXIS, parse_dates=["pickup"])
    data.insert(0, "ride_id", np.arange(1, len(data) + 1))
    return data


@pytest.fixture(scope="module")
def pipeline(rides):
    """Scaler, one-hot and gradient boosting, trained on the first two weeks."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    train = rides[(rides["pickup"] < "2019-03-15") & rides[WORDS].notna().all(axis=1)]
    columns = ColumnTransformer(
        [("n", StandardScaler(), NUMBERS), ("w", OneHotEncoder(handle_unknown="ignore"), WORDS)]
    )
    model = make_pipeline(columns, GradientBoostingRegressor(n_estimators=50, random_state=0))
    return model.fit(train[NUMBERS + WORDS].astype(dict.fromkeys(NUMBERS, "float32")), train["tip"])


@pytest.fixture
def project(batchpred, database, rides, pipeline):
    """The rides in a table, the model in the registry, the job in its folder."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    with database.connect(purpose="test") as connection:
        connection.execute(
            "CREATE TABLE taxis (ride_id bigint PRIMARY KEY, pickup timestamptz, passengers int, distance float8,"
            " fare float8, tolls float8, color text, payment text, pickup_borough text)"
        )
        names = ["ride_id", "pickup", *NUMBERS, *WORDS]
        local = rides.assign(pickup=rides["pickup"].dt.tz_localize("America/New_York", ambiguous=True))
        with connection.cursor().copy(f"COPY taxis ({', '.join(names)}) FROM STDIN") as copy:
            for row in local[names].itertuples(index=False):
                copy.write_row([None if pd.isna(value) else value for value in row])
    inputs = [(name, FloatTensorType([None, 1])) for name in NUMBERS]
    inputs += [(name, StringTensorType([None, 1])) for name in WORDS]
    model = to_onnx(pipeline, initial_types=inputs, target_opset=18)
    (batchpred.folder / "tips.onnx").write_bytes(model.SerializeToString())
    batchpred("models", "push", "tips", "tips.onnx", "--alias", "champion", check=True)
    batchpred.write("tips.job.yaml", JOB)
    batchpred.write("tips.sql", QUERY)
    return batchpred


def test_one_new_york_day_is_published(project, database, rides, pipeline):
    """Every ride of the local day and no other is published or set aside, with scikit-learn's own scores."""
    (run,) = project("run", "tips", "--date", "2019-03-20", "--json", check=True).json["runs"]
    day = rides[rides["pickup"].dt.strftime("%Y-%m-%d") == "2019-03-20"]
    assert ("published", "2019-03-20T00:00:00-04:00", "2019-03-21T00:00:00-04:00") == (
        run["status"], run["interval_start"], run["interval_end"],
    )  # fmt: skip
    complete = day[day[WORDS].notna().all(axis=1)]
    assert {"read": len(day), "scored": len(complete), "quarantined": len(day) - len(complete)} == run["rows"]
    expected = pipeline.predict(complete[NUMBERS + WORDS].astype(dict.fromkeys(NUMBERS, "float32")))
    with database.connect(purpose="test") as connection:
        rows = connection.execute("SELECT ride_id, tip FROM predictions.tips ORDER BY ride_id").fetchall()
        reasons = connection.execute("SELECT DISTINCT reason FROM batchpred.quarantine").fetchall()
    assert complete["ride_id"].tolist() == [row["ride_id"] for row in rows]
    np.testing.assert_allclose([row["tip"] for row in rows], expected, rtol=0, atol=1e-4)
    assert {row["reason"] for row in reasons} <= {
        f"{name} is NULL and the model's input '{name}' (string) takes no NULL" for name in WORDS
    }


def test_a_second_run_is_unchanged(project):
    """The same day with the same model and job is a no-op that names the run that stands."""
    first = project("run", "tips", "--date", "2019-03-20", "--json", check=True).json["runs"][0]
    second = project("run", "tips", "--date", "2019-03-20", "--json", check=True).json["runs"][0]
    assert ("published", "unchanged") == (first["status"], second["status"])
    assert first["run_id"] == second["run_id"]


def test_the_last_day_of_winter_time_has_all_its_rides(project, rides):
    """2019-03-10 has 23 hours in New York; the interval is cut at both local midnights."""
    (run,) = project("run", "tips", "--date", "2019-03-10", "--json", check=True).json["runs"]
    day = rides[rides["pickup"].dt.strftime("%Y-%m-%d") == "2019-03-10"]
    assert ("2019-03-10T00:00:00-05:00", "2019-03-11T00:00:00-04:00", len(day)) == (
        run["interval_start"], run["interval_end"], run["rows"]["read"],
    )  # fmt: skip


FILES = "source: {{path: {path}, time_column: pickup{types}}}"


def test_table_csv_and_parquet_give_the_same_predictions(project, database, rides):
    """The same rides as PostgreSQL table, CSV and Parquet: each prediction, and each row set aside, is the same."""
    names = ["ride_id", "pickup", *NUMBERS, *WORDS]
    rides[names].to_csv(project.folder / "rides.csv", index=False)
    rides[names].to_parquet(project.folder / "rides.parquet", index=False)
    jobs = {"tips": None, "tips_csv": "rides.csv", "tips_parquet": "rides.parquet"}
    for name, path in jobs.items():
        if path:
            types = ", types: {ride_id: integer}" if path.endswith("csv") else ""
            files = FILES.format(path=path, types=types)
            text = JOB.replace("source: {query_file: tips.sql}", files).replace("name: tips", f"name: {name}")
            project.write(f"{name}.job.yaml", text)
    reports = project("run", "--date", "2019-03-20", "--json", check=True).json["runs"]
    assert 1 == len({json.dumps(run["rows"]) for run in reports})
    assert 0 < reports[0]["rows"]["scored"]
    with database.connect(purpose="test") as connection:
        found = {
            name: connection.execute(f"SELECT ride_id, tip FROM predictions.{name} ORDER BY 1").fetchall()
            for name in jobs
        }
        aside = {
            name: connection.execute(
                "SELECT key, reason FROM batchpred.quarantine JOIN batchpred.runs USING (run_id)"
                " WHERE job = %s ORDER BY key",
                [name],
            ).fetchall()
            for name in jobs
        }
    assert found["tips"] == found["tips_csv"] == found["tips_parquet"]
    assert aside["tips"] == aside["tips_csv"] == aside["tips_parquet"]
