"""The head and its standardisation: hand arithmetic and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.head import Head, Standardisation, softmax


def test_logits_and_probabilities_by_hand() -> None:
    head = Head(np.array([[1, 2], [0, -1]], np.float32), np.array([0.5, 0], np.float32))
    features = np.array([[3, 1], [0, 0]], np.float32)
    assert head.logits(features).tolist() == [[5.5, -1.0], [0.5, 0.0]]
    assert head.probabilities(features)[1, 0] == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_the_zero_head_gives_every_class_the_same_probability() -> None:
    head = Head.zeros(4, 3)
    assert head.probabilities(np.ones((2, 3), np.float32)).tolist() == [[0.25] * 4] * 2
    assert (head.weight.dtype, head.bias.dtype, head.nbytes) == (np.float32, np.float32, (4 * 3 + 4) * 4)


def test_distance_by_hand() -> None:
    a = Head(np.array([[3, 0]], np.float32), np.array([4], np.float32))
    assert a.distance(Head.zeros(1, 2)) == 5.0
    assert Head.zeros(1, 2).distance(a) == 5.0
    assert a.distance(a) == 0.0


def test_distance_of_large_heads_does_not_overflow() -> None:
    a = Head(np.full((1, 1), 3e38, np.float32), np.zeros(1, np.float32))
    b = Head(np.full((1, 1), -3e38, np.float32), np.zeros(1, np.float32))
    assert a.distance(b) == pytest.approx(6e38)


def test_softmax_of_large_logits() -> None:
    assert softmax(np.array([[1e6, 0.0], [-1e6, -1e6]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_softmax_ignores_a_shift() -> None:
    logits = np.array([[0.1, 0.7, -2.0]])
    assert softmax(logits + 123.0) == pytest.approx(softmax(logits))
    assert softmax(logits).sum() == pytest.approx(1.0)


def test_standardisation_from_sums_by_hand() -> None:
    """The values 1 and 3: mean 2, deviation 1; the values 0 and 8: mean 4, deviation 4."""
    found = Standardisation.from_sums(2, np.array([4.0, 8.0]), np.array([10.0, 64.0]))
    assert (found.mean.tolist(), found.scale.tolist()) == ([2.0, 4.0], [1.0, 4.0])
    assert found.apply(np.array([[3, 0]], np.float32)).tolist() == [[1.0, -1.0]]


def test_identity_changes_nothing() -> None:
    features = np.array([[1.5, -2.0]], np.float32)
    found = Standardisation.identity(2).apply(features)
    assert found.tolist() == features.tolist()
    assert found.dtype == np.float32


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.floats(0.01, 100.0), st.floats(-5.0, 5.0))
@settings(max_examples=50, deadline=None)
def test_sums_give_the_mean_and_deviation_of_the_examples(seed: int, n: int, spread: float, offset: float) -> None:
    x = spread * (np.random.default_rng(seed).normal(size=(n, 3)) + offset)
    found = Standardisation.from_sums(n, x.sum(axis=0), (x**2).sum(axis=0))
    half = 2.0**-11  # float16 keeps 11 bits
    assert found.mean == pytest.approx(x.mean(axis=0), rel=half, abs=1e-7)
    # Deviations below 1e-4 are taken as 1e-4, inside the range of normal float16 numbers.
    assert found.scale == pytest.approx(np.maximum(x.std(axis=0), 1e-4), rel=half + 1e-6, abs=1e-7)
    assert (found.mean.dtype, found.scale.dtype) == (np.float16, np.float16)


@given(st.floats(-1e4, 1e4, width=32), st.integers(1, 3000))
@settings(max_examples=50, deadline=None)
def test_a_constant_feature_gets_scale_one(value: float, n: int) -> None:
    """Also when the sums were taken one example after the other, with all their rounding."""
    total = np.cumsum(np.full(n, value, np.float64))[-1:]
    squares = np.cumsum(np.full(n, value, np.float64) ** 2)[-1:]
    assert Standardisation.from_sums(n, total, squares).scale.tolist() == [1.0]


def test_no_example_gives_the_identity() -> None:
    found = Standardisation.from_sums(0, np.zeros(2), np.zeros(2))
    assert (found.mean.tolist(), found.scale.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_values_beyond_float16_stay_finite_and_scales_above_zero() -> None:
    mean, deviation = np.array([1e9, -1e9, 0.0]), np.array([1e8, 1e-3, 1e-9])
    found = Standardisation.from_sums(10, 10 * mean, 10 * (mean**2 + deviation**2))
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    tiny = Standardisation.from_sums(10, np.zeros(1), np.full(1, 10 * 1e-6**2))
    assert tiny.scale[0] == pytest.approx(1e-4, rel=1e-3)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_a_folded_head_scores_raw_features_as_the_head_scores_standardised_ones(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    raw = (spread * (rng.normal(size=(30, 5)) + rng.normal(size=5))).astype(np.float32)
    wide = raw.astype(np.float64)
    standardisation = Standardisation.from_sums(30, wide.sum(axis=0), (wide**2).sum(axis=0))
    head = Head(rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    expected = head.logits(standardisation.apply(raw))
    assert standardisation.fold(head).logits(raw) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_fold_by_hand() -> None:
    standardisation = Standardisation(np.array([2], np.float16), np.array([4], np.float16))
    folded = standardisation.fold(Head(np.array([[8]], np.float32), np.array([1], np.float32)))
    assert (folded.weight.tolist(), folded.bias.tolist()) == ([[2.0]], [-3.0])
    assert (folded.weight.dtype, folded.bias.dtype) == (np.float32, np.float32)
