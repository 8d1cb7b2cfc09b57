"""The user's function between the source and the model: what it is given, what it must keep, what it costs."""

import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pyarrow as pa
import pytest

import jobs.transform
from jobs.transform import TransformError, TransformNotFoundError, load_transform

ROWS = pa.table(
    {
        "id": pa.array(range(100), pa.int64()),
        "x": pa.array([None if i % 10 == 3 else i / 2 for i in range(100)], pa.float64()),
        "n": pa.array([None if i == 5 else i for i in range(100)], pa.int32()),
        "ok": pa.array([i % 2 == 0 for i in range(100)]),
        "word": pa.array([None if i == 7 else "ab"[i % 2] for i in range(100)]),
        "day": pa.array([date(2026, 1, 1 + i % 28) for i in range(100)]),
    }
)


@pytest.fixture
def made(tmp_path):
    """Write features.py with a function `build` of this body, and load it for these columns."""

    def make(body, columns=("y",), name="features:build"):
        text = "import numpy as np\nimport pandas as pd\n\n\ndef build(df):\n" + textwrap.indent(body, "    ")
        (tmp_path / "features.py").write_text(text + "\n", encoding="utf-8")
        transform = load_transform(name, tmp_path)
        transform.columns = columns
        return transform

    yield make
    for name in [
        name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))
    ]:
        del sys.modules[name]


def test_what_it_is_given(made):
    """Dtypes do not depend on the chunk's NULLs, dates are dates, and the frame has every column."""
    body = """
    assert [str(d) for d in df.dtypes[:4]] == ["Int64", "float64", "Int32", "boolean"], df.dtypes
    assert str(df.dtypes.day).startswith("datetime64") and df.day.dt.month.eq(1).all()
    return df.assign(y=df.x.fillna(0) + df.n.astype("float64"))"""
    transform = made(textwrap.dedent(body).strip())
    table, places = transform.apply(ROWS)
    assert table.column_names == ["y"]
    assert list(range(100)) == places.tolist()
    assert [0.0, 1.5, 3.0, 3.0] == table["y"].to_pylist()[:4]
    assert table["y"][5].as_py() is None
    made_again, _ = transform.apply(ROWS.filter(ROWS["n"].is_valid()))
    assert table.schema == made_again.schema
    assert transform.seconds > 0


def test_rows_in_another_order(made):
    """Sorted rows go back to their keys by the index."""
    table, places = made("return df.assign(y=df.id.astype('float64')).sort_values('word')").apply(ROWS)
    assert list(range(100)) == places.tolist()
    assert [float(i) for i in range(100)] == table["y"].to_pylist()


def test_a_chunk_without_rows(made):
    """Where every row of a chunk was set aside before, the function is not called with nothing."""
    table, places = made("return df.assign(y=df.x / df.x.iloc[0])").apply(ROWS.slice(0, 0))
    assert (["y"], 0, []) == (table.column_names, table.num_rows, places.tolist())


