"""Files as a source: found, described, cut to the interval, cast, and their bad rows named."""

# ruff: noqa: DTZ001  # clock faces without a zone are among what is tested

import gzip
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from jobs.file_source import file_source
from jobs.interval import interval_containing, interval_named
from jobs.jobfile import load_job
from jobs.unreadable import FAULT
from storage.files import csv_blocks
from storage.files.binary import ParquetData
from storage.files.pattern import FilePathError, parse_path
from storage.files.source import UntypedKeyError
from storage.sources import SourceError

JOB = """\
version: 1
name: j
interval: {interval}
schedule: {{cron: "0 3 * * *", timezone: {zone}}}
source: {source}
key: [id]
model: m@champion
output: {{columns: {{score: y}}}}
"""
NOW = datetime(2027, 1, 1, tzinfo=UTC)
DTYPES = {"x": "float32", "t": "string", "n": "int64", "b": "bool"}


@pytest.fixture
def source(tmp_path):
    """The files of a job's source for one interval, in the test's own folder."""

    def made(text, day="2026-01-01", interval="day", zone="UTC", dtypes=DTYPES):
        path = tmp_path / "j.job.yaml"
        path.write_text(JOB.format(source=text, interval=interval, zone=zone), encoding="utf-8")
        job_file = load_job(path, {})
        chosen = interval_named(day, interval, ZoneInfo(zone), NOW) if isinstance(day, str) else day
        return file_source(job_file, chosen, dtypes)

    return made


def read(source, *names):
    described = {column.name: column for column in source.describe()}
    with source.read([described[name] for name in names]) as rows:
        batches = list(rows)
    return pa.Table.from_batches(batches) if batches else None


def good(source, *names):
    table = read(source, *names)
    return [] if table is None else table.filter(pa.compute.is_null(table[FAULT])).select(names).to_pylist()


def faults(source, *names):
    import json

    table = read(source, *names)
    return [json.loads(text) for text in table[FAULT].drop_null().to_pylist()]


def ids(source):
    return [row["id"] for row in good(source, "id")]


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_a_pattern_names_files_in_order(source, tmp_path):
    """A file, a folder with what is below it, * and ** name files; those that begin with . or _ are left out."""
    for number, name in enumerate(
        ("b/2.parquet", "a/1.parquet", "a/x/3.parquet", "a/_tmp.parquet", "a/.h.parquet")
    ):
        write(tmp_path / "d" / name, {"id": [number]})
    assert [1] == ids(source("{path: d/a/1.parquet, bounded: false}"))
    assert [1, 2] == ids(source("{path: d/a, bounded: false}"))
    assert [1, 0] == ids(source("{path: d/*/*.parquet, bounded: false}"))
    assert [1, 2, 0] == ids(source("{path: d/**/*.parquet, bounded: false}"))
    assert [1, 2, 0] == ids(source("{path: d/**, bounded: false}"))
    assert [1, 2] == ids(source(f'{{path: "{tmp_path}/d/[a]/", bounded: false}}'))


def test_a_folder_that_matches_is_not_read_twice(source, tmp_path):
    """A folder x.parquet and the parts in it both match **/*.parquet; each part is read once."""
    write(tmp_path / "d" / "x.parquet" / "part-0.parquet", {"id": [1]})
    assert [1] == ids(source("{path: d/**/*.parquet, bounded: false}"))


def test_placeholders_are_the_interval(source, tmp_path):
    """{date}, {year}, {month}, {day} and {hour} are the interval's start in the job's zone."""
    write(tmp_path / "d" / "date=2026-03-29" / "a.parquet", {"id": [1]})
    write(tmp_path / "d" / "2026" / "03" / "29" / "07.parquet", {"id": [2]})
    assert [1] == ids(source('{path: "d/date={date}/*.parquet"}', "2026-03-29", zone="Europe/Berlin"))
    hourly = '{path: "d/{year}/{month}/{day}/{hour}.parquet"}'
    assert [2] == ids(source(hourly, "2026-03-29T07", interval="hour", zone="Europe/Berlin"))


