"""Small models, and rows to score with them."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobs.model import Model, ScoringPlan
from tests.unit import onnx_models as models


class Ref(NamedTuple):
    """A model output as a job file names it."""

    name: str
    index: int | None = None
    is_vector: bool = False


MATRIX = {"a": "float32", "b": None, "c": None, "d": None}


def load(data):
    """The model in these bytes, under its true digest."""
    return Model.load(data, sha256=hashlib.sha256(data).hexdigest(), name="m/1", threads=1)


def plan_of(model, features=None, **outputs):
    """A plan for a job's `features` and `columns`; an output is given as a name or a (name, index)."""
    refs = {column: Ref(*([ref] if isinstance(ref, str) else ref)) for column, ref in outputs.items()}
    return ScoringPlan(model.signature.columns(features or {}), model.signature.output_columns(refs))


def score(data, columns, *, features=None, batch_size=4, **outputs):
    """Score `columns` with the model in `data`; the output is y unless others are named."""
    model = load(data)
    rows = columns if isinstance(columns, pa.RecordBatch) else pa.RecordBatch.from_pydict(columns)
    return model.score(rows, plan_of(model, features, **(outputs or {"y": "y"})), batch_size)


def identity(element, shape=("N",)):
    """A model that returns what it is given."""
    return models.one_node("Identity", element, list(shape))


def taxi_rides(count=5000):
    """Rides as a source gives them: 64-bit numbers, some missing, and a payment that was never trained on."""
    random = np.random.default_rng(11)
    return pa.table(
        {
            "ride": pa.array(np.arange(count)),
            "payment": pa.array(random.choice(["card", "cash", "app", "voucher"], count)),
            "distance": pa.array(random.gamma(2, 2, count).astype(np.float32)),
            "fare": pa.array(random.normal(10, 5, count)),
        }
    )
