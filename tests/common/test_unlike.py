"""The distance from the training images: its formula, what travels, and the limit."""

import numpy as np
import pytest

from common.head import Standardisation
from common.metrics import SCORE_BINS
from common.ridge import Ridge
from common.sums import Sums
from common.unlike import FALSE_ALARMS, Spread, distance_bins, limit_of

D, N = 100, 4000


@pytest.fixture(scope="module")
def features():
    """(N, D), of strongly related features with means and scales of their own."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(N, 8)) @ rng.normal(size=(8, D)) * 2 + rng.normal(size=(N, D))
    return (mixed * np.linspace(0.5, 3, D) + np.linspace(-5, 20, D)).astype(np.float32)


@pytest.fixture(scope="module")
def spread(features):
    wide = features.astype(np.float64)
    standardisation = Standardisation.from_sums(N, wide.sum(0), (wide**2).sum(0))
    labels = np.arange(N) % 2
    parts = [Sums.of(standardisation.apply(features[rows]), labels[rows], 2) for rows in (slice(0, 900), slice(900, N))]
    return Spread.of(Ridge(parts[0] + parts[1]), standardisation)


def test_it_is_the_mahalanobis_distance_where_the_covariance_is_of_that_kind(features, spread):
    """Eight directions and the same noise in all others: more directions change nothing but rounding."""
    z = (features - spread.mean) / spread.scale
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    wide = np.maximum(values, values[: D - 64].mean())
    wide[: D - 64] = values[: D - 64].mean()
    expected = ((z[:50] @ vectors) ** 2 / wide).sum(axis=1) / D
    np.testing.assert_allclose(spread.squared_distances(features[:50]), expected, rtol=0.02)
    assert spread.axes.shape == (64, D)


def test_training_images_are_at_1_and_a_step_against_the_relations_is_far(features, spread):
    assert spread.squared_distances(features).mean() == pytest.approx(1.0, abs=0.02)
    # Each number on its own is usual: the features of different images.
    rng = np.random.default_rng(1)
    torn = np.stack([rng.permutation(features[:, column])[:50] for column in range(D)], 1)
    assert np.median(spread.squared_distances(torn)) > 4 * np.median(spread.squared_distances(features))


def test_fewer_examples_than_directions_and_a_constant_feature(features):
    few = features[:20].copy()
    few[:, 3] = 7.0
    wide = few.astype(np.float64)
    standardisation = Standardisation.from_sums(20, wide.sum(0), (wide**2).sum(0))
    found = Spread.of(Ridge(Sums.of(standardisation.apply(few), np.arange(20) % 2, 2)), standardisation)
    assert found.axes.shape == (64, D)
    lengths = np.linalg.norm(found.axes, axis=1)
    assert lengths[:19] == pytest.approx(np.ones(19), abs=1e-3)
    assert not lengths[19:].any()
    assert found.mean[3] == 7.0
    assert (found.variances > 0).all()
    assert found.squared_distances(few).max() < 20 < found.squared_distances(features[20:]).min()


def test_without_the_sums_of_products_it_is_the_length_of_the_standardised_vector(features):
    wide = features.astype(np.float64)
    plain = Spread.diagonal(N, wide.sum(0), (wide**2).sum(0))
    assert plain.axes.shape == (0, D)
    expected = (((wide - wide.mean(0)) / wide.std(0)) ** 2).mean(axis=1)
    np.testing.assert_allclose(plain.squared_distances(features), expected, rtol=0.01)


def test_what_travels_gives_the_same_distances_to_the_last_bit(features, spread):
    again = Spread.from_arrays(spread.arrays())
    assert np.array_equal(again.squared_distances(features[:20]), spread.squared_distances(features[:20]))
    assert spread.arrays()["axes"].dtype == np.float16


def test_bins_are_fine_around_1_and_keep_the_order():
    distances = np.geomspace(0.01, 1000, 400)
    bins = distance_bins(distances)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] > 0
    assert bins[-1] < SCORE_BINS
    assert distance_bins(np.array([1.04]))[0] > distance_bins(np.array([1.0]))[0]


def test_the_limit_by_hand():
    """Of 199 images 5 may lie beyond: (5 + 1) / 200 = 0.03."""
    assert FALSE_ALARMS == 0.03
    distances = np.concatenate([np.linspace(0.5, 1.5, 194), np.linspace(3, 4, 5)])
    histogram = np.bincount(distance_bins(distances), minlength=SCORE_BINS)
    found = limit_of(histogram, 64)
    assert found is not None
    assert 1.5 < found.distance < 1.56
    assert (found.false_alarms, found.images, found.directions) == (pytest.approx(0.03), 199, 64)
    assert (distances > found.distance).sum() == 5


def test_too_few_images_promise_nothing():
    assert limit_of(np.bincount([128] * 32, minlength=SCORE_BINS), 0) is None
    assert limit_of(np.bincount([128] * 33, minlength=SCORE_BINS), 0) is not None
    assert limit_of(np.zeros(SCORE_BINS, np.int64), 0) is None