def test_a_folder_says_the_date_and_the_key(source, tmp_path):
    """A time column may be a folder's; other folders are not opened, and a folder's value may be in the key."""
    for day in (1, 2, 8):
        write(tmp_path / "d" / f"day=2026-01-{day:02}" / "id=5" / "a.parquet", {"x": [float(day)]})
    (tmp_path / "d" / "day=2026-01-09").mkdir()
    (tmp_path / "d" / "day=2026-01-09" / "a.parquet").write_bytes(b"not read")
    weekly = source("{path: d, time_column: day, types: {id: integer}}", "2025-12-29", interval="week")
    assert [{"id": 5, "x": 1.0}, {"id": 5, "x": 2.0}] == good(weekly, "id", "x")
    assert 2 == weekly.count()


NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_the_interval_is_cut_out_of_a_time_column(source, tmp_path, unit):
    """[start, end) of moments with a zone, and of clock faces in the job's zone, is what is read."""
    moments = [datetime(2026, 1, 1, 4, 59, 59), datetime(2026, 1, 1, 5), datetime(2026, 1, 2, 4, 59, 59),
               datetime(2026, 1, 2, 5), None]  # fmt: skip
    aware = pa.array(moments, pa.timestamp(unit, "UTC"))
    faces = pa.array([datetime(2025, 12, 31, 23, 59, 59), datetime(2026, 1, 1), datetime(2026, 1, 1, 23, 59, 59),
                      datetime(2026, 1, 2), None], pa.timestamp(unit))  # fmt: skip
    write(tmp_path / "a.parquet", {"id": [1, 2, 3, 4, 5], "at": aware, "face": faces})
    for column in ("at", "face"):
        made = source(f"{{path: a.parquet, time_column: {column}}}", zone="America/New_York")
        assert [2, 3] == ids(made), column
        assert 2 == made.count()


def test_an_hour_that_comes_twice_is_read_once(source, tmp_path):
    """Where clocks are set back, a clock face belongs to the first of the two hours, a moment to its own."""
    faces = [datetime(2026, 10, 25, 1, 30), datetime(2026, 10, 25, 2, 30), datetime(2026, 10, 25, 3, 30)]
    moments = [datetime(2026, 10, 25, hour, 30) for hour in (0, 1, 2)]
    write(tmp_path / "a.parquet", {"id": [1, 2, 3], "face": pa.array(faces, pa.timestamp("us")),
                                   "at": pa.array(moments, pa.timestamp("us", "UTC"))})  # fmt: skip
    found = {"face": [], "at": []}
    midnight = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    for chosen in [
        interval_containing(midnight + timedelta(hours=n), "hour", ZoneInfo("Europe/Berlin"))
        for n in range(4)
    ]:
        for column, read_ids in found.items():
            made = source(f"{{path: a.parquet, time_column: {column}}}", chosen, "hour", "Europe/Berlin")
            read_ids.append(ids(made))
    assert [[1], [2], [], [3]] == found["face"]
    assert [[], [1], [2], [3]] == found["at"]


