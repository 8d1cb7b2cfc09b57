"""A canary as its tests begin it, ask after it, and know which keys are its."""

import pyarrow as pa
from onnx import TensorProto, helper

from jobs.share import is_in_share
from storage import canaries, registry
from storage.job_table import Column
from storage.registry import ModelRef
from tests.integration.test_release import scorer
from tests.pushed import push_model

JOB = """\
version: 1
name: churn
source: {query: "SELECT id, x, 100 / whole AS z FROM t WHERE day = :date"}
key: [id]
model: churn@champion
output: {columns: {score: probability}}
chunk_rows: 50
"""
TABLES = """
CREATE TABLE t AS
SELECT id::bigint, (1 + sin(id))::float4 AS x, 1 AS whole, day::date
  FROM generate_series(1, 300) AS id, generate_series(date '2026-01-01', '2026-01-03', '1 day') AS day;
"""
SHARE = 0.2


def pair(weight):
    """A model of `probability` and of `vector`, weight × x twice."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "w"], ["wx"]),
            helper.make_node("Sigmoid", ["wx"], ["probability"]),
            helper.make_node("Concat", ["wx", "wx"], ["vector"], axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info(*each) for each in (
            ("probability", TensorProto.FLOAT, ["N", 1]), ("vector", TensorProto.FLOAT, ["N", 2])
        )],
        initializer=[helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def whole():
    """A model whose `probability` is an integer."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["probability"], to=TensorProto.INT64)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("probability", TensorProto.INT64, ["N", 1])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def do(database, statement, *values):
    with database.connect(purpose="test") as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def begin(database, version=2, share=SHARE):
    with database.connect(purpose="test", as_writer=True) as connection:
        found = registry.resolve(connection, ModelRef("churn", version=version))
        canaries.begin(connection, found, "champion", share)
        return found.sha256


def stands(database):
    return [each["version"] for each in do(database, "SELECT version FROM batchpred.canaries")]


def told(database):
    events = do(
        database, "SELECT kind, details ->> 'why' AS why FROM batchpred.model_events ORDER BY event_id"
    )
    return [(each["kind"], each["why"]) for each in events if "canary" in each["kind"]]


def keys_of(database, sha256, share=SHARE):
    ids = [row["id"] for row in do(database, "SELECT id FROM t WHERE day = '2026-01-02' ORDER BY id")]
    mine = is_in_share([Column("id", "bigint")], pa.table({"id": ids}), sha256, share)
    return {key for key, is_mine in zip(ids, mine.tolist(), strict=True) if is_mine}


def published(database, view="churn"):
    return do(database, f"SELECT id, score, model_name, model_version FROM predictions.{view} ORDER BY id")


def of_canary(rows):
    return {row["id"] for row in rows if row["model_version"] == 2}


def champion_and_candidate(runner, database):
    """A job of 300 keys in six chunks; its champion churn/1 says more than a half, churn/2 less."""
    run = runner(JOB, TABLES, scorer(1.0))
    push_model(database, "churn", scorer(-2.0), alias="candidate")
    return run
