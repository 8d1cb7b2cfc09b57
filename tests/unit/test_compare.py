"""The figures of two models' scores against scipy's and against what is known of made-up ones."""

import numpy as np
import pytest
from scipy import stats

from batchpred.compare_picture import picture
from jobs.comparison import Comparison, of_scores, rank_correlation

RANDOM = np.random.default_rng(9)


@pytest.mark.parametrize("digits", [1, 9])
def test_rank_correlation_is_scipys(digits):
    """With few ties or many, Spearman's correlation is scipy's; a constant score has none."""
    old = np.round(RANDOM.random(500), digits)
    new = np.round(old + RANDOM.normal(size=500) / 4, digits)
    assert stats.spearmanr(old, new).statistic == pytest.approx(rank_correlation(old, new))
    assert rank_correlation(old, np.ones(500)) is None


def test_figures_of_known_scores():
    """The same scores agree in all; turned round, every row changes its decile and the correlation is -1."""
    scores = RANDOM.permutation(1000) / 1000
    same = of_scores(scores, scores)
    assert (1.0, 0.0, 0.0, 100) == (
        same["same"], same["largest_change"], same["changed_decile"], same["deciles"][3][3],
    )  # fmt: skip
    turned = of_scores(scores, -scores)
    assert (-1.0, 1.0) == (pytest.approx(turned["rank_correlation"]), turned["changed_decile"])
    assert [100] * 10 == [turned["deciles"][i][9 - i] for i in range(10)]


def test_the_picture_is_one_square_an_output():
    """A name with markup in it is text in the picture; outputs that are no numbers are left out."""
    scores = RANDOM.random(200)
    drawn = picture(
        Comparison(
            "<b>",
            "2026-01-01",
            ("m/1", "m/2"),
            outputs={"s": of_scores(scores, scores), "label": {"equal": 1}},
        )
    )
    assert 101 == drawn.count("<rect")
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn
