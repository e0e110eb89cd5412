"""Confidence intervals: published numbers, limits and coverage."""

import numpy as np
import pytest

from common.intervals import Interval, auroc_interval, wilson
from common.metrics import ClassificationCounts, count, derive, intervals


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Stat. Med. 17:857, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_in_success_and_failure() -> None:
    a, b = wilson(3, 17), wilson(14, 17)
    assert a is not None
    assert b is not None
    assert (a.low, a.high) == pytest.approx((1 - b.high, 1 - b.low))


def test_wilson_without_trials_is_undefined() -> None:
    assert wilson(0, 0) is None


def test_a_perfect_auroc_gets_the_exact_one_sided_bound() -> None:
    assert auroc_interval(1.0, 0.0, 1) == Interval(pytest.approx(0.025), 1.0)
    found = auroc_interval(1.0, 0.0, 20)
    assert found.low == pytest.approx(0.025 ** (1 / 20))  # all of 20 right, with probability 2.5 %
    assert found.high == 1.0
    assert auroc_interval(0.0, 0.0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))


@pytest.mark.parametrize("auroc", [1e-9, 0.01, 0.5, 0.97, 1 - 1e-9])
@pytest.mark.parametrize("deviation", [1e-6, 0.05, 0.5])
def test_an_auroc_interval_is_inside_zero_and_one_and_holds_the_value(auroc: float, deviation: float) -> None:
    found = auroc_interval(auroc, deviation, 5)
    assert 0.0 <= found.low <= auroc <= found.high <= 1.0


def test_the_auroc_interval_holds_the_true_value_about_95_times_in_a_hundred() -> None:
    """Normal scores a distance d apart have AUROC Phi(d / sqrt 2); here d = 1.19024 gives 0.8."""
    rng = np.random.default_rng(11)
    labels = np.repeat([0, 1], [60, 25])
    inside = 0
    for _ in range(400):
        scores = 1 / (1 + np.exp(-(rng.normal(size=85) + 1.19024 * labels)))
        found = intervals(count(np.stack([1 - scores, scores], axis=1), labels))["auroc"]
        assert found is not None
        inside += found.low <= 0.8 <= found.high
    assert 0.92 <= inside / 400 <= 0.985


def test_two_classes_have_five_intervals_and_more_classes_two() -> None:
    two = count(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), np.array([0, 1, 0]))
    assert set(intervals(two)) == {"accuracy", "sensitivity", "specificity", "precision", "auroc"}
    assert intervals(two)["accuracy"] == wilson(2, 3)
    assert intervals(two)["sensitivity"] == wilson(1, 1)
    assert intervals(two)["specificity"] == intervals(two)["precision"] == wilson(1, 2)
    assert set(intervals(ClassificationCounts.zeros(3))) == {"accuracy", "auroc"}


def test_what_is_undefined_has_no_interval() -> None:
    assert set(intervals(ClassificationCounts.zeros(2)).values()) == {None}
    negatives_only = intervals(count(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])))
    assert {name for name, value in negatives_only.items() if value is None} == {"sensitivity", "precision", "auroc"}


def test_one_positive_among_a_thousand_gives_a_wide_auroc_interval() -> None:
    scores = np.linspace(0.01, 0.99, 1000)
    labels = np.zeros(1000, np.int64)
    labels[900] = 1
    found = intervals(count(np.stack([1 - scores, scores], axis=1), labels))["auroc"]
    assert found is not None
    assert found.low < 0.4
    assert found.high > 0.99


def test_the_interval_of_several_classes_is_about_the_mean_auroc() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 300)
    odds = np.exp(rng.normal(size=(300, 3)) + 1.5 * np.eye(3)[labels])
    counts = count(odds / odds.sum(axis=1, keepdims=True), labels)
    found, auroc = intervals(counts)["auroc"], derive(counts).auroc
    assert found is not None
    assert auroc is not None
    assert auroc - 0.06 < found.low < auroc < found.high < auroc + 0.06