def test_row_groups_outside_the_interval_are_not_read(source, tmp_path, monkeypatch):
    """Parquet's statistics rule row groups out before a page of them is decoded."""
    days = pa.array([date(2026, 1, 1 + number // 10) for number in range(100)])
    pq.write_table(pa.table({"id": range(100), "d": days}), tmp_path / "a.parquet", row_group_size=10)
    read_groups = []
    original = ParquetData._row_groups
    monkeypatch.setattr(
        ParquetData,
        "_row_groups",
        lambda self, span: read_groups.append(original(self, span)) or read_groups[-1],
    )
    assert list(range(20, 30)) == ids(source("{path: a.parquet, time_column: d}", "2026-01-03"))
    assert [[2]] == read_groups


KEY = uuid.UUID("0a0b0c0d-0000-0000-0000-000000000001")


def test_every_type_becomes_what_a_query_would_give(source, tmp_path):
    """Integers, floats, decimals, dictionaries, large text, booleans, dates and uuids; NULL stays NULL."""
    both = lambda value, type_: pa.array([value, None], type_)  # noqa: E731
    raw = both(KEY.bytes, pa.binary(16))
    columns = {
        "i": both(7, pa.int16()), "u": both(7, pa.uint32()), "h": both(1.5, pa.float16()),
        "f": both(1.5, pa.float32()), "d": both(1.5, pa.float64()),
        "m": both(Decimal("1.25"), pa.decimal128(9, 2)), "s": both("é", pa.string()),
        "l": both("é", pa.large_string()), "c": both("é", pa.string()).dictionary_encode(),
        "b": both(True, pa.bool_()), "t": both(date(2026, 1, 2), pa.date32()),
        "e": both(date(2026, 1, 2), pa.date64()),
        "r": raw, "k": pa.ExtensionArray.from_storage(pa.uuid(), raw),
    }  # fmt: skip
    table = pa.table({"id": [1, 2], **columns})
    pq.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "a.feather", compression="zstd")
    with pa.ipc.new_stream(tmp_path / "a.arrows", table.schema) as stream:
        stream.write_table(table)
    expected = {"i": 7, "u": 7, "h": 1.5, "f": 1.5, "d": 1.5, "m": 1.25, "s": "é", "l": "é", "c": "é", "b": True,
                "t": date(2026, 1, 2), "e": date(2026, 1, 2), "r": str(KEY), "k": str(KEY)}  # fmt: skip
    for name in ("a.parquet", "a.feather", "a.arrows"):
        first, second = good(source(f"{{path: {name}, bounded: false}}"), *columns)
        assert expected == first, name
        assert dict.fromkeys(columns) == second


def test_what_no_model_takes_has_no_arrow_type(source, tmp_path):
    """Lists, structs, bytes and moments are described by their names, for the message that refuses them."""
    write(
        tmp_path / "a.parquet",
        {"id": [1], "l": [[1.0]], "s": [{"a": 1}], "y": [b"x"], "w": [datetime(2026, 1, 1)]},
    )
    found = {column.name: column.arrow for column in source("{path: a.parquet, bounded: false}").describe()}
    assert {"id": "int64", "l": None, "s": None, "y": None, "w": None} == found


CSV = "id,x,t,n,b,at\n"


@pytest.fixture
def csv(source, tmp_path):
    """Rows of a CSV under the usual header, as a source."""

    def made(rows, options="bounded: false", header=CSV, name="a.csv"):
        (tmp_path / name).write_bytes(
            (header + rows).encode() if isinstance(rows, str) else header.encode() + rows
        )
        return source(f"{{path: {name}, types: {{id: integer}}, {options}}}")

    return made


def test_a_csv_is_read_as_the_model_takes_it(csv):
    """Types come from key and model: 1 is a float, text or true as the column says; empty is NULL."""
    table = good(
        csv('1,1,1,1,1,\n2,,,,,\n 3 , 1.5 ,"a ""q"", b",-4,f,\n4,nan,"",5,TRUE,\r\n\r\n5,1e3,"two\nlines",6,t,'),
        "id", "x", "t", "n", "b",
    )  # fmt: skip
    assert [
        {"id": 1, "x": 1.0, "t": "1", "n": 1, "b": True},
        {"id": 2, "x": None, "t": None, "n": None, "b": None},
        {"id": 3, "x": 1.5, "t": 'a "q", b', "n": -4, "b": False},
        {"id": 5, "x": 1000.0, "t": "two\nlines", "n": 6, "b": True},
    ] == [row for row in table if row["id"] != 4]
    assert "" == next(row for row in table if row["id"] == 4)["t"]


def test_a_uuid_of_a_csv_has_one_spelling(source, tmp_path):
    """Capitals, braces and missing hyphens are written as PostgreSQL writes a uuid; what is none is a bad row."""
    text = str(KEY)
    spelt = [text, text.upper(), f"{{{text}}}", text.replace("-", ""), f" {text} ", "nobody", ""]
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f"{each},1\n" for each in spelt))
    made = source("{path: a.csv, types: {id: uuid}, bounded: false}")
    assert [text] * 5 == ids(made)
    assert [
        "a.csv line 7: id 'nobody' is no uuid",
        "a.csv line 8: id is empty, and it is in the key",
    ] == [each["reason"] for each in faults(made, "id")]


