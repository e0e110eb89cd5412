import math

import numpy as np
import pytest
from scipy.stats import kstest

from common.dp import noise
from common.dp.gaussian import delta_of
from common.errors import DataError


def _entropy(seed: int) -> noise.Entropy:
    return np.random.default_rng(seed).bytes


def test_the_draws_are_gaussian() -> None:
    drawn = noise.discrete_gaussian(200_000, _entropy(1)) / 2.0**noise.GRID_BITS
    assert drawn.mean() == pytest.approx(0.0, abs=4 / math.sqrt(200_000))
    assert drawn.std() == pytest.approx(1.0, rel=0.01)
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn).max() > 3.5


@pytest.mark.parametrize("numerator", [0, 1, 300, 1024, 2500, 5000])
def test_a_draw_of_exp_minus(numerator: int) -> None:
    drawn = noise._exp_minus(np.full(100_000, numerator, np.uint64), 10, _entropy(2))
    assert drawn.mean() == pytest.approx(math.exp(-numerator / 1024), abs=0.007)


def test_the_discrete_laplace_has_its_scale() -> None:
    drawn = noise._discrete_laplace(300_000, _entropy(3)) / 2.0**noise.GRID_BITS
    assert np.abs(drawn).mean() == pytest.approx(1.0, rel=0.01)
    assert np.median(drawn) == pytest.approx(0.0, abs=0.01)


def test_the_secure_generator_is_the_default_and_never_repeats() -> None:
    assert (noise.discrete_gaussian(50) != noise.discrete_gaussian(50)).any()
    assert len(noise.discrete_gaussian(0)) == 0


def test_shares_of_the_honest_make_sigma() -> None:
    sigma, honest, numbers = 3.0, 4, 100_000
    scale = noise.share_scale(sigma, honest)
    total = sum(noise.noised(np.zeros(numbers), scale, _entropy(seed)) for seed in range(honest))
    assert noise.from_units(np.asarray(total), scale).std() == pytest.approx(sigma, rel=0.01)


def test_values_come_back_up_to_the_noise_and_sums_are_whole_units() -> None:
    values = np.array([[1.5e6, -2.0], [0.1, 7.0]])
    units = noise.noised(values, 0.01, _entropy(4)) + noise.noised(values, 0.01, _entropy(5))
    assert units.dtype == np.int64
    assert noise.from_units(units, 0.01) == pytest.approx(2 * values, abs=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e12])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="nothing left"):
        noise.noised(np.array([0.0, value]), 1.0)


def test_rounding_is_paid_for() -> None:
    sigma = noise.sigma_with_rounding(0.7, 30.0, 4000, 4)
    unit = noise.unit_of(noise.share_scale(sigma, 4))
    assert sigma == pytest.approx(30.0 * (0.7 + unit * math.sqrt(4000)))
    assert 1.0 < sigma / (30.0 * 0.7) < 1.001


def test_the_discrete_gaussian_has_the_delta_of_the_continuous_one() -> None:
    deviation, shift, epsilon = 2**14, 2**13, 1.0  # the grid of the code is finer still
    x = np.arange(-9 * deviation, 9 * deviation + shift)
    mass = np.exp(-(x**2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
    moved = np.exp(-((x - shift) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
    delta = np.maximum(moved - math.exp(epsilon) * mass, 0.0).sum()
    assert delta == pytest.approx(delta_of(shift / deviation, epsilon), rel=1e-4)
