"""`batchpred release`: a better candidate is promoted, a worse one refused, an unstable one rolled back."""

import pytest
from onnx import TensorProto, helper

GATES = """\
version: 1
models:
  churn: {metrics: {auc: {min: 0.6, max_drop: 0.02}}, min_coverage: 0.9}
"""
JOB = """\
version: 1
name: churn
source: {query: "SELECT id, x FROM t WHERE day = :date"}
key: [id]
model: churn@champion
output: {columns: {score: probability}}
checks: {score_range: [0, 1]}
"""


def scorer(weight, *, squashed=True, name="x"):
    """A model of `probability`: the logistic function of weight × x (or another input), or weight × x itself."""
    nodes = [helper.make_node("Mul", [name, "w"], ["logit" if squashed else "probability"])]
    if squashed:
        nodes.append(helper.make_node("Sigmoid", ["logit"], ["probability"]))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1])],
        initializer=[helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


@pytest.fixture
def project(command, tmp_path, database):
    """A job over t, a holdout with labels, gates, and version 1 as champion whose weight has the right sign."""
    with database.connect(purpose="test") as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT g::bigint AS id, d::date AS day, (g * 100)::float4 AS x"
            " FROM generate_series(1, 5) AS g, generate_series(date '2026-01-01', '2026-01-04', '1 day') AS d"
        )
        connection.execute(
            "CREATE TABLE truth AS SELECT sin(g)::float4 AS x, (sin(g) + sin(g * 7) / 2 > 0) AS churned"
            " FROM generate_series(1, 500) AS g"
        )
    (tmp_path / "churn.job.yaml").write_text(JOB)
    (tmp_path / "gates.yaml").write_text(GATES)
    (tmp_path / "holdout.sql").write_text("SELECT x, churned FROM truth")
    for number, data in enumerate((scorer(1.0), scorer(2.0), scorer(-1.0), scorer(3.0, squashed=False))):
        (tmp_path / f"{number + 1}.onnx").write_bytes(data)
    return command


def release(project, *words):
    return project("release", "churn", *words, "--holdout", "holdout.sql", "--label", "churned")


def champion(project):
    return project("models", "show", "churn@champion", "--json")[1]["version"]


def test_better_worse_and_unstable(project):
    """Promoted, refused with the champion untouched, and rolled back by its first blocked run; history tells it."""
    assert 0 == release(project, "1.onnx")[0]
    assert 0 == release(project, "2.onnx")[0]
    assert 2 == champion(project)
    assert 0 == project("run", "churn", "--date", "2026-01-01")[0]
    code, said = release(project, "3.onnx")
    assert 3 == code
    assert "auc drops by at most 0.02" in said
    assert 2 == champion(project)
    assert 0 == release(project, "4.onnx")[0]
    assert 4 == champion(project)
    code, told = project("run", "churn", "--date", "2026-01-02", "--json")
    assert (3, "blocked") == (code, told["runs"][0]["status"])
    assert "unstable candidate" in told["runs"][0]["warnings"][-1]
    assert 2 == champion(project)
    run = project("run", "churn", "--date", "2026-01-02", "--json")[1]["runs"][0]
    assert ("published", 2) == (run["status"], run["model"]["version"])
    story = project("models", "history", "churn", "--json")[1]["history"]
    moves = [
        (each["event"], each["what"].split(" → ")[1][:7]) for each in story if "champion →" in each["what"]
    ]
    expected = [
        ("release", "churn/1"),
        ("release", "churn/2"),
        ("release", "churn/4"),
        ("unstable", "churn/2"),
    ]
    assert expected == moves
    told = [each["why"] for each in story if each["event"] == "release" and "steps" in each["why"]]
    assert ["promote done" in each for each in told] == [True, True, False, True]
    assert "stopped: churn/3 did not pass" in told[2]


def test_what_was_proven_is_not_taken_back(project, database):
    """A released version with a published run since stays champion when a later run of it is blocked."""
    release(project, "1.onnx")
    release(project, "2.onnx")
    assert 0 == project("run", "churn", "--date", "2026-01-01")[0]
    with database.connect(purpose="test") as connection:
        connection.execute("DELETE FROM t WHERE day = '2026-01-02'")
    assert 3 == project("run", "churn", "--date", "2026-01-02")[0]
    assert 2 == champion(project)


