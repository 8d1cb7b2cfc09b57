"""One input per column, with text: Arrow to predictions by batchpred, beside ONNX Runtime on prepared arrays.

    python benchmarks/text_inputs.py [--rows 500000] [--repeat 5]

Both score the same rows in the same batches with the same session options, batch after batch by one thread; what
batchpred adds is turning Arrow columns into what the model takes, looking for NULL and what does not fit, and
gathering the outputs as columns. The arrays are prepared before the clock runs.

Prints a table, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time

import numpy as np
import pandas as pd
import pyarrow as pa
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jobs.model import Model, ScoringPlan
from jobs.session import open_session
from jobs.signature import OutputColumn

NUMBERS = [f"n{i}" for i in range(5)]
BATCH_ROWS = 4096


def words(random: np.random.Generator, rows: int, kind: str) -> dict[str, np.ndarray]:
    """Three text columns: of few different values each, or one of them different in every row."""
    pools = {"plan": ["free", "basic", "plus", "team"], "country": [f"country-{i}" for i in range(40)]}
    columns = {name: random.choice(np.array(pool, dtype=object), rows) for name, pool in pools.items()}
    if kind == "all different":
        columns["campaign"] = np.array([f"campaign number {i}" for i in range(rows)], dtype=object)
    else:
        columns["campaign"] = random.choice(np.array([f"c{i}" for i in range(300)], dtype=object), rows)
    return columns


def fitted(name: str, frame: pd.DataFrame) -> bytes:
    """A pipeline over text and numbers, as ONNX with one input per column."""
    text = ["plan", "country", "campaign"]
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=300), text),
            ("numbers", StandardScaler(), NUMBERS),
        ]
    )
    last = {
        "logistic regression": LogisticRegression(max_iter=200),
        "100 boosted trees": GradientBoostingClassifier(n_estimators=100, random_state=0),
    }[name]
    answers = (frame["n0"] > 0) ^ (frame["plan"] == "free")
    pipeline = make_pipeline(columns, last).fit(frame, answers)
    types = [(each, StringTensorType([None, 1])) for each in text]
    types += [(each, FloatTensorType([None, 1])) for each in NUMBERS]
    converted = convert_sklearn(
        pipeline,
        initial_types=types,
        options={"zipmap": False},
        target_opset={"": 21, "ai.onnx.ml": 3},
    )
    return converted.SerializeToString()


def measure(model_name: str, kind: str, rows: int, repeat: int) -> dict[str, object]:
    """Seconds of both, medians of `repeat` turns taken by turns."""
    random = np.random.default_rng(20261121)
    columns = words(random, rows, kind) | {name: random.normal(size=rows) for name in NUMBERS}
    frame = pd.DataFrame({name: values[:3000] for name, values in columns.items()})
    if kind == "all different":  # the encoder knows few of them: most meet it for the first time, as in life
        frame["campaign"] = [f"c{i % 300}" for i in range(3000)]
    data = fitted(model_name, frame)
    table = pa.table(columns)
    model = Model.load(data, sha256=hashlib.sha256(data).hexdigest(), name="m", threads=1)
    plan = ScoringPlan(
        model.signature.columns({}),
        (OutputColumn("p", "probabilities", 1, "float32"), OutputColumn("l", "label", None, "bool")),
    )
    if (label := next(t for t in model.signature.outputs if t.name == "label").dtype) != "bool":
        plan = ScoringPlan(plan.features, (plan.outputs[0], OutputColumn("l", "label", None, label)))
    session = open_session(data, threads=1)
    prepared = {
        name: (values if values.dtype.kind == "O" else values.astype(np.float32)).reshape(-1, 1)
        for name, values in columns.items()
    }
    wanted = ["probabilities", "label"]
    ours, limit = _Clock(), _Clock()
    returned, scored = [], None
    for _ in range(repeat):
        limit.start()
        returned = [
            session.run(wanted, {name: values[at : at + BATCH_ROWS] for name, values in prepared.items()})
            for at in range(0, rows, BATCH_ROWS)
        ]
        limit.stop()
        ours.start()
        scored = model.score(table, plan, BATCH_ROWS)
        ours.stop()
    expected = np.concatenate([each[0][:, 1] for each in returned])
    np.testing.assert_allclose(expected, scored.columns["p"].to_numpy(), atol=1e-6)
    return {
        "model": model_name,
        "text": kind,
        "rows": rows,
        "batchpred_seconds": round(statistics.median(ours.wall), 3),
        "onnxruntime_seconds": round(statistics.median(limit.wall), 3),
        "ratio": round(statistics.median(ours.wall) / statistics.median(limit.wall), 2),
        "ratio_of_processor_seconds": round(statistics.median(ours.cpu) / statistics.median(limit.cpu), 2),
    }


class _Clock:
    """Wall and processor seconds of several turns; the second hardly notice a busy machine."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall.append(time.perf_counter() - self._began[0])
        self.cpu.append(time.process_time() - self._began[1])


def main() -> None:
    """Measure each model with each kind of text."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=500_000)
    arguments.add_argument("--repeat", type=int, default=5)
    asked = arguments.parse_args()
    results = []
    for model in ("logistic regression", "100 boosted trees"):
        for kind in ("few values", "all different"):
            results.append(measure(model, kind, asked.rows, asked.repeat))
            print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    print(json.dumps({"text_inputs": results}))


if __name__ == "__main__":
    main()
