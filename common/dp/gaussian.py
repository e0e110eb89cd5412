"""One release with Gaussian noise: exactly which (epsilon, delta) it gives, and how much noise an (epsilon, delta) needs.

A release of sensitivity Δ (L2) with noise N(0, σ²) on every number is described by mu = Δ / σ alone:

    delta(epsilon) = Φ(mu/2 - epsilon/mu) - exp(epsilon) Φ(-mu/2 - epsilon/mu)

Source: Balle and Wang 2018, arXiv 1805.06530, theorem 8. Dong, Roth and Su 2019, arXiv 1905.02383, for mu as a measure of its
own (Gaussian differential privacy) and for what several releases make together: sqrt(Σ mu²), exactly (corollary 3.3).
"""

import math
from collections.abc import Callable, Iterable

from common.errors import ConfigError

_LOG_ROOT_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_LEAST_MU, _GREATEST_MU = 1e-9, 1e4
_GREATEST_EPSILON = 1e8


def delta_of(mu: float, epsilon: float) -> float:
    """The least delta for which a release with this mu > 0 is (epsilon, delta) private; epsilon >= 0."""
    return math.exp(log_delta_of(mu, epsilon))


def log_delta_of(mu: float, epsilon: float) -> float:
    """The natural logarithm of `delta_of`, precise where delta itself would be rounded to 0.

    With a = epsilon/mu - mu/2, b = a + mu, density φ and Mills' ratio M(x) = Φ(-x) / φ(x), exp(epsilon) φ(b) = φ(a), so that
    delta = φ(a) (M(a) - M(b)): no difference of nearly equal tiny numbers.
    """
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if a < -_FAR:
        return math.log1p(-math.exp(epsilon + _log_tail(b)) - math.exp(_log_tail(-a)))
    difference = _mills(a) - _mills(b)
    return -math.inf if difference <= 0 else -a * a / 2 - _LOG_ROOT_TWO_PI + math.log(difference)


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon for which a release with this mu >= 0 is (epsilon, delta) private; 0 < delta < 1."""
    wanted = _log_of(delta)
    if mu <= 0 or log_delta_of(mu, 0.0) <= wanted:
        return 0.0
    return _bisect(lambda epsilon: log_delta_of(mu, epsilon) <= wanted, 0.0, _GREATEST_EPSILON)


def mu_of(epsilon: float, delta: float) -> float:
    """The greatest mu that is (epsilon, delta) private: the whole budget, of which releases spend mu².

    Raises:
        ConfigError: epsilon is not positive and finite, or delta is not between 0 and 1.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon: expected a positive, finite number, got {epsilon}")
    wanted = _log_of(delta)
    logarithm = _bisect(
        lambda x: log_delta_of(math.exp(x), epsilon) > wanted, math.log(_LEAST_MU), math.log(_GREATEST_MU)
    )
    # Just inside the budget: the last bit of a bisection must not be spent.
    return math.exp(logarithm) * (1 - 1e-9)


def sigma_of(epsilon: float, delta: float, sensitivity: float) -> float:
    """The standard deviation of the noise that makes one release (epsilon, delta) private; sensitivity: L2, for one patient.

    Raises:
        ConfigError: as `mu_of`.
    """
    return sensitivity / mu_of(epsilon, delta)


def composed(mus: Iterable[float]) -> float:
    """The mu of several releases together, each chosen in knowledge of those before: sqrt(Σ mu²), exactly."""
    return math.hypot(*mus)


def _log_of(delta: float) -> float:
    if not 0 < delta < 1:
        raise ConfigError(f"delta: expected a number between 0 and 1, for example 1e-5, got {delta}")
    return math.log(delta)


def _bisect(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The point between low and high from which on `reached` is true."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


_FAR = 5.0


def _mills(x: float) -> float:
    """Mills' ratio Φ(-x) / φ(x) for x >= -5: by its continued fraction from 5 on (Laplace), by erfc before."""
    if x < _FAR:
        return math.exp(x * x / 2 + _LOG_ROOT_TWO_PI) * 0.5 * math.erfc(x / math.sqrt(2.0))
    ratio = x
    for k in range(120, 0, -1):
        ratio = x + k / ratio
    return 1.0 / ratio


def _log_tail(x: float) -> float:
    """Logarithm of Φ(-x) for x >= 0."""
    return -x * x / 2 - _LOG_ROOT_TWO_PI + math.log(_mills(x))
