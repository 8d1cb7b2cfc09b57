"""Train the demo's model on the demo's rides and write it as ONNX.

    python examples/demo/make_model.py

The result is kept in batchpred/demo/rides.onnx, so that the demo needs no scikit-learn. Running this again
gives the same predictions; the bytes may differ with the versions of the libraries.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from batchpred.demo.rides import rides_of, tips_of

NUMBERS = ["km", "fare", "hour"]
WORDS = ["payment", "district"]
TARGET = Path(__file__).resolve().parents[2] / "batchpred" / "demo" / "rides.onnx"


def frame(day: date) -> tuple[pd.DataFrame, np.ndarray]:
    """One day of rides as the demo's query gives them, and their tips; a ride of unknown payment is left out."""
    rides = rides_of(day)
    data = rides.to_pandas()
    data["hour"] = data["pickup"].dt.hour.astype("float64")
    known = data["payment"].notna().to_numpy()
    return data.loc[known, [*NUMBERS, "passengers", *WORDS]], tips_of(rides)[known]


def main() -> None:
    """Train on ten days, test on the eleventh, export with one input a column."""
    days = [frame(date(2026, 1, 1) + timedelta(days=n)) for n in range(11)]
    train, tips = pd.concat([data for data, _ in days[:-1]]), np.concatenate([tips for _, tips in days[:-1]])
    test, test_tips = days[-1]
    model = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", StandardScaler(), NUMBERS),
                ("passengers", "passthrough", ["passengers"]),
                ("words", OneHotEncoder(handle_unknown="ignore"), WORDS),
            ]
        ),
        GradientBoostingRegressor(n_estimators=60, max_depth=4, random_state=0),
    ).fit(train, tips)
    inputs = [
        *((name, FloatTensorType([None, 1])) for name in NUMBERS),
        ("passengers", Int64TensorType([None, 1])),
        *((name, StringTensorType([None, 1])) for name in WORDS),
    ]
    TARGET.write_bytes(to_onnx(model, initial_types=inputs, target_opset=18).SerializeToString())
    error = mean_absolute_error(test_tips, model.predict(test))
    print(f"mean absolute error on a day it has not seen: {error:.3f}")
    print(f"wrote {TARGET.name}, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
