"""MLflow's way: a pyfunc model applied to a pandas frame, written with to_sql."""

import os

import mlflow
import pandas as pd
from model import FEATURES, FOLDER
from sqlalchemy import create_engine

model = mlflow.pyfunc.load_model(str(FOLDER / "mlflow"))
engine = create_engine(os.environ["BENCH_URL"].replace("postgresql://", "postgresql+psycopg://"))
rows = pd.read_sql(f"SELECT * FROM {os.environ['BENCH_TABLE']}", engine)
scores = model.predict(rows[FEATURES])
rows["score"] = scores[:, 1] if scores.ndim == 2 else scores
rows[["id", "score"]].to_sql("bench_mlflow", engine, if_exists="replace", index=False)
with engine.begin() as connection:
    connection.exec_driver_sql("ALTER TABLE bench_mlflow ADD PRIMARY KEY (id)")
