"""Wilson's interval and Fleiss' κ against published examples and plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from training.metrics.agreement import fleiss_kappa, wilson

FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
"""Fourteen raters, ten items, five categories; the textbooks' κ is 0.210."""


@pytest.mark.parametrize(("hits", "asked"), [(0, 7), (7, 7), (1, 2), (62, 100), (1240, 2000), (3, 900)])
def test_wilson_is_scipys(hits, asked):
    expected = binomtest(hits, asked).proportion_ci(0.95, "wilson")
    share, low, high = wilson(hits, asked)
    assert share == hits / asked and 0 <= low <= share <= high <= 1
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_answers_nothing_is_known():
    assert np.isnan(wilson(0, 0)).all()
    with pytest.raises(ValueError, match="8 of 7"):
        wilson(8, 7)


def test_kappa_of_the_textbook():
    assert fleiss_kappa(FLEISS) == pytest.approx(0.20993070442195522, abs=1e-12)


def test_kappa_of_agreement_of_its_opposite_and_of_none():
    assert fleiss_kappa([[5, 0], [0, 5], [5, 0]]) == pytest.approx(1)
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1)
    assert np.isnan(fleiss_kappa([[5, 0], [5, 0]])) and np.isnan(fleiss_kappa([[1, 0], [0, 1]]))


def test_kappa_of_items_with_different_numbers_of_raters():
    """An item of one rater says nothing of agreement."""
    assert fleiss_kappa([*FLEISS, [0, 1, 0, 0, 0]]) == fleiss_kappa(FLEISS)
    counts = np.array([[3, 1], [2, 0], [0, 2]])
    shares = counts.sum(0) / counts.sum()
    observed = np.mean([(3 * 2 + 0) / (4 * 3), 1, 1])
    assert fleiss_kappa(counts) == pytest.approx((observed - (shares**2).sum()) / (1 - (shares**2).sum()), abs=1e-12)
