"""MLflow's way: a pyfunc model applied to a pandas frame, written with to_sql."""

import os

import lightgbm
import mlflow
import pandas as pd
from model import FEATURES, FOLDER, load
from sqlalchemy import create_engine

saved = FOLDER / f"mlflow-{os.environ['BENCH_MODEL']}"
if not saved.exists():
    if os.environ["BENCH_MODEL"] == "lightgbm":
        mlflow.lightgbm.save_model(lightgbm.Booster(model_file=str(FOLDER / "lightgbm.txt")), str(saved))
    else:
        mlflow.sklearn.save_model(
            load().__closure__[0].cell_contents, str(saved), pyfunc_predict_fn="predict_proba"
        )
model = mlflow.pyfunc.load_model(str(saved))
engine = create_engine(os.environ["BENCH_URL"].replace("postgresql://", "postgresql+psycopg://"))
rows = pd.read_sql(f"SELECT * FROM {os.environ['BENCH_TABLE']}", engine)
scores = model.predict(rows[FEATURES])
rows["score"] = scores[:, 1] if getattr(scores, "ndim", 1) == 2 else scores
rows[["id", "score"]].to_sql("bench_mlflow", engine, if_exists="replace", index=False)
with engine.begin() as connection:
    connection.exec_driver_sql("ALTER TABLE bench_mlflow ADD PRIMARY KEY (id)")