def test_training_and_its_failures(project, tmp_path):
    """A command trains: its file is released; where it fails or leaves nothing, nothing is pushed."""
    (tmp_path / "train.sh").write_text('cp 1.onnx "$BATCHPRED_MODEL_FILE"')
    assert 0 == release(project, "--run-training", "sh train.sh")[0]
    assert 1 == champion(project)
    for command, says in (("exit 7", "left with 7"), ("true", "left no model")):
        code, said = release(project, "--run-training", command)
        assert (1, True) == (code, says in said)
    code, said = project("release", "churn")
    assert (2, True) == (code, "--run-training CMD" in said)
    assert 1 == len(project("models", "list", "--json")[1]["models"])


def test_the_jobs_transform_is_applied_to_the_holdout(project, tmp_path, database):
    """With --job the columns are those its transform makes, without the label; rows left out are not covered."""
    (tmp_path / "signs.py").write_text(
        "def flip(df):\n    assert 'churned' not in df\n    return df[df.part > 0].assign(x=lambda d: -d.raw)\n"
    )
    (tmp_path / "churn.job.yaml").write_text(JOB + "transform: signs:flip\n")
    (tmp_path / "holdout.sql").write_text(
        "SELECT -x AS raw, g AS part, churned FROM truth, generate_series(0, 19) AS g"
    )
    code, told = release(project, "1.onnx", "--job", "churn", "--json")
    assert (0, True) == (code, told["promoted"])
    metrics = told["metrics"]["churn/1"]
    assert 0.95 == metrics["coverage"]
    assert metrics["auc"] > 0.8  # of the raw column it would be below 0.2
    code, said = release(project, "2.onnx")
    assert (1, True) == (code, "yields no column x" in said)
    (tmp_path / "signs.py").write_text("def flip(df):\n    return df\n")
    code, said = release(project, "2.onnx", "--job", "churn")
    assert (1, True) == (code, "transform signs:flip gave back no column x, which the model takes" in said)
    assert 1 == champion(project)


def test_a_holdout_that_says_nothing(project, tmp_path):
    """A missing label, a single class, no row: told, and the champion is untouched."""
    for query, says in (
        ("SELECT x FROM truth", "yields no column 'churned'"),
        ("SELECT x, churned FROM truth WHERE churned", "has the label 1"),
        ("SELECT x, churned FROM truth WHERE false", "no row with a label"),
        ("SELECT x AS y, churned FROM truth", "yields no column x"),
    ):
        (tmp_path / "holdout.sql").write_text(query)
        code, said = release(project, "1.onnx")
        assert (1, True) == (code, says in said), said
    assert 1 == project("models", "show", "churn@champion")[0]


def test_a_fault_of_the_source_takes_no_release_back(project, database):
    """Keys that stand there twice block the first run of a release too; the version is not to blame, and stays."""
    release(project, "1.onnx")
    release(project, "2.onnx")
    with database.connect(purpose="test") as connection:
        connection.execute("INSERT INTO t SELECT * FROM t WHERE id = 3")
    assert 3 == project("run", "churn", "--date", "2026-01-01")[0]
    assert 2 == champion(project)


SHADOW = """\
    shadow: {min_rank_correlation: 0.9, max_moved: 0.1, min_coverage: 1}
"""


def steps(told):
    return [f"{each['step']} {each['outcome']}" for each in told["steps"]]


