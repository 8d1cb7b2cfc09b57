"""The same rows in Feast: its feature server over PostgreSQL, one worker. Runs in an environment of its own.

    python feast_server.py FOLDER HOST PORT USER DATABASE ROWS SERVE_PORT     the password in PGPASSWORD

Writes ROWS rows into the online store, says READY, and becomes `feast serve`.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

CONFIG = """
project: bench
registry: {folder}/registry.db
provider: local
entity_key_serialization_version: 3
online_store:
  type: postgres
  host: {host}
  port: {port}
  database: {database}
  db_schema: feast
  user: {user}
  password: {password}
  sslmode: prefer
"""
# Asked for with a one before eight digits, so that every request is of one length.
_FIRST = 100_000_001
_AT_ONCE = 10_000


def main() -> None:
    """Fill the store and serve."""
    folder, host, port, user, database, rows, serve_port = sys.argv[1:]
    password = os.environ["PGPASSWORD"]
    text = CONFIG.format(folder=folder, host=host, port=port, database=database, user=user, password=password)
    (Path(folder) / "feature_store.yaml").write_text(text)
    now = datetime.now(UTC)
    source = Path(folder) / "rows.parquet"
    ids = np.arange(_FIRST, _FIRST + int(rows))
    frame = pd.DataFrame({
        "id": ids, "score": np.random.default_rng(1).random(len(ids)), "label": ids % 2, "event_timestamp": now,
    })  # fmt: skip
    frame.head(1).to_parquet(source)
    store = FeatureStore(folder)
    entity = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
    kinds = (("id", Int64), ("score", Float64), ("label", Int64))
    view = FeatureView(
        name="predictions", entities=[entity], ttl=timedelta(days=30),
        schema=[Field(name=name, dtype=kind) for name, kind in kinds],
        source=FileSource(path=str(source), timestamp_field="event_timestamp"),
    )  # fmt: skip
    store.apply([entity, view])
    for start in range(0, len(frame), _AT_ONCE):
        store.write_to_online_store("predictions", frame.iloc[start : start + _AT_ONCE])
    print("READY", flush=True)
    feast = str(Path(sys.executable).with_name("feast"))
    # By default its worker is ended and replaced after a thousand requests, which resets every connection.
    steady = ["--max-requests", "0", "--max-requests-jitter", "0"]
    os.execv(feast, [feast, "-c", folder, "serve", "-p", serve_port, "-w", "1", "--no-access-log", *steady])


if __name__ == "__main__":
    main()
