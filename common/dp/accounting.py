"""From the job's (epsilon, delta) to the noise of every release, and back: one budget, spent once.

All releases of the two ways here are Gaussian, so they make one Gaussian release together, with mu = sqrt(Σ mu²): the accounting
is exact, and no Rényi or other bound gives anything away. T full-batch steps with noise multiplier z have mu = sqrt(T) / z.

What epsilon covers, for one patient's images at one hospital: the centre of the features and the number of patients
(`common.dp.private_features`), all noised sums, and everything made from them - the path of the descent, its mean, the head,
every choice the coordinator makes by looking at them. What it does not cover:
  - counts that leave without noise: those of validation and test patients, and the numbers of images that a hospital declares;
  - constants chosen by trying them on the same patients (learning rate, clip, ...): the defaults here cost nothing, since they
    were fixed before the job; several jobs over the same patients spend a budget each, and their mu add as above;
  - the same patient at a second hospital: mu doubles there (nobody can see that it is one patient).
A validation count that chooses among heads would be such a release without noise; choose by it only on patients who are
not to be protected, or give each count a share of the budget.
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any, Self

from common.dp.gaussian import composed, epsilon_of, mu_of
from common.errors import ConfigError

CENTRE_SHARE = 0.15
"""Of mu², spent on the centre of the features; from 0.05 to 0.3 it makes little difference."""


@dataclass(frozen=True)
class Spending:
    """How the budget of a job is spent: mu of the centre of the features, and of all sums after it together."""

    centre_mu: float
    sums_mu: float

    @classmethod
    def of(cls, epsilon: float, delta: float, centre_share: float = CENTRE_SHARE) -> Self:
        """The whole budget; centre_share: of mu², 0 if nothing is centred.

        Raises:
            ConfigError: epsilon, delta or the share are out of their ranges.
        """
        if not 0 <= centre_share < 1:
            raise ConfigError(f"centre share: expected 0 or more and less than 1, got {centre_share}")
        mu = mu_of(epsilon, delta)
        return cls(mu * math.sqrt(centre_share), mu * math.sqrt(1 - centre_share))

    def epsilon(self, delta: float) -> float:
        """What has been spent when both are done."""
        return epsilon_of(composed([self.centre_mu, self.sums_mu]), delta)


def noise_multiplier(mu: float, steps: int) -> float:
    """The z of each of `steps` releases that make one of `mu` together: noise of z x sensitivity on each of them."""
    return math.sqrt(steps) / mu


def spent(multiplier: float, steps: int, delta: float, other_mu: float = 0.0) -> float:
    """The epsilon of `steps` full-batch releases with this noise multiplier, and of another release of `other_mu`."""
    return epsilon_of(composed([math.sqrt(steps) / multiplier, other_mu]), delta)


def poisson_spent(multiplier: float, steps: int, sampling_rate: float, delta: float, other_mu: float = 0.0) -> float:
    """The epsilon of `steps` releases over patients drawn anew, each with probability `sampling_rate`, unseen by anyone.

    By the distribution of the privacy loss (pessimistic rounding). It holds only if no one but the hospital knows who was drawn,
    and the release is divided by a number that does not depend on it.
    Source: Koskela et al. 2020, arXiv 1906.03049; Doroshenko et al. 2022, arXiv 2207.04380, as in dp-accounting.

    Raises:
        ConfigError: dp-accounting is not installed, or a number is out of its range.
    """
    if not 0 < sampling_rate <= 1:
        raise ConfigError(f"sampling rate: expected more than 0 and at most 1, got {sampling_rate}")
    accounting = _dp_accounting()
    step = accounting.PoissonSampledDpEvent(sampling_rate, accounting.GaussianDpEvent(multiplier))
    account = accounting.pld.PLDAccountant()
    account.compose(accounting.SelfComposedDpEvent(step, steps))
    if other_mu > 0:
        account.compose(accounting.GaussianDpEvent(1.0 / other_mu))
    return float(account.get_epsilon(delta))


def poisson_noise_multiplier(
    epsilon: float, delta: float, steps: int, sampling_rate: float, other_mu: float = 0.0
) -> float:
    """The least noise multiplier, to a part in a thousand, with which `poisson_spent` stays within epsilon.

    Raises:
        ConfigError: as `poisson_spent`, or what is already spent leaves nothing.
    """
    mu = mu_of(epsilon, delta)
    if other_mu >= mu:
        raise ConfigError(f"the other releases spend mu {other_mu:.4g} of the {mu:.4g} that epsilon {epsilon} allows")
    # Sampling never costs: the full batch bounds the noise from above.
    high = noise_multiplier(math.sqrt(mu**2 - other_mu**2), steps)
    low = high / 2
    while low > 1e-2 and poisson_spent(low, steps, sampling_rate, delta, other_mu) <= epsilon:
        low, high = low / 2, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        enough = poisson_spent(middle, steps, sampling_rate, delta, other_mu) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return high


def _dp_accounting() -> Any:
    try:
        importlib.import_module("dp_accounting.pld")
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise ConfigError(
            "accounting of sampled releases needs the package dp-accounting: pip install 'flwr[dp]'; "
            "full-batch releases need nothing"
        ) from error