def test_a_bad_row_of_a_csv_is_named_by_its_line(csv):
    """Wrong lengths, values that are none, missing keys, broken text: the row is set aside, the others are read."""
    rows = (
        b'1,1.5,a,1,t,\n2,1.5\n\n3,abc,"two\nlines",1.5,t,\n4,1.5,\xff,1,maybe,\n,1,a,1,t,\nfive,1,a,1,t,\n'
        b"6,1,a,1,t,,,\n7,1,a,1,t,\n"
    )
    names = ("id", "x", "t", "n", "b")
    assert [1, 7] == [row["id"] for row in good(csv(rows), *names)]
    found = sorted((each["reason"], each["values"]) for each in faults(csv(rows), *names))
    assert [
        ("a.csv line 10: 8 fields where the header has 6", {"line": "6,1,a,1,t,,,"}),
        ("a.csv line 3: 2 fields where the header has 6", {"line": "2,1.5"}),
        ("a.csv line 5: x 'abc' is no number; n '1.5' is no whole number",
         {"id": "3", "x": "abc", "t": "two\nlines", "n": "1.5", "b": "t"}),
        ("a.csv line 7: t '�' is no UTF-8 text; b 'maybe' is no true or false",
         {"id": "4", "x": "1.5", "t": "�", "n": "1", "b": "maybe"}),
        ("a.csv line 8: id is empty, and it is in the key",
         {"id": None, "x": "1", "t": "a", "n": "1", "b": "t"}),
        ("a.csv line 9: id 'five' is no whole number",
         {"id": "five", "x": "1", "t": "a", "n": "1", "b": "t"}),
    ] == found  # fmt: skip


def test_a_quotation_mark_that_is_never_closed_costs_one_row(csv, monkeypatch):
    """A stray quotation mark sets its own line aside, not the rest of the file."""
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", 300)
    lines = [f"{number},1,a,1,t,\n" for number in range(100)]
    lines[50] = '50,1,"a,1,t,\n'
    made = csv("".join(lines))
    assert [number for number in range(100) if number != 50] == ids(made)
    assert ["a.csv line 52"] == [fault["reason"].partition(":")[0] for fault in faults(made, "id")]


@pytest.mark.parametrize("size", [40, 64, 127, 1000])
def test_blocks_of_any_size_give_the_same_rows(csv, monkeypatch, size):
    """Where a block ends matters neither to rows nor to line numbers, also with line breaks inside a field."""
    rows = (
        "".join(f'{number},{number / 7},"{number}\n{number}",1,t,\n' for number in range(60)) + "x,1,a,1,t,\n"
    )
    whole = good(csv(rows), "id", "x", "t")
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", size)
    assert whole == good(csv(rows), "id", "x", "t")
    assert ["a.csv line 122: id 'x' is no whole number"] == [
        each["reason"] for each in faults(csv(rows), "id")
    ]


def test_moments_in_a_csv_say_their_zone_or_are_the_jobs(source, tmp_path):
    """With an offset a moment is that moment, without one the job's clock; what is none is a bad row."""
    moments = ["2026-01-01", "2026-01-01 00:00", "2026-01-01T04:59:59Z", "2026-01-01 05:00:00+00",
               "2026-01-01 23:59:59.1234567", "2026-01-02 00:00:00", "2026-01-01 23:00:00-06:00",
               "soon", ""]  # fmt: skip
    (tmp_path / "a.csv").write_text("id,at\n" + "".join(f"{i},{at}\n" for i, at in enumerate(moments)))
    made = source("{path: a.csv, time_column: at, types: {id: integer}}", zone="America/New_York")
    assert [0, 1, 3, 4] == ids(made)
    assert ["a.csv line 9: at 'soon' is no date or time"] == [each["reason"] for each in faults(made, "id")]


