"""Dask's way: the table read in partitions, each scored, each appended with to_sql."""

import os

import dask.dataframe as dd
from model import FEATURES, load
from sqlalchemy import create_engine

url = os.environ["BENCH_URL"].replace("postgresql://", "postgresql+psycopg://")
predict = load()
rows = dd.read_sql_table(os.environ["BENCH_TABLE"], url, index_col="id", npartitions=10)
scored = rows.map_partitions(
    lambda part: part[[]].assign(score=predict(part[FEATURES].to_numpy())), meta={"score": "f8"}
)
scored.to_sql("bench_dask", url, if_exists="replace", index=True)
engine = create_engine(url)
with engine.begin() as connection:
    connection.exec_driver_sql("ALTER TABLE bench_dask ADD PRIMARY KEY (id)")
