"""The gates file, read strictly, and what it lets through."""

import numpy as np
import pytest

from jobs.comparison import Comparison, of_scores
from jobs.errors import JobFileError
from jobs.gates import (
    Contender,
    Gates,
    GatesFailedError,
    ShadowGates,
    hold,
    hold_shadow,
    load_gates,
    require,
)
from jobs.jobfile import load_job
from jobs.retries import fingerprint

GOOD = """\
version: 1
models:
  churn:
    metrics:
      auc: {min: 0.7, max_drop: 0.01}
      logloss: {max: 0.6, max_rise: 0.02}
    min_coverage: 0.99
    latency: {max_ms_per_10k: 50, max_ratio: 1.5}
  "*":
    metrics: {auc: {min: 0.5}}
"""


def contender(milliseconds=10.0, **metrics):
    return Contender("churn/1", metrics, lambda: milliseconds)


CHAMPION = contender(auc=0.8, logloss=0.5)


@pytest.fixture
def gates(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text(GOOD)
    return load_gates(path, {})


@pytest.mark.parametrize(
    ("metrics", "milliseconds", "fails"),
    [
        ({"auc": 0.8, "logloss": 0.5, "coverage": 1.0}, 10, []),
        ({"auc": 0.79, "logloss": 0.52, "coverage": 0.99}, 15, []),
        ({"auc": 0.78, "logloss": 0.5, "coverage": 1.0}, 10, ["auc drops by at most 0.01: 0.78 after 0.8"]),
        (
            {"auc": 0.69, "logloss": 0.5, "coverage": 1.0},
            10,
            ["auc >= 0.7: 0.69", "auc drops by at most 0.01"],
        ),
        (
            {"auc": 0.9, "logloss": 0.61, "coverage": 1.0},
            10,
            ["logloss <= 0.6", "logloss rises by at most 0.02"],
        ),
        ({"auc": 0.9, "logloss": 0.5, "coverage": 0.98}, 10, ["coverage >= 0.99: 0.98"]),
        (
            {"auc": 0.9, "logloss": 0.5, "coverage": 1.0},
            16,
            ["1.5 times the champion's: 16.0 ms"],
        ),
        ({"auc": 0.9, "logloss": 0.5}, 10, ["metric coverage: churn/1 has no metric coverage"]),
    ],
)
def test_gates_are_held(gates, metrics, milliseconds, fails):
    """Each bound is held against the candidate, and against the champion where it is relative."""
    held = hold(gates.of("churn"), contender(milliseconds, **metrics), CHAMPION, need_metrics=True)
    failed = [str(each) for each in held if not each.passed]
    assert len(fails) == len(failed)
    assert all(said in found for said, found in zip(fails, failed, strict=True))
    if fails:
        with pytest.raises(GatesFailedError, match=f"did not pass {len(fails)} of"):
            require("churn/1", held)


def test_without_a_champion_nothing_is_compared(gates):
    """Relative gates pass and say that there is no champion; unknown metrics pass where they are not needed."""
    held = hold(gates.of("churn"), contender(auc=0.75), None, need_metrics=False)
    assert [] == [each for each in held if not each.passed]
    assert "there is no champion" in [each.found for each in held]


def test_a_model_without_gates_of_its_own(gates):
    """It has those of "*", and without them none."""
    assert ["auc"] == list(gates.of("other").metrics)
    assert [] == hold(Gates(version=1, models={}).of("other"), contender(), None, need_metrics=True)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("min: 0.7", "mni: 0.7", "gates.yaml:5:13: unknown key 'mni'; did you mean 'min'?"),
        (
            "min_coverage",
            "coverage_min",
            "7:5: unknown key 'coverage_min'; did you mean 'min_coverage'?",
        ),
        (
            "min: 0.7",
            "min: high",
            "gates.yaml:5:18: models.churn.metrics.auc.min: this is text, where a number",
        ),
        ("{min: 0.7, max_drop: 0.01}", "{}", "gates.yaml:5:12: it has no bound"),
        ("0.99", "1.5", "gates.yaml:7:19: models.churn.min_coverage"),
        ("version: 1", "version: 2", "gates.yaml:1:10: version: write 1"),
        ("max: 0.6,", "max: 0.6, min: 0.9,", "min is above max"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path, old, new, says):
    """A slip in the file is an error with line, column and nearest word, as in a job file."""
    path = tmp_path / "gates.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(JobFileError) as raised:
        load_gates(path, {})
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("bounds", "fails"),
    [
        ({"min_rank_correlation": 0.5, "max_moved": 1, "min_agreement": 0.75, "min_coverage": 0.9}, []),
        ({"min_rank_correlation": 0.99}, ["rank correlation >= 0.99"]),
        ({"max_moved": 0}, ["at most 0 move two deciles"]),
        ({"min_agreement": 0.8}, ["at least 0.8 agree: 0.75 (label)"]),
        ({"min_coverage": 1}, ["at least 1 of the champion's rows: 95 rows after 100"]),
    ],
)
def test_a_shadow_is_held_at_what_it_differs_by(bounds, fails):
    """Order and deciles of scores, agreement of labels, and rows without a prediction."""
    scores = np.arange(100.0)
    outputs = {"score": of_scores(scores, np.roll(scores, 5)), "label": {"equal": 0.75}}
    found = Comparison("j", "d", ("m/1", "m/2"), 100, {"m/1": 100, "m/2": 95}, outputs)
    held = hold_shadow(ShadowGates(**bounds), found)
    assert len(bounds) == len(held)
    failed = [str(each) for each in held if not each.passed]
    assert [True] * len(fails) == [each.startswith(said) for each, said in zip(failed, fails, strict=True)]


def test_a_shadow_gate_without_an_output_fails():
    """What cannot be held is no reason to promote; a gate without a bound is refused."""
    constant = of_scores(np.ones(10), np.arange(10.0))
    for outputs in ({"label": {"equal": 1.0}}, {"score": constant}):
        found = Comparison("j", "d", ("m/1", "m/2"), 10, {"m/1": 10, "m/2": 10}, outputs)
        assert [False] == [each.passed for each in hold_shadow(ShadowGates(min_rank_correlation=-1), found)]
    with pytest.raises(ValueError, match="it has no bound"):
        ShadowGates()


def test_a_key_that_is_exchanged_is_worth_another_attempt(tmp_path):
    """What a refused model depends on are gates.yaml and the very keys that it names."""
    (tmp_path / "gates.yaml").write_text("version: 1\nmodels: {'*': {signed_by: [keys/release.pem]}}\n")
    (tmp_path / "churn.job.yaml").write_text(
        "version: 1\nname: churn\nsource: {query: SELECT :date AS id}\nkey: [id]\nmodel: file:churn.onnx\n"
        "output: {columns: {score: y}}\n"
    )
    job_file = load_job(tmp_path / "churn.job.yaml", {})
    seen = [fingerprint(None, job_file)]
    (tmp_path / "keys").mkdir()
    for key in ("one", "two"):
        (tmp_path / "keys" / "release.pem").write_text(key)
        seen += [fingerprint(None, job_file)] * 2
    assert [seen[0], seen[1], seen[3]] == list(dict.fromkeys(seen))
