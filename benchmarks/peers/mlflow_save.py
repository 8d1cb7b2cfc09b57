"""Put the model where mlflow_pyfunc.py loads it from; done once, before anything is timed."""

import os

import mlflow
from model import FOLDER, booster, logistic

if os.environ["BENCH_MODEL"] == "lightgbm":
    mlflow.lightgbm.save_model(booster(), str(FOLDER / "mlflow"))
else:
    mlflow.sklearn.save_model(
        logistic(),
        str(FOLDER / "mlflow"),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
    )
