"""`batchpred models …` as a person types it, in this process: output, exit codes, and the mistakes people make."""

import sys

import pytest
from onnx import TensorProto, helper


def add_model(number):
    """The bytes of a model that adds `number` to x."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "n"], ["score"])], "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        initializer=[helper.make_tensor("n", TensorProto.FLOAT, [1], [number])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


@pytest.fixture
def three(command, tmp_path):
    """Versions 1 to 3 of `add`, the first one champion."""
    for number in (1, 2, 3):
        (tmp_path / f"{number}.onnx").write_bytes(add_model(number))
        words = ["--alias", "champion"] if number == 1 else []
        assert (
            0 == command("models", "push", "add", f"{number}.onnx", "--metric", f"auc=0.{number}", *words)[0]
        )
    return command


def test_a_life_told_by_the_commands(three, tmp_path):
    """Promoted, promoted again for nothing, rolled back, retired, deleted: history and list tell it."""
    assert {"from_version": 1, "to_version": 2, "moved": True}.items() <= three(
        "models", "promote", "add/2", "--why", "better", "--json"
    )[1].items()
    code, said = three("models", "promote", "add/2")
    assert (0, "add@champion points at add/2 already\n") == (code, said)
    moved = three("models", "rollback", "add", "--json")[1]
    assert (2, 1) == (moved["from_version"], moved["to_version"])
    assert 0 == three("models", "retire", "add/2", "--why", "worse at night")[0]
    assert 0 == three("models", "delete", "add/3")[0]
    listed = three("models", "list", "--json")[1]["models"]
    assert [(2, []), (1, ["champion"])] == [(each["version"], each["aliases"]) for each in listed]
    assert {"auc": 0.2} == listed[0]["metrics"]
    told = [each["event"] for each in three("models", "history", "add", "--json")[1]["history"]]
    assert ["pushed", "push", "pushed", "promote", "rollback", "retired", "deleted"] == told
    assert "add@champion on 2020-01-01" not in three("models", "history", "add", "--on", "2020-01-01")[
        1
    ].replace("did not exist on", "")
    assert 0 == three("models", "pull", "add@champion", "--to", "back.onnx")[0]
    assert add_model(1) == (tmp_path / "back.onnx").read_bytes()
    changed = three("models", "diff", "add/2", "--json")[1]
    assert ("add/1", "add/2") == (changed["from"], changed["to"])
    assert {"what": "metric auc", "from": 0.1, "to": 0.2} in changed["differences"]
    assert 0 == three("models", "verify")[0]


MISTAKES = [
    (["promote", "ad/1"], 1, "did you mean 'add'"),
    (["promote", "add/9"], 1, "the newest is 3"),
    (["promote", "add"], 2, "write NAME@ALIAS"),
    (["promote", "add/2", "--alias", "Champion"], 2, "a lower-case letter"),
    (["rollback", "add"], 1, "no earlier version"),
    (["rollback", "add", "--alias", "champoin"], 1, "did you mean 'champion'"),
    (["delete", "add/1"], 1, "add@champion points at it"),
    (["retire", "add/1"], 1, "in use"),
    (["retire", "add", "--metric", "auc"], 2, "is no rule"),
    (["retire", "add", "--older-than", "soon"], 2, "is no age"),
    (["retire"], 2, "with --stale"),
    (["retire", "--stale"], 2, "there is no gates.yaml"),
    (["retire", "add", "--older-than", "999999999999d"], 2, "is no age"),
    (["retire", "add"], 2, "which versions of add"),
    (["retire", "add/1", "--dry-run"], 2, "are for rules"),
    (["retire", "add/1", "--keep", "2"], 2, "are for rules"),
    (["retire", "--stale", "--keep", "2"], 2, "takes its rules from gates.yaml"),
    (["history", "nobody"], 1, "no model is called 'nobody'"),
    (["history", "add", "--on", "yesterday"], 2, "is no date"),
    (["pull", "add/1", "--to", "2.onnx"], 2, "is another file"),
]


def test_mistakes_are_told_and_change_nothing(three):
    """Each mistake has its exit code and says in one line what to do; the champion is untouched."""
    for words, code, says in MISTAKES:
        left, said = three("models", *words)
        assert (code, True, False) == (left, says in said, "\n" in said), (words, said)
    assert 1 == three("models", "show", "add@champion", "--json")[1]["version"]


STALE = """\
version: 1
models:
  add: {retire: {older_than: 180d, metrics: {auc: {min: 0.25}}}}
  other: {retire: {older_than: 1d}}
