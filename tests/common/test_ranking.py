"""AUROC, average precision and the curves from histograms."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from common.metrics import SCORE_BINS, count
from common.ranking import Ranking, precision_recall_curve, ranking, roc_curve

N = 5000


def labelled(share: float) -> Any:
    return (np.random.default_rng(7).random(N) < share).astype(np.int64)


def read(log_odds: Any, labels: Any) -> tuple[Ranking, Any]:
    """What the histogram of the second class says, and the scores it was made of."""
    scores = 1 / (1 + np.exp(-log_odds))
    found = ranking(count(np.stack([1 - scores, scores], axis=1), labels).histograms[1])
    assert found is not None
    return found, scores


def histogram(*bins: tuple[int, int]) -> Any:
    """(negatives, positives) of the first bins, the rest empty."""
    table = np.zeros((2, SCORE_BINS), np.int64)
    table[:, : len(bins)] = np.array(bins).T
    return table


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("spread", "shift", "share"),
    [
        (1.0, 0.0, 0.3),
        (1.0, -3.0, 0.3),  # a model that says "no" to nearly everything
        (8.0, 0.0, 0.3),  # very confident
        (20.0, 0.0, 0.3),  # many scores that are exactly 1.0
        (1.0, 0.0, 0.05),  # few positives
        (8.0, -10.0, 0.05),  # few positives, very confident
    ],
)
def test_within_two_thousandths_of_scikit_learn(seed: int, spread: float, shift: float, share: float) -> None:
    labels = labelled(share)
    found, scores = read(spread * (np.random.default_rng(seed).normal(size=N) + 1.2 * labels) + shift, labels)
    assert found.auroc == pytest.approx(reference.roc_auc_score(labels, scores), abs=0.002)
    assert found.average_precision == pytest.approx(reference.average_precision_score(labels, scores), abs=0.002)


@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_the_error_of_the_auroc_is_within_its_bound(spread: float) -> None:
    labels = labelled(0.3)
    found, scores = read(spread * (np.random.default_rng(3).normal(size=N) + labels), labels)
    assert abs(found.auroc - reference.roc_auc_score(labels, scores)) <= found.auroc_error + 1e-12


def test_ties_between_scores_are_half_right_as_in_scikit_learn() -> None:
    labels = labelled(0.3)
    found, scores = read(np.round(2 * (np.random.default_rng(5).normal(size=N) + labels)) / 2, labels)
    assert found.auroc == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-9)
    assert found.auroc_error > 0.01


@pytest.mark.parametrize("bins", [[(2, 3)], [(3, 1), (0, 2)], [(1, 1), (2, 1), (1, 0)], [(0, 4), (3, 0)]])
def test_average_precision_is_the_mean_over_all_orders_inside_the_bins(bins: list[tuple[int, int]]) -> None:
    orders: list[list[int]] = [[]]
    for negatives, positives in reversed(bins):
        inside = sorted(set(permutations([0] * negatives + [1] * positives)))
        orders = [[*before, *order] for before in orders for order in inside]
    exact = []
    for order in orders:
        hits = np.cumsum(order)
        exact.append(np.mean([hits[i] / (i + 1) for i in range(len(order)) if order[i]]))
    found = ranking(histogram(*bins))
    assert found is not None
    assert found.average_precision == pytest.approx(np.mean(exact), abs=1e-12)


def test_average_precision_of_large_bins_keeps_its_digits() -> None:
    """One bin of a million: every rank has precision a half, but for the few first."""
    found = ranking(histogram((500_000, 500_000)))
    assert found is not None
    assert found.average_precision == pytest.approx(0.5, abs=1e-5)
    assert found.auroc == 0.5


def test_without_positives_or_negatives_there_is_no_ranking() -> None:
    assert ranking(histogram((3, 0))) is None
    assert ranking(histogram((0, 3))) is None
    assert ranking(histogram((0, 0))) is None


def test_perfect_and_reversed_rankings() -> None:
    perfect, reversed_ = ranking(histogram((4, 0), (0, 6))), ranking(histogram((0, 6), (4, 0)))
    assert perfect == Ranking(1.0, 0.0, 0.0, 1.0)
    assert reversed_ is not None
    assert reversed_.auroc == 0.0


def test_deviation_by_hand() -> None:
    """Scores 1 2 3 4 of labels 0 1 0 1: AUROC 3/4, V10 = (1/2, 1), V01 = (1, 1/2), each of variance 1/8."""
    found = ranking(histogram((1, 0), (0, 1), (1, 0), (0, 1)))
    assert found is not None
    assert found.auroc == 0.75
    assert found.auroc_deviation == pytest.approx(np.sqrt(1 / 8 / 2 + 1 / 8 / 2))


def test_a_single_positive_is_taken_as_uncertain() -> None:
    found = ranking(histogram((900, 0), (0, 1), (100, 0)))
    assert found is not None
    assert found.auroc == pytest.approx(0.9)
    assert found.auroc_deviation >= np.sqrt(0.9 * 0.1)


def test_roc_curve_by_hand() -> None:
    false, true = roc_curve(histogram((1, 0), (0, 1), (1, 0), (0, 1)))
    assert len(false) == len(true) == SCORE_BINS + 1
    assert list(zip(false[-5:], true[-5:], strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


def test_precision_recall_curve_by_hand() -> None:
    recall, precision = precision_recall_curve(histogram((2, 0), (0, 1), (1, 0), (0, 1)))
    assert list(zip(recall, precision, strict=True)) == [(0.5, 1.0), (0.5, 0.5), (1.0, 2 / 3), (1.0, 0.4)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_auroc_is_the_area_under_its_curve(bins: list[tuple[int, int]]) -> None:
    found = ranking(histogram(*bins))
    if found is None:
        assert min(map(sum, zip(*bins, strict=True))) == 0
        return
    false, true = roc_curve(histogram(*bins))
    assert found.auroc == pytest.approx(np.trapezoid(true, false), abs=1e-12)
    assert 0.0 <= found.average_precision <= 1.0 + 1e-12