def test_a_row_left_out_is_known(made):
    """A filter leaves rows out, and the places say which."""
    table, places = made("return df[df.ok].assign(y=1.0)").apply(ROWS)
    assert list(range(0, 100, 2)) == places.tolist()
    assert table.num_rows == 50


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return df[df.ok].reset_index(drop=True).assign(y=1.0)", "lost the index"),
        ("return pd.DataFrame({'y': df.x.to_numpy()})", "build new frames with index=df.index"),
        ("return df.set_index('id').assign(y=1.0)", "lost the index"),
        ("return pd.concat([df, df]).assign(y=1.0)", "gave some rows back more than once (200 rows from 100)"),
        ("return df.x", "gave back Series, not a DataFrame"),
        ("return df", "gave back no column y, which the model takes; it gave id, x"),
        ("return df.assign(y=[{'a': 1}, 2.0] * 50)", "gave column 'y' back with no one type"),
        ("return df.assign(y=1 / df.missing)", "AttributeError: 'DataFrame' object has no attribute 'missing'"),
        ("raise SystemExit(3)", "failed: SystemExit: 3 (features.py, line 6)"),
        ("return df.assign(y=df.x - df.x.mean())", "depends on more than each row alone: y of the first 20 rows"),
        ("return df.assign(y=np.random.default_rng().normal(size=len(df)))", "depends on more than each row"),
        ("return (df.drop_duplicates('word') if len(df) > 50 else df).assign(y=1.0)", "which rows are kept"),
    ],
)  # fmt: skip
def test_refused(made, body, says):
    """What would lose rows, mix them up, or depend on the chunk is one clear message that names the function."""
    with pytest.raises(TransformError) as caught:
        made(body).apply(ROWS)
    assert says in str(caught.value)
    assert str(caught.value).startswith("transform features:build ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing:build", "ModuleNotFoundError: No module named 'nothing'"),
        ("features:bild", "features has no function bild; it has build"),
        ("broken:build", "ZeroDivisionError: division by zero (broken.py, line 1)"),
    ],
)
def test_not_there(made, tmp_path, name, says):
    """A function that cannot be imported is an error of configuration, told with the line at fault."""
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(TransformNotFoundError) as caught:
        made("return df", name=name)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_digest_follows_the_source(made, tmp_path):
    """The digest changes with the function's module and the project's modules it imports, and with nothing else."""
    first = made("return df.assign(y=1.0)")
    (tmp_path / "unrelated.py").write_text("x = 1\n", encoding="utf-8")
    assert first.source_sha256 == load_transform("features:build", tmp_path).source_sha256
    second = made("return df.assign(y=2.0)")
    assert first.source_sha256 != second.source_sha256
    assert second.apply(ROWS)[0]["y"][0].as_py() == 2.0
    (tmp_path / "beside.py").write_text("Y = 3.0\n", encoding="utf-8")
    third = made("import beside\nreturn df.assign(y=beside.Y)")
    assert third.apply(ROWS)[0]["y"][0].as_py() == 3.0


def test_imports_are_followed(tmp_path):
    """A change in a module of the project that the function's module imports is seen in a process that goes on."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "features.py").write_text(
        "from mine.constants import Y\n\n\ndef build(df):\n    return df.assign(y=Y)\n", encoding="utf-8"
    )
    digests = []
    for value in (1.0, 2.0):
        (package / "constants.py").write_text(f"Y = {value}\n", encoding="utf-8")
        transform = load_transform("mine.features:build", tmp_path)
        transform.columns = ("y",)
        assert value == transform.apply(ROWS)[0]["y"][0].as_py()
        digests.append(transform.source_sha256)
    assert digests[0] != digests[1]


def test_the_digest_does_not_depend_on_other_functions(tmp_path):
    """Whatever else a process has imported of the project, a function's digest is that of its own modules."""
    (tmp_path / "shared.py").write_text("Y = 1.0\n", encoding="utf-8")
    body = "from shared import Y\n\n\ndef build(df):\n    return df.assign(y=Y)\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
    alone = load_transform("one:build", tmp_path).source_sha256
    load_transform("two:build", tmp_path)
    assert alone == load_transform("one:build", tmp_path).source_sha256
    jobs.transform._imported.clear()  # as in another process
    load_transform("two:build", tmp_path)
    assert alone == load_transform("one:build", tmp_path).source_sha256
    (tmp_path / "shared.py").write_text("Y = 2.0\n", encoding="utf-8")
    for name in ("one", "two"):
        transform = load_transform(f"{name}:build", tmp_path)
        transform.columns = ("y",)
        assert 2.0 == transform.apply(ROWS)[0]["y"][0].as_py()


def test_two_projects_may_call_their_modules_alike(tmp_path):
    """A module is that of the job's own folder, though one of the same name was imported from another."""
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "features.py").write_text(f"def build(df):\n    return df.assign(y={value})\n", "utf-8")
        transform = load_transform("features:build", folder)
        transform.columns = ("y",)
        assert value == transform.apply(ROWS)[0]["y"][0].as_py()


def test_functions_are_loaded_in_several_threads(tmp_path):
    """A schedule's runs begin at once: each has its own function."""
    for number in range(8):
        (tmp_path / f"f{number}.py").write_text(
            f"def build(df):\n    return df.assign(y={number}.0)\n", encoding="utf-8"
        )
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            loaded = list(pool.map(lambda n: load_transform(f"f{n}:build", tmp_path), range(8)))
            assert [[each.name] for each in loaded] == [[f"f{number}:build"] for number in range(8)]
            assert 8 == len({each.source_sha256 for each in loaded})


def test_little_is_left_behind(made, tmp_path):
    """The project folder is on the path only while its code is at work, and no compiled file is left in it."""
    made("return df.assign(y=1.0)").apply(ROWS)
    assert str(tmp_path) not in sys.path
    assert not list(tmp_path.rglob("*.pyc"))