"""


def test_stale_versions_are_retired_by_the_rules_of_gates(three, tmp_path, database):
    """--stale retires what gates.yaml finds stale, never the champion; --dry-run only tells; history says why."""
    (tmp_path / "gates.yaml").write_text(STALE)
    expected = ["add/2 auc is 0.2, below 0.25"]
    code, told = three("models", "retire", "--stale", "--dry-run", "--json")
    assert (0, expected) == (code, [f"{name} {why}" for name, why in told["reasons"].items()])
    code, told = three("models", "retire", "add", "--stale", "--json")
    assert (0, ["add/2"]) == (code, told["retired"])
    with database.connect(purpose="test") as connection:
        connection.execute("UPDATE batchpred.model_versions SET created_at = now() - interval '200 days'")
    code, said = three("models", "retire", "--stale")
    assert (0, True) == (code, said.startswith("add/3 is retired: by gates.yaml: pushed on "))
    assert (0, "nothing to do\n") == three("models", "retire", "--stale")
    story = three("models", "history", "add", "--json")[1]["history"]
    whys = {each["what"]: each["why"] for each in story if each["event"] == "retired"}
    assert "why: by gates.yaml: auc is 0.2, below 0.25" == whys["add/2"]
    assert 1 == three("models", "show", "add@champion", "--json")[1]["version"]
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels: {add: {retire: {keep: 2}}}\n")
    code, said = three("models", "retire", "--stale")
    assert (2, True) == (code, "it retires nothing; write older_than or metrics" in said)


GATES = """\
version: 1
models:
  add: {metrics: {auc: {min: 0.15, max_drop: 0.1}}, latency: {max_ms_per_10k: 60000, max_ratio: 1000}}
"""


def test_gates_stop_a_promotion(three, tmp_path):
    """A version that fails a gate is not promoted, exit code 3; a person may override; it is recorded."""
    (tmp_path / "gates.yaml").write_text(GATES)
    assert 0 == three("models", "promote", "add/3")[0]
    code, said = three("models", "promote", "add/1")
    assert 3 == code
    assert "auc >= 0.15: 0.1; auc drops by at most 0.1: 0.1 after 0.3 of the champion add/3" in said
    assert 3 == three("models", "show", "add@champion", "--json")[1]["version"]
    (tmp_path / "4.onnx").write_bytes(add_model(4))
    assert 3 == three("models", "push", "add", "4.onnx", "--alias", "champion")[0]
    assert 3 == three("models", "push", "add", "4.onnx", "--metric", "auc=0.1")[0]
    assert 3 == len(three("models", "list", "--json")[1]["models"])
    assert 0 == three("models", "promote", "add/1", "--override", "the metric was wrong")[0]
    story = three("models", "history", "add", "--json")[1]["history"]
    gates = [each["why"] for each in story if each["event"] == "gates"]
    assert [True, False, False] == ["failed: none" in each for each in gates]
    assert "override: the metric was wrong" in gates[-1]


def test_without_its_library_a_signature_is_asked_for_all_the_same(three, tmp_path, monkeypatch):
    """Where the extra is missing an unsigned version is refused as ever, and a signed one with what to install."""
    monkeypatch.setitem(sys.modules, "model_signing", None)
    (tmp_path / "keys.pem").write_text("-----BEGIN PUBLIC KEY-----")
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels: {'*': {signed_by: keys.pem}}\n")
    code, said = three("models", "promote", "add/2")
    assert (3, True) == (code, "add/2 is not signed, and gates.yaml asks for keys.pem" in said), said
    (tmp_path / "2.sig").write_text("{}")
    code, said = three("models", "push", "add", "2.onnx", "--signature", "2.sig")
    assert (2, True) == (code, 'pip install "batchpred[signing]"' in said), said
    (tmp_path / "gates.yaml").unlink()
    code, said = three("models", "push", "add", "2.onnx", "--signature", "2.sig")
    assert (0, True) == (code, "verified by no key" in said), said
    assert 0 == three("models", "promote", "add/2")[0]
