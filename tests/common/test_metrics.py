"""Metrics against scikit-learn, and the laws of counts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from common.head import softmax
from common.metrics import (
    CALIBRATION_BINS,
    HIGHER_IS_BETTER,
    SCORE_BINS,
    ClassificationCounts,
    Metrics,
    better,
    count,
    count_each,
    derive,
    reliability,
    score_bin,
    score_edges,
    worst,
)

ARRAYS = ("confusion", "histograms", "calibration", "losses")


def cases(seed: int, examples: int, classes: int, spread: float = 1.0) -> tuple[Any, Any]:
    """Probabilities (N, C) that know something of the labels (N,); a large spread makes them very confident."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(size=(examples, classes)) + np.eye(classes)[labels]
    return softmax(spread * logits), labels


def same(a: ClassificationCounts, b: ClassificationCounts) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


def plain_ece(probabilities: Any, labels: Any) -> float:
    """Guo et al. 2017, equation 3, written as a loop."""
    total = 0.0
    for k in range(CALIBRATION_BINS):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if min(int(row.max() * CALIBRATION_BINS), CALIBRATION_BINS - 1) == k
        ]
        total += abs(sum(hit for _, hit in inside) - sum(confidence for confidence, _ in inside))
    return total / len(labels)


@pytest.mark.parametrize("spread", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_two_classes_agree_with_scikit_learn(seed: int, spread: float) -> None:
    p, y = cases(seed, 700, 2, spread)
    predicted = p.argmax(axis=1)
    found = derive(count(p, y))
    assert found.n == 700
    assert found.accuracy == pytest.approx(reference.accuracy_score(y, predicted))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert found.sensitivity == pytest.approx(reference.recall_score(y, predicted))
    assert found.specificity == pytest.approx(reference.recall_score(y, predicted, pos_label=0))
    assert found.precision == pytest.approx(reference.precision_score(y, predicted))
    assert found.f1 == pytest.approx(reference.f1_score(y, predicted))
    assert found.brier == pytest.approx(reference.brier_score_loss(y, p[:, 1]), abs=1e-6)
    assert found.log_loss == pytest.approx(reference.log_loss(y, p), abs=1e-6)
    assert found.ece == pytest.approx(plain_ece(p, y), abs=1e-6)


@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("classes", [3, 5])
def test_more_classes_agree_with_the_macro_averages_of_scikit_learn(classes: int, spread: float) -> None:
    p, y = cases(classes, 900, classes, spread)
    predicted = p.argmax(axis=1)
    found = derive(count(p, y))
    specificities = [reference.recall_score(y == c, predicted == c, pos_label=False) for c in range(classes)]
    assert found.accuracy == pytest.approx(reference.accuracy_score(y, predicted))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert found.sensitivity == pytest.approx(reference.recall_score(y, predicted, average="macro"))
    assert found.specificity == pytest.approx(np.mean(specificities))
    assert found.precision == pytest.approx(reference.precision_score(y, predicted, average="macro"))
    assert found.f1 == pytest.approx(reference.f1_score(y, predicted, average="macro"))
    assert found.brier == pytest.approx(((p - np.eye(classes)[y]) ** 2).sum(axis=1).mean(), abs=1e-6)
    assert found.log_loss == pytest.approx(reference.log_loss(y, p), abs=1e-6)
    assert found.ece == pytest.approx(plain_ece(p, y), abs=1e-6)
    assert found.auroc == pytest.approx(reference.roc_auc_score(y, p, multi_class="ovr"), abs=0.002)


def test_four_examples_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    found = derive(count(p, np.array([0, 0, 1, 1])))
    assert (found.accuracy, found.sensitivity, found.specificity, found.precision) == (0.5, 0.5, 0.5, 0.5)
    assert found.auroc == 0.75  # of the pairs .8>.1, .8>.6, .3>.1 are right, .3<.6 is wrong
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.04 + 0.49) / 4)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean())
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2 + 0.7) / 4)  # four bins, one example in each


def test_no_example_gives_none_everywhere() -> None:
    found = derive(count(np.zeros((0, 3)), np.zeros(0, np.int64)))
    assert found.n == 0
    assert all(getattr(found, name) is None for name in HIGHER_IS_BETTER)


def test_a_hospital_with_only_negatives_has_no_sensitivity_precision_f1_or_auroc() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    found = derive(count(p, np.array([0, 0, 0])))
    assert found.specificity == pytest.approx(2 / 3)
    assert found.accuracy == found.balanced_accuracy == found.specificity
    assert [found.sensitivity, found.precision, found.f1, found.auroc, found.average_precision] == [None] * 5


def test_a_hospital_with_only_positives_has_no_specificity_or_auroc() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = derive(count(p, np.array([1, 1])))
    assert (found.sensitivity, found.precision) == (0.5, 1.0)
    assert [found.specificity, found.auroc, found.average_precision] == [None] * 3


