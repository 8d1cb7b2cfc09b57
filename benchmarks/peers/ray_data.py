"""Ray Data's way: read_sql, map_batches, and a COPY of what comes out."""

import io
import os

import psycopg
import ray
from model import FEATURES, load

url, table = os.environ["BENCH_URL"], os.environ["BENCH_TABLE"]

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = ray.data.read_sql(f"SELECT * FROM {table}", lambda: psycopg.connect(url))
scored = rows.map_batches(
    lambda part: part[["id"]].assign(score=load()(part[FEATURES].to_numpy())), batch_format="pandas"
)
with psycopg.connect(url) as connection:
    connection.execute("DROP TABLE IF EXISTS bench_ray")
    connection.execute("CREATE TABLE bench_ray (id bigint, score float8)")
    with connection.cursor().copy("COPY bench_ray FROM STDIN (FORMAT csv)") as copy:
        for part in scored.iter_batches(batch_format="pandas"):
            text = io.StringIO()
            part.to_csv(text, index=False, header=False)
            copy.write(text.getvalue())
    connection.execute("ALTER TABLE bench_ray ADD PRIMARY KEY (id)")
