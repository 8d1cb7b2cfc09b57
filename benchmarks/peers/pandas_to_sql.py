"""The script that everybody has: read_sql, predict, to_sql."""

import os

import pandas as pd
from model import FEATURES, load
from sqlalchemy import create_engine

engine = create_engine(os.environ["BENCH_URL"].replace("postgresql://", "postgresql+psycopg://"))
rows = pd.read_sql(f"SELECT * FROM {os.environ['BENCH_TABLE']}", engine)
rows["score"] = load()(rows[FEATURES].to_numpy())
rows[["id", "score"]].to_sql("bench_pandas", engine, if_exists="replace", index=False)
with engine.begin() as connection:
    connection.exec_driver_sql("ALTER TABLE bench_pandas ADD PRIMARY KEY (id)")