def test_a_class_without_examples_is_left_out_of_the_means() -> None:
    p, y = cases(4, 600, 3)
    kept = y != 2
    p, y = p[kept], y[kept]
    predicted = p.argmax(axis=1)
    found = derive(count(p, y))
    labels = [0, 1]
    assert found.sensitivity == pytest.approx(reference.recall_score(y, predicted, labels=labels, average="macro"))
    assert found.precision == pytest.approx(reference.precision_score(y, predicted, labels=labels, average="macro"))
    assert found.f1 == pytest.approx(reference.f1_score(y, predicted, labels=labels, average="macro"))
    assert found.auroc == pytest.approx(np.mean([reference.roc_auc_score(y == c, p[:, c]) for c in labels]), abs=0.003)


def test_a_class_never_predicted_has_precision_zero() -> None:
    found = derive(count(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1])))
    assert (found.precision, found.f1, found.sensitivity) == (0.0, 0.0, 0.0)


def test_certain_and_wrong_costs_fifty_nats_not_infinity() -> None:
    found = derive(count(np.array([[1.0, 0.0]]), np.array([1])))
    assert (found.log_loss, found.brier) == (50.0, 1.0)


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 4), cuts=st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=50, deadline=None)
def test_counts_of_any_split_equal_the_pooled_counts(seed: int, classes: int, cuts: list[int]) -> None:
    p, y = cases(seed, 60, classes, spread=3.0)
    order = np.random.default_rng(seed).permutation(60)
    total = ClassificationCounts.zeros(classes)
    for part in np.split(order, sorted(cuts)):
        total = total + count(p[part], y[part])
    assert same(total, count(p, y))
    assert derive(total) == derive(count(p, y))


@given(seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 3))
@settings(max_examples=25, deadline=None)
def test_counts_are_a_commutative_monoid(seeds: tuple[int, int, int]) -> None:
    a, b, c = (count(*cases(seed, 20, 3)) for seed in seeds)
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(a + ClassificationCounts.zeros(3), a)


def test_every_example_is_counted_once_in_each_table() -> None:
    counts = count(*cases(2, 321, 4))
    assert counts.n == counts.calibration[0].sum() == 321
    assert counts.classes == 4
    assert counts.histograms.sum(axis=(1, 2)).tolist() == [321] * 4
    assert np.array_equal(counts.histograms[:, 1].sum(axis=1), counts.support)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=50))
def test_score_bins_keep_the_order_of_the_scores(scores: list[float]) -> None:
    bins = score_bin(np.sort(np.array(scores)))
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < SCORE_BINS


def test_score_edges_bound_the_bins() -> None:
    edges = score_edges()
    assert (edges[0], edges[SCORE_BINS // 2], edges[-1]) == (0.0, 0.5, 1.0)
    middles = (edges[1:] + edges[:-1]) / 2
    inner = slice(40, -40)  # further out 1 - p has too few digits for the middle to be told from the edge
    assert np.array_equal(score_bin(middles)[inner], np.arange(SCORE_BINS)[inner])
    assert score_bin(np.array([0.0, 1.0])).tolist() == [0, SCORE_BINS - 1]


def test_reliability_shows_the_filled_bins_only() -> None:
    confidence, accuracy, number = reliability(
        count(np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]]), np.array([0, 0, 1]))
    )
    assert confidence == pytest.approx([0.6, 0.9])
    assert accuracy.tolist() == [1.0, 0.5]
    assert number.tolist() == [1, 2]


def metrics(**values: float | None) -> Metrics:
    return Metrics(10, **({name: None for name in HIGHER_IS_BETTER} | values))


@pytest.mark.parametrize(
    ("metric", "candidate", "incumbent", "expected"),
    [
        ("auroc", 0.9, 0.8, True),
        ("auroc", 0.8, 0.9, False),
        ("auroc", 0.8, 0.8, False),
        ("log_loss", 0.2, 0.3, True),
        ("log_loss", 0.3, 0.2, False),
        ("auroc", None, 0.1, False),
        ("auroc", None, None, False),
        ("auroc", 0.1, None, True),
    ],
)
def test_better(metric: str, candidate: float | None, incumbent: float | None, expected: bool) -> None:
    assert better(metric, candidate, incumbent) is expected


def test_worst_hospital_per_metric_ignores_the_undefined() -> None:
    found = worst(
        {
            "a": metrics(auroc=0.9, log_loss=0.2),
            "b": metrics(auroc=0.7, log_loss=0.1),
            "c": metrics(auroc=None, log_loss=0.1),
        }
    )
    assert found == {"auroc": ("b", 0.7), "log_loss": ("a", 0.2)}


def test_the_table_of_metrics_names_the_fields_of_metrics() -> None:
    assert ["n", *HIGHER_IS_BETTER] == list(Metrics.__dataclass_fields__)


@pytest.mark.parametrize(("heads", "examples", "classes"), [(16, 10, 2), (5, 60, 3), (1, 1, 2), (3, 0, 2)])
def test_many_heads_are_counted_at_once_as_one_by_one(heads, examples, classes):
    rng = np.random.default_rng(heads)
    probabilities = rng.dirichlet(np.full(classes, 0.2), (heads, examples))
    probabilities[:, :1] = np.eye(classes)[0]  # certain, and perhaps wrong
    labels = rng.integers(0, classes, examples)
    for one, found in zip(probabilities, count_each(probabilities, labels), strict=True):
        alone = count(one, labels)
        for name in ("confusion", "histograms", "calibration", "losses"):
            assert getattr(found, name).dtype == np.int64
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
