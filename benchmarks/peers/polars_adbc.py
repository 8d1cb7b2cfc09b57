"""The quick script that holds everything in memory: connectorx in, LightGBM, ADBC out."""

import os

import connectorx
import polars as pl
import psycopg
from model import FEATURES, load

url = os.environ["BENCH_URL"]
query = f"SELECT * FROM {os.environ['BENCH_TABLE']}"
rows = pl.from_arrow(connectorx.read_sql(url, query, return_type="arrow"))
scores = load()(rows.select(FEATURES).to_numpy())
result = rows.select("id").with_columns(score=pl.Series(scores, dtype=pl.Float64))
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("DROP TABLE IF EXISTS bench_polars")
result.write_database("bench_polars", url, engine="adbc", if_table_exists="replace")
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("ALTER TABLE bench_polars ADD PRIMARY KEY (id)")