def test_a_candidate_is_held_to_its_shadow(project, tmp_path):
    """On rows that readers see it must put keys in the champion's order: else it is not promoted; all is kept."""
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels:\n  churn:\n" + SHADOW)
    (tmp_path / "churn.job.yaml").write_text(JOB.replace("id, x", "id, x / 500 AS x"))
    told = project("release", "churn", "1.onnx", "--json")[1]
    assert ["push done", "evaluate skipped", "gates skipped", "shadow skipped"] == steps(told)[:4]
    assert 0 == project("run", "churn", "--date", "2026-01-01")[0]
    code, told = project("release", "churn", "2.onnx", "--json")
    assert (0, "shadow done") == (code, steps(told)[3])
    assert ("churn", "2026-01-01", 1.0) == (
        told["shadow"]["job"],
        told["shadow"]["interval"],
        round(told["shadow"]["outputs"]["score"]["rank_correlation"], 9),
    )
    assert 3 == len(told["steps"][3]["held"])
    code, said = project("release", "churn", "3.onnx", "--shadow", "churn:2026-01-02")
    assert (3, True) == (code, "rank correlation >= 0.9: -1 (score)" in said)
    assert 2 == champion(project)
    story = project("models", "history", "churn", "--json")[1]["history"]
    assert "shadow failed" in story[-1]["why"]


def test_a_shadow_that_has_run_is_not_scored_again(project, tmp_path):
    """The candidate that a job's runs have had in their shadow is released by what they wrote."""
    (tmp_path / "gates.yaml").unlink()
    project("release", "churn", "1.onnx")
    assert 0 == project("models", "push", "churn", "2.onnx", "--alias", "candidate")[0]
    (tmp_path / "churn.job.yaml").write_text(JOB + "shadow: churn@candidate\n")
    assert 0 == project("run", "churn", "--date", "2026-01-01")[0]
    told = project("release", "churn", "2.onnx", "--shadow", "churn", "--json")[1]
    assert ([1, 2], True) == (told["shadow"]["runs"], told["promoted"])


def test_whose_rows_a_shadow_is_held_on(project, tmp_path):
    """The job must be one, and score with the model: said before anything is trained or pushed."""
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels:\n  churn:\n" + SHADOW)
    (tmp_path / "again.job.yaml").write_text(JOB.replace("name: churn", "name: again"))
    for words, says in (
        ((), r"2 jobs here score with churn@champion: again, churn; name the one: --shadow JOB"),
        (("--alias", "other"), "0 jobs here score with churn@other; name"),
        (("--shadow", "nope"), "no job 'nope'"),
    ):
        code, said = project("release", "churn", "1.onnx", *words)
        assert (2, True) == (code, says in said), said
    code, said = project("release", "other", "1.onnx", "--shadow", "churn")
    assert (2, True) == (code, "job churn scores with churn@champion, which is not other" in said)
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels:\n  churn: {shadow: {max_moved: far}}\n")
    code, said = project("release", "churn", "1.onnx", "--shadow", "churn")
    assert (2, True) == (code, "gates.yaml:3" in said), said
    assert [] == project("models", "list", "--json")[1]["models"]


def test_what_a_candidate_would_change(project, tmp_path, database):
    """Two versions on a job's rows: agreement, order, deciles, keys, metrics where labels are, and a picture."""
    release(project, "1.onnx")
    release(project, "2.onnx")
    (tmp_path / "churn.job.yaml").write_text(
        JOB.replace(
            "SELECT id, x FROM t WHERE day = :date",
            "SELECT id, x / 500 AS x, id > 2 AS churned FROM t WHERE day = :date",
        ).replace("{score: probability}", '{score: probability, whole: "probability[:]"}')
    )
    words = ("models", "compare", "churn", "churn/1", "--date", "2026-01-01", "--label", "churned")
    code, found = project(*words, "--picture", "moved.svg", "--json")
    assert (0, 5, ["churn/2", "churn/1"]) == (code, found["rows"], found["models"])
    figures = found["outputs"]["score"]
    assert (0.0, 1.0, 0.0) == (
        figures["same"],
        round(figures["rank_correlation"], 9),
        figures["changed_decile"],
    )
    assert {"equal": 0.0} == found["outputs"]["whole"]
    assert {"churn/2", "churn/1"} == {name.split(" by ")[1] for name in found["metrics"]}
    assert [5, 4] == [row["id"] for row in figures["moved_most"]][:2]
    assert (tmp_path / "moved.svg").read_text().startswith("<svg")
    assert "the keys that move most" in project(*words)[1]
    code, said = project(*words[:-1], "nope")
    assert (1, True) == (code, "no column 'nope'" in said)
    with database.connect(purpose="test") as connection:
        assert [] == connection.execute("SELECT run_id FROM batchpred.runs").fetchall()
