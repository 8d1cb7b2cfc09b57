"""Rows that are broken in many ways: each is set aside with its reason, and the good ones are published."""

from onnx import TensorProto, helper

ROWS = 2_000
JOB = """\
version: 1
name: broken
source:
  query: SELECT id, x, small, whole, place, plan, paid FROM rows WHERE :date IS NOT NULL
key: [id]
features: {x: float32, small: int32, whole: int64, place: int64, plan: string, paid: bool}
model: broken@champion
output: {columns: {score: score, plan_seen: plan_seen}}
checks: {max_quarantined: 0.02}
chunk_rows: 700
batch_size: 256
"""
TABLE = f"""
CREATE TABLE rows AS
SELECT 'k' || lpad(i::text, 5, '0') AS id, 1 + i / 7.0::float8 AS x, i::bigint AS small, (2 * i)::float8 AS whole,
       (i % 3)::bigint AS place, 'p' || i % 5 AS plan, i % 2 = 0 AS paid
  FROM generate_series(1, {ROWS}) AS i
"""
# What is broken, and what quarantine must say; twenty rows, one in a hundred.
WAYS = {
    "x = 'Infinity'": "x is infinite",
    "x = 1e300": "x 1e300 does not fit float32",
    "x = 0": "the model returned infinity for score",
    "x = -1": "the model returned NaN for score",
    "x = NULL": "the model returned NaN for score",
    "small = 1099511627776": "small 1099511627776 does not fit the model's input 'small' (int32)",
    "small = NULL": "small is NULL and the model's input 'small' (int32) takes no NULL",
    "whole = 1.5": "whole 1.5 does not fit the model's input 'whole' (int64)",
    "place = 7": "the model fails on this row: Gather: indices element out of data bounds, idx=7",
    "plan = NULL": "plan is NULL and the model's input 'plan' (string) takes no NULL",
    "paid = NULL": "paid is NULL and the model's input 'paid' (bool) takes no NULL",
    "id = NULL": "key column id is NULL",
    "id = repeat('k', 1001)": "key column id is longer than 1000 bytes",
}
STEP = 97  # rows apart, so that batches hold none, one and two of them
CONTENTS = "SELECT id, score, plan_seen FROM predictions.broken ORDER BY id"


def model():
    """Score = log(x) + table[place] + small + whole + paid: each input can spoil it in a way of its own."""
    number, steps = TensorProto.FLOAT, []
    inputs = {
        "x": number,
        "small": TensorProto.INT32,
        "whole": TensorProto.INT64,
        "place": TensorProto.INT64,
        "plan": TensorProto.STRING,
        "paid": TensorProto.BOOL,
    }
    steps.append(helper.make_node("Log", ["x"], ["log"]))
    steps.append(helper.make_node("Gather", ["table", "place"], ["looked_up"], axis=0))
    steps += [
        helper.make_node("Cast", [name], [f"{name}_number"], to=number) for name in ("small", "whole", "paid")
    ]
    summed = ["log", "looked_up", "small_number", "whole_number", "paid_number"]
    steps.append(helper.make_node("Sum", summed, ["score"]))
    steps.append(helper.make_node("Identity", ["plan"], ["plan_seen"]))
    graph = helper.make_graph(
        steps,
        "g",
        [helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in inputs.items()],
        [
            helper.make_tensor_value_info("score", number, ["N"]),
            helper.make_tensor_value_info("plan_seen", TensorProto.STRING, ["N"]),
        ],
        initializer=[helper.make_tensor("table", number, [3], [0.5, 1.0, 1.5])],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def test_each_bad_row_is_in_quarantine_with_its_reason_and_the_others_are_published(runner, database):
    """Broken in thirteen ways, one row in a hundred: the good ones equal a clean run's, the bad ones say why."""
    run = runner(JOB, TABLE, model())
    broken = [(STEP * number, way) for number, way in enumerate(list(WAYS) + list(WAYS)[:7], start=1)]
    with database.connect(purpose="test") as connection:
        for row, _ in broken:
            connection.execute("CREATE TABLE IF NOT EXISTS kept AS TABLE rows WITH NO DATA")
            connection.execute(f"INSERT INTO kept SELECT * FROM rows WHERE small = {row}")
            connection.execute(f"DELETE FROM rows WHERE small = {row}")
        assert "published" == run().status
        clean = connection.execute(CONTENTS).fetchall()
        connection.execute("ALTER TABLE rows ADD COLUMN n bigint")
        connection.execute("INSERT INTO rows SELECT *, small FROM kept")
        for row, way in broken:
            connection.execute(f"UPDATE rows SET {way} WHERE n = {row}")
        report = run(force=True)
        assert ("published", None) == (report.status, report.error)
        assert {"read": ROWS, "scored": ROWS - 20, "quarantined": 20} == report.rows
        assert ROWS - 20 == len(clean)
        assert clean == connection.execute(CONTENTS).fetchall()
        found = connection.execute(
            "SELECT key ->> 'id' AS id, reason, features FROM batchpred.quarantine WHERE run_id = %s",
            [report.run_id],
        ).fetchall()
    assert sorted(WAYS[way] for _, way in broken) == sorted(_up_to_numbers(row["reason"]) for row in found)
    # and each reason stands with the row it is about
    reasons = {row["id"]: row for row in found}
    for row, way in broken:
        if not way.startswith("id"):
            assert WAYS[way] == _up_to_numbers(reasons[f"k{row:05}"]["reason"])
    assert ("inf", 97) == (reasons["k00097"]["features"]["x"], reasons["k00097"]["features"]["small"])


def _up_to_numbers(reason):
    """ONNX Runtime goes on to say which bounds."""
    return reason.partition(" must be within")[0]


def test_rows_the_model_fails_on_are_found_wherever_they_lie(runner, database):
    """At the edges of batches and chunks the halving finds the very rows, and scores their neighbours."""
    bad = [1, 256, 699, 701, 702, ROWS]
    run = runner(JOB, f"{TABLE}; UPDATE rows SET place = -9 WHERE small IN ({str(bad)[1:-1]})", model())
    report = run()
    assert ("published", len(bad)) == (report.status, report.rows["quarantined"])
    with database.connect(purpose="test") as connection:
        rows = connection.execute("SELECT key, reason FROM batchpred.quarantine ORDER BY key").fetchall()
    assert [f"k{row:05}" for row in bad] == [row["key"]["id"] for row in rows]
    assert all("idx=-9" in row["reason"] for row in rows)