def test_csv_by_other_names(csv, source, tmp_path):
    """Semicolons, tabs, gzip, a byte order mark and Windows line ends are read; another ending by `format`."""
    assert [1] == ids(csv("1;a\r\n", 'delimiter: ";", bounded: false', "\ufeffid;t\r\n"))
    assert [1] == ids(csv("1\ta\n", header="id\tt\n", name="a.tsv"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,t\n1,a\n"))
    assert [1] == ids(source("{path: a.csv.gz, types: {id: integer}, bounded: false}"))
    (tmp_path / "a.txt").write_text("id,t\n1,a")
    assert [1] == ids(source("{path: a.txt, format: csv, types: {id: integer}, bounded: false}"))


def test_null_keys_of_parquet_are_set_aside_with_file_and_row(source, tmp_path):
    """A key that is NULL cannot be published, and stops no other row."""
    write(tmp_path / "a.parquet", {"id": [1, None, 3], "x": [1.0, float("nan"), 3.0]})
    made = source("{path: a.parquet, bounded: false}")
    assert [1, 3] == ids(made)
    assert [
        {"reason": "a.parquet row 2: id is NULL, and it is in the key", "values": {"id": None, "x": "nan"}}
    ] == (faults(made, "id", "x"))


def test_an_interval_without_files_has_no_rows(source, tmp_path):
    """Where the folder is there and nothing matches, there are no rows; what the key is the job must then say."""
    (tmp_path / "d").mkdir()
    made = source('{path: "d/{date}.parquet", types: {id: integer}}')
    assert (0, []) == (made.count(), ids(made))
    with pytest.raises(UntypedKeyError, match=r"say what key column id is"):
        source('{path: "d/{date}.parquet"}').describe()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("rides/*.parquet", "rides/*.parquet: there is no rides"),
        ("ride.csv", "ride.csv: there is no ride.csv; did you mean rides.csv?"),
        ("notes.txt", "notes.txt: its ending says neither Parquet, CSV nor Arrow"),
        ("broken.parquet", "broken.parquet: "),
        ("broken.arrow", "broken.arrow: "),
        ("empty.csv", "empty.csv: it is empty: a CSV begins with a line of column names"),
        ("twice.csv", "twice.csv: its header names column 'a' more than once"),
        ("rides.csv", "rides.csv: text says no types; say what key column id is"),
    ],
)
def test_what_cannot_be_read_is_one_line(source, tmp_path, path, says):
    """A missing or broken file is named, with what is wrong with it."""
    for name, text in {
        "rides.csv": "id\n1\n", "notes.txt": "x", "broken.parquet": "PAR1 no", "broken.arrow": "ARROW1 no",
        "empty.csv": "", "twice.csv": "a,a\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    with pytest.raises((SourceError, FilePathError, UntypedKeyError)) as caught:
        source(f"{{path: {path}, bounded: false}}").describe()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_files_that_differ_are_named(source, tmp_path):
    """A column that is missing, or another kind, in a later file is an error that names both files."""
    write(tmp_path / "d" / "1.parquet", {"id": [1], "fare": [1.0]})
    write(tmp_path / "d" / "2.parquet", {"id": [2], "fares": [1.0]})
    made = source("{path: d, bounded: false}")
    with pytest.raises(SourceError, match=r"d/2.parquet: there is no column fare, .* did you mean fares\?"):
        good(made, "id", "fare")
    write(tmp_path / "d" / "2.parquet", {"id": [2], "fare": ["a"]})
    with pytest.raises(SourceError, match=r"d/2.parquet: column fare is string, and double in d/1.parquet"):
        good(source("{path: d, bounded: false}"), "id", "fare")
    write(tmp_path / "d" / "2.parquet", {"id": pa.array([2.0, 3.0]), "fare": [None, 2]})
    assert [1, 2, 3] == ids(source("{path: d, bounded: false}"))


@pytest.mark.parametrize(
    ("column", "type_"), [("at", pa.string()), ("at", pa.int64())]
)  # fmt: skip
def test_a_time_column_is_a_timestamp_or_a_date(source, tmp_path, column, type_):
    """A time column of another type is refused, with the type it has."""
    write(tmp_path / "a.parquet", {"id": [1], "at": pa.array([None], type_)})
    with pytest.raises(
        SourceError, match=f"time_column {column} is {type_}; it must be a timestamp or a date"
    ):
        source(f"{{path: a.parquet, time_column: {column}}}").describe()
    with pytest.raises(SourceError, match=r"there is no column aat, the time_column; did you mean at\?"):
        source("{path: a.parquet, time_column: aat}").describe()


def test_a_file_that_changes_while_it_is_read_ends_the_run(source, tmp_path):
    """Rows of two moments of one file are never mixed: the run ends, and may be tried again."""
    write(tmp_path / "a.parquet", {"id": [1]})
    made = source("{path: a.parquet, bounded: false}")
    assert 1 == len(made.files)
    write(tmp_path / "a.parquet", {"id": [1, 2]})
    with pytest.raises(SourceError, match="it was changed while it was read") as caught:
        ids(made)
    assert caught.value.is_transient


def test_inputs_tell_which_files_were_read(source, tmp_path):
    """Names, sizes and times are in the definition; another file there is another input."""
    write(tmp_path / "d" / "1.parquet", {"id": [1]})
    first = source("{path: d, bounded: false}").inputs()["files"]
    path = tmp_path / "d" / "1.parquet"
    assert [["d/1.parquet", path.stat().st_size, path.stat().st_mtime_ns]] == first["first"]
    assert first == source("{path: d, bounded: false}").inputs()["files"]
    write(tmp_path / "d" / "2.parquet", {"id": [2]})
    assert first["sha256"] != source("{path: d, bounded: false}").inputs()["files"]["sha256"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("data/{dates}/*.csv", r"unknown placeholder \{dates\}; did you mean \{date\}\?"),
        ("data/{now}.csv", r"unknown placeholder \{now\}; there are \{date\}, \{year\}"),
        ("data/{date.csv", "a { or } without its partner"),
        ("s3a://b/x.csv", r"unknown scheme s3a://; did you mean s3://\?"),
        ("s3://k:s@b/x.csv", "credentials do not belong here"),
        ("s3://k@b/x.csv", "credentials do not belong here"),
        ("abfs://c:key@a.dfs.core.windows.net/x.csv", "credentials do not belong here"),
        ("abfs://c/x.csv", "write abfs://CONTAINER@ACCOUNT"),
        ("az://c/x.csv", "write az://CONTAINER@ACCOUNT"),
        ("s3://b/x.csv?regin=eu", r"unknown option 'regin'; did you mean region\?"),
        ("s3:///x.csv", "names no bucket"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(path, says):
    """Slips in a path are found before anything is looked at, with the nearest right word."""
    with pytest.raises(FilePathError, match=says):
        parse_path(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://b/a/{date}/?.csv?region=eu-north-1", ("s3", "b", "", "a/{date}/?.csv", "a/")),
        ("gcs://b/x.csv", ("gs", "b", "", "x.csv", "x.csv")),
        ("abfss://c@acc.dfs.core.windows.net/d/*.csv", ("abfs", "c", "acc", "d/*.csv", "d/")),
        ("az://c@acc.dfs.core.windows.net/d/*.csv", ("abfs", "c", "acc", "d/*.csv", "d/")),
        ("file:///d/x.csv", ("file", "", "", "/d/x.csv", "/d/x.csv")),
        ("d/{year}-{month}.csv", ("file", "", "", "d/{year}-{month}.csv", "d/")),
    ],
)
def test_a_path_is_taken_apart(path, expected):
    """Scheme, bucket, account and path; the folder before the first wildcard or placeholder is what must exist."""
    found = parse_path(path)
    assert expected == (found.kind, found.bucket, found.account, found.path, found.fixed)


def test_no_permission_is_said(source, tmp_path):
    """A file that may not be opened is named, and what to look at."""
    import os

    if os.getuid() == 0:
        pytest.skip("root may read everything")
    path = Path(tmp_path / "a.csv")
    path.write_text("id\n1\n")
    path.chmod(0)
    with pytest.raises(SourceError, match=r"a.csv: Permission denied"):
        source("{path: a.csv, types: {id: integer}, bounded: false}").describe()
