"""A job whose model version has a reference profile, and days of rows to hold against it."""

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper

from jobs.onnx_file import prepare
from jobs.profile import make_profile
from storage import registry

JOB = """\
version: 1
name: churn
source: {query: "SELECT * FROM t WHERE day = :date"}
key: [id]
model: churn@champion
output: {columns: {score: probability, label: label}}
checks: {max_quarantined: 1, min_rows: 0}
chunk_rows: 300
drift: {on_alert: block}
"""
COLUMNS = {"x": "float8", "flat": "float8", "flag": "boolean", "plan": "text"}
TEXT, FLOAT = TensorProto.STRING, TensorProto.FLOAT


def scorer(weight=1.0):
    """Sigmoid of weight * x, where x may be NULL, and the plan as a label; `flat` and `flag` count for nothing."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["none"]),
        helper.make_node("Where", ["none", "zero", "x"], ["there"]),
        helper.make_node("Mul", ["there", "w"], ["weighed"]),
        helper.make_node("Mul", ["flat", "zero"], ["nought"]),
        helper.make_node("Add", ["weighed", "nought"], ["more"]),
        helper.make_node("Mul", ["flag", "zero"], ["nothing"]),
        helper.make_node("Add", ["more", "nothing"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
        helper.make_node("Identity", ["plan"], ["label"]),
    ]
    numbers = {"zero": 0.0, "w": weight}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, TEXT if name == "plan" else FLOAT, ["N", 1])
            for name in COLUMNS
        ],
        [
            helper.make_tensor_value_info(name, TEXT if name == "label" else FLOAT, ["N", 1])
            for name in ("probability", "label")
        ],
        initializer=[helper.make_tensor(name, FLOAT, [1], [value]) for name, value in numbers.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


def rows(count, seed=0):
    """Rows as the version was made with: normal, constant, one in ten true, three plans."""
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=count).round(1),
        "flat": np.full(count, 5.0),
        "flag": random.random(count) < 0.1,
        "plan": random.choice(["basic", "plus", "pro"], count, p=[0.6, 0.3, 0.1]).astype(object),
    }


def reference(weight=1.0):
    """The profile of 5,000 such rows and of what the scorer says of them."""
    made = rows(5_000, seed=99)
    score = 1 / (1 + np.exp(-weight * made["x"].astype(np.float32)))
    table = pa.table({name: pa.array(values.tolist()) for name, values in made.items()})
    return make_profile(table, {"probability": score.astype(np.float32), "label": made["plan"]})


class Drifting:
    """The project: `command`, its database, and the day that is filled next."""

    def __init__(self, command, database, folder):
        self.command, self._database, self.folder = command, database, folder
        self._days = 0
        self.job()
        with database.connect(purpose="test") as connection:
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            connection.execute(f"CREATE TABLE t (day date, id bigint, {columns})")

    def job(self, text=JOB):
        """Write the job file."""
        (self.folder / "churn.job.yaml").write_text(text)

    def push(self, data, profile=None, alias=None):
        """Push a version, with a profile as `batchpred.push` would or as a mere file."""
        prepared = prepare(data)
        with self._database.connect(purpose="test", as_writer=True) as connection:
            registry.push(
                connection,
                "churn",
                prepared.data,
                described=prepared.described,
                source="a test",
                alias=alias,
                facts=registry.Facts(profile=profile),
            )

    def fill(self, **changed):
        """Fill the next day with 1,000 rows, columns as they were or `changed`, and return the day."""
        self._days += 1
        day = f"2026-01-{self._days:02}"
        made = {**rows(1_000, seed=self._days), **changed}
        count = min(len(values) for values in made.values())
        with (
            self._database.connect(purpose="test") as connection,
            connection.cursor().copy(f"COPY t (day, id, {', '.join(COLUMNS)}) FROM STDIN") as copy,
        ):
            for place in range(count):
                copy.write_row((day, place, *(made[name][place] for name in COLUMNS)))
        return day

    def run(self, day, *words):
        """Run the day, and give exit code and report."""
        code, told = self.command("run", "churn", "--date", day, *words, "--json")
        return code, told["runs"][0] if isinstance(told, dict) else told
