import importlib
import math

import pytest

from common.dp.accounting import (
    Spending,
    noise_multiplier,
    poisson_noise_multiplier,
    poisson_spent,
    spent,
)
from common.dp.gaussian import mu_of
from common.errors import ConfigError


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_both_shares_together_are_the_budget(epsilon: float) -> None:
    spending = Spending.of(epsilon, 1e-5, 0.2)
    assert spending.epsilon(1e-5) == pytest.approx(epsilon, rel=1e-6)
    assert spending.centre_mu**2 / (spending.centre_mu**2 + spending.sums_mu**2) == pytest.approx(0.2)


def test_steps_are_one_release_of_the_same_mu() -> None:
    multiplier = noise_multiplier(mu_of(3.0, 1e-5), 100)
    assert spent(multiplier, 100, 1e-5) == pytest.approx(3.0, rel=1e-6)
    assert spent(multiplier, 100, 1e-5, other_mu=0.3) > 3.0
    assert multiplier == pytest.approx(10.0 / mu_of(3.0, 1e-5))


@pytest.mark.parametrize(("epsilon", "steps"), [(0.5, 80), (1.0, 80), (3.0, 80), (8.0, 60)])
def test_an_independent_accountant_agrees_to_one_percent(epsilon: float, steps: int) -> None:
    accounting = pytest.importorskip("dp_accounting")
    pytest.importorskip("dp_accounting.pld")
    spending = Spending.of(epsilon, 1e-5)
    account = accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    account.compose(accounting.GaussianDpEvent(1.0 / spending.centre_mu))
    step = accounting.GaussianDpEvent(noise_multiplier(spending.sums_mu, steps))
    account.compose(accounting.SelfComposedDpEvent(step, steps))
    assert account.get_epsilon(1e-5) == pytest.approx(epsilon, rel=0.01)


def test_renyi_bounds_it_from_above() -> None:
    accounting = pytest.importorskip("dp_accounting")
    account = accounting.rdp.RdpAccountant()
    account.compose(accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(noise_multiplier(0.7, 80)), 80))
    assert spent(noise_multiplier(0.7, 80), 80, 1e-5) < account.get_epsilon(1e-5)


def test_sampling_everyone_is_the_full_batch() -> None:
    pytest.importorskip("dp_accounting")
    assert poisson_spent(20.0, 80, 1.0, 1e-5) == pytest.approx(spent(20.0, 80, 1e-5), rel=0.01)


def test_sampled_noise_stays_within_epsilon_and_is_less() -> None:
    pytest.importorskip("dp_accounting")
    multiplier = poisson_noise_multiplier(3.0, 1e-5, 50, 0.2, other_mu=0.2)
    reached = poisson_spent(multiplier, 50, 0.2, 1e-5, other_mu=0.2)
    assert 2.97 < reached <= 3.0
    assert multiplier < noise_multiplier(math.sqrt(mu_of(3.0, 1e-5) ** 2 - 0.2**2), 50)


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="sampling rate"):
        poisson_spent(1.0, 10, rate, 1e-5)


def test_an_overspent_budget_and_a_bad_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="other releases"):
        poisson_noise_multiplier(1.0, 1e-5, 10, 0.5, other_mu=5.0)
    with pytest.raises(ConfigError, match="centre share"):
        Spending.of(1.0, 1e-5, 1.0)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"flwr\[dp\]"):
        poisson_spent(1.0, 10, 0.5, 1e-5)
