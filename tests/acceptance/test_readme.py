"""The README and the docs say what is true: their commands run, their job files load, their keys exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from onnx import TensorProto, helper

from jobs.jobfile import job_schema, load_job

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(section):
    """The batchpred commands in the console block of a section, without their comments."""
    body = README.split(f"## {section}")[1].split("\n## ")[0]
    lines = blocks(body, "console")[0].splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("batchpred")]


def churn_model():
    """Takes age and plan, gives probabilities of two classes."""
    nodes = [
        helper.make_node("Sigmoid", ["age"], ["p"]),
        helper.make_node("Neg", ["p"], ["minus"]),
        helper.make_node("Add", ["minus", "one"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        helper.make_node("Identity", ["plan"], ["label"]),
    ]
    graph = helper.make_graph(
        nodes, "churn",
        [helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N", 1]),
         helper.make_tensor_value_info("plan", TensorProto.STRING, ["N", 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
         helper.make_tensor_value_info("label", TensorProto.STRING, ["N", 1])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


def test_the_commands_for_an_own_job_run(batchpred, database):
    """What the README tells a user to type for a first job works as it stands there."""
    (batchpred.folder / "churn.onnx").write_bytes(churn_model())
    with database.connect(purpose="test") as connection:
        connection.execute("CREATE TABLE my_table (id bigint, age float8, plan text, updated_at timestamptz)")
        connection.execute(
            "INSERT INTO my_table SELECT g, g, 'basic', now() - interval '1 day' FROM generate_series(1, 5) AS g;"
            "INSERT INTO my_table SELECT g, g, 'basic', '2026-01-20 12:00+00' FROM generate_series(6, 9) AS g"
        )
    typed = commands("Your own job")
    assert ["init", "models", "plan", "run"] == [each[0] for each in typed]
    for each in typed:
        batchpred(*each, check=True)
    with database.connect(purpose="test") as connection:
        row = connection.execute("SELECT count(*) AS n, min(score) AS low FROM predictions.churn").fetchone()
    assert 4 == row["n"]
    assert 0.99 < row["low"] < 1


@pytest.mark.parametrize("page", ["README.md", "docs/job-file.md", "docs/files.md"])
def test_the_job_files_shown_are_valid(page, tmp_path):
    """Every whole job file in the documentation loads."""
    shown = [
        text
        for text in blocks((ROOT / page).read_text(encoding="utf-8"), "yaml")
        if text.startswith("version:")
    ]
    assert shown
    for text in shown:
        data = yaml.safe_load(text)
        path = tmp_path / f"{data['name']}.job.yaml"
        path.write_text(text, encoding="utf-8")
        (tmp_path / data["source"].get("query_file", "no.sql")).write_text(
            "SELECT 1 WHERE :date IS NOT NULL", encoding="utf-8"
        )
        assert data["name"] == load_job(path, {"WAREHOUSE_DSN": "postgresql://u@h/d"}).job.name


def test_every_key_of_the_job_file_is_documented():
    """docs/job-file.md names each key that the schema has, and no table row names another."""
    schema = job_schema()
    keys = set(schema["properties"])
    for part in schema["$defs"].values():
        keys |= set(part["properties"])
    page = (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8")
    named = {name.split(".")[-1] for name in re.findall(r"^\| `([a-z_.]+)`", page, re.MULTILINE)}
    assert keys == named


def test_ci_runs_the_two_commands_of_the_readme():
    """The first console block is what CI takes its commands from."""
    assert "make demo\nmake test\n" == blocks(README, "console")[0]
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_cron_hands_the_settings_on(tmp_path):
    """What the file of settings says reaches the commands of the example's crontab."""
    settings = tmp_path / "batchpred.env"
    settings.write_text("BATCHPRED_DATABASE_URL=postgresql://u@h/d\n", encoding="utf-8")
    text = (ROOT / "examples" / "deploy" / "crontab").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line[0] in "*0123456789"]
    assert 2 == len(lines)
    for line in lines:
        command = line.split(maxsplit=6)[6]  # behind five fields and the user
        before = command[: command.index("/opt/")].replace("/etc/batchpred.env", str(settings))
        told = subprocess.run(
            ["sh", "-c", f"{before} env"], capture_output=True, text=True, check=True
        ).stdout
        assert "BATCHPRED_DATABASE_URL=postgresql://u@h/d" in told.splitlines()
