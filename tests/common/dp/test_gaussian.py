import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from common.dp.gaussian import composed, delta_of, epsilon_of, log_delta_of, mu_of, sigma_of
from common.errors import ConfigError

EPSILONS = st.floats(0.01, 50.0)
DELTAS = st.floats(-30.0, -0.5).map(math.exp)


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 3.0, 8.0])
def test_the_closed_formula_where_it_can_be_computed_plainly(mu: float, epsilon: float) -> None:
    plain = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert delta_of(mu, epsilon) == pytest.approx(plain, rel=1e-9, abs=1e-15)


def test_by_hand_at_epsilon_zero() -> None:
    assert delta_of(2.0, 0.0) == pytest.approx(0.6826894921370859)  # one standard deviation


@given(EPSILONS, DELTAS)
def test_noise_and_epsilon_are_inverse(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-5)
    assert epsilon_of(mu, delta) <= epsilon * (1 + 1e-12)
    assert log_delta_of(mu, epsilon) <= math.log(delta)


@given(EPSILONS, DELTAS, st.floats(1.001, 3.0))
def test_less_noise_costs_more(epsilon: float, delta: float, factor: float) -> None:
    mu = mu_of(epsilon, delta)
    assert log_delta_of(mu * factor, epsilon) > log_delta_of(mu, epsilon)
    assert epsilon_of(mu * factor, delta) > epsilon_of(mu, delta)
    assert mu_of(epsilon * factor, delta) > mu


def test_deep_tails_are_not_rounded_away() -> None:
    assert log_delta_of(0.01, 1.0) == pytest.approx(-5013.5, abs=5.0)  # -a²/2 with a = 100, and a factor
    assert log_delta_of(200.0, 1.0) == pytest.approx(0.0)


def test_sigma_grows_with_the_sensitivity_and_is_below_the_classical_one() -> None:
    sigma = sigma_of(0.5, 1e-5, 3.0)
    assert sigma == pytest.approx(3.0 * sigma_of(0.5, 1e-5, 1.0))
    assert sigma < 3.0 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5


def test_releases_compose_by_pythagoras() -> None:
    assert composed([3.0, 4.0]) == 5.0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (math.inf, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_numbers_out_of_range_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigError):
        mu_of(epsilon, delta)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_one_release_agrees_with_the_privacy_loss_distribution(epsilon: float) -> None:
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    theirs = pld.from_gaussian_mechanism(sigma_of(epsilon, 1e-5, 1.0)).get_epsilon_for_delta(1e-5)
    assert theirs == pytest.approx(epsilon, rel=0.01)
