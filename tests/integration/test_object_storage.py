"""Files in object storage: a real S3 over HTTP, started here, and what is said where there is none."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from storage.files.columns import TimeSpan
from storage.files.pattern import parse_path
from storage.files.places import open_store
from storage.files.source import FileSource
from storage.sources import FAULT, SourceError


@pytest.fixture(scope="module")
def s3():
    """A moto server with a bucket, found by the environment's AWS_ENDPOINT_URL as any S3 would be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    given = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
             "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "moto did not start"
                time.sleep(0.05)
        system = fs.FileSystem.from_uri("s3://rides?region=us-east-1&allow_bucket_creation=true")[0]
        system.create_dir("rides")
        yield system
    finally:
        server.terminate()
        server.wait(timeout=10)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def source(path, tmp_path, **more):
    values = {"date": "2026-01-01", "year": "2026", "month": "01", "day": "01", "hour": "00"}
    return FileSource(parse_path(path), tmp_path, values, ("id",), **more)


def ids(made):
    columns = [column for column in made.describe() if column.name == "id"]
    with made.read(columns) as rows:
        return [value for batch in rows for value in batch["id"].to_pylist()]


def put(system, path, numbers):
    with system.open_output_stream(path) as out:
        pq.write_table(pa.table({"id": numbers, "x": [0.5] * len(numbers)}), out)


def test_files_are_found_and_read_in_s3(s3, tmp_path):
    """Placeholders, patterns, folders and CSV in a bucket are read in order; each file with its size and time."""
    put(s3, "rides/p/date=2026-01-01/b.parquet", [3, 4])
    put(s3, "rides/p/date=2026-01-01/a.parquet", [1, 2])
    put(s3, "rides/p/date=2026-01-02/a.parquet", [9])
    with s3.open_output_stream("rides/p/c.csv") as out:
        out.write(b"id,x\n7,1\nx,2\n")
    day = source("s3://rides/p/date={date}/*.parquet", tmp_path)
    assert ([1, 2, 3, 4], 4) == (ids(day), day.count())
    (first, *_) = day.inputs()["files"]["first"]
    info = s3.get_file_info("rides/p/date=2026-01-01/a.parquet")
    assert ["s3://rides/p/date=2026-01-01/a.parquet", info.size, info.mtime_ns] == first
    assert [1, 2, 3, 4, 9] == ids(source("s3://rides/p/**/*.parquet", tmp_path))
    span = TimeSpan("date", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    assert [9] == ids(source("s3://rides/p/date=*", tmp_path, span=span))
    table = source("s3://rides/p/c.csv", tmp_path, types={"id": "integer"})
    with table.read(table.describe()[:1]) as rows:
        (batch,) = list(rows)
    assert [7, None] == batch["id"].to_pylist()
    assert "s3://rides/p/c.csv line 3: id 'x' is no whole number" in batch[FAULT][1].as_py()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "s3://ridez/p/*.parquet",
            "s3://ridez/p/*.parquet: there is no bucket 'ridez', or it may not be seen",
        ),
        ("s3://rides/q/*.parquet", "s3://rides/q/*.parquet: there is no s3://rides/q"),
        ("s3://rides/nothing.parquet", "s3://rides/nothing.parquet: there is no s3://rides/nothing.parquet"),
    ],
)
def test_what_is_not_in_s3_is_said(s3, tmp_path, path, says):
    """A bucket, folder or file that is not there is one line."""
    put(s3, "rides/p/z.parquet", [1])
    with pytest.raises(SourceError) as caught:
        source(path, tmp_path).describe()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_the_other_stores_are_made_of_their_paths(tmp_path, monkeypatch):
    """gs://, abfs:// and az:// make the file system of their kind and name what lies there, without asking it."""
    google = open_store(parse_path("gs://b/d/*.parquet?anonymous=true"), tmp_path)
    azure = open_store(parse_path("abfs://c@acc.dfs.core.windows.net/d/*.csv"), tmp_path)
    assert ("gcs", "b/d/x", "gs://b/d/x") == (google.system.type_name, google.at("d/x"), google.name("b/d/x"))
    assert ("abfs", "c/d/x") == (azure.system.type_name, azure.at("d/x"))
    assert "abfs://c@acc.dfs.core.windows.net/d/x" == azure.name("c/d/x")
    short = open_store(parse_path("az://c@acc.dfs.core.windows.net/d/*.csv"), tmp_path)
    assert ("abfs", "az://c@acc.dfs.core.windows.net/d/x") == (short.system.type_name, short.name("c/d/x"))
