"""The noise of each noised answer of a private job: hospital and coordinator compute the same, from the job and the terms.

A job with noise by its hospitals makes one release of the centre of the features, then one of sums, or in each round one of a
gradient or of a trained head; together they spend the job's (epsilon, delta), no more (`common.dp.accounting`). With noise by the
coordinator there is one release a round, of the mean change.
"""

import functools
import math

from common.dp import accounting
from common.dp.accounting import Spending, noise_multiplier
from common.dp.gaussian import composed, epsilon_of, mu_of
from common.dp.noise import share_scale, sigma_with_rounding
from common.dp.noisy_sums import sensitivity_of
from common.dp.private_features import SENSITIVITY
from common.errors import ConfigError
from common.job import Job
from common.privacy import DifferentialPrivacy, steps_in_a_round
from common.summed import Question, released

NOISED = ("centre", "noised-statistics", "gradient", "noised-fit")
"""The questions of `common.wire.SUMMED` whose answers are noised, and spend epsilon."""


def noise_scale(job: Job, question: Question, threshold: int) -> float:
    """The deviation of the noise that each hospital adds to a noised sum, over at least `threshold` hospitals.

    Raises:
        ConfigError: the job is not private.
    """
    budget = budget_of(job)
    spending, honest = Spending.of(budget.epsilon, budget.delta), budget.honest(threshold)
    match question.kind:
        case "centre":
            sensitivity, mu, steps = SENSITIVITY, spending.centre_mu, 1
        case "noised-statistics":
            sensitivity, mu, steps = sensitivity_of(job.num_classes), spending.sums_mu, 1
        case _:
            descent = job.method.descent
            sensitivity, mu, steps = descent.sensitivity, spending.sums_mu, descent.steps
    sigma = sigma_with_rounding(sensitivity, noise_multiplier(mu, steps), released(question, job), honest)
    return share_scale(sigma, honest)


def step_multiplier(job: Job) -> float:
    """The noise multiplier of a release that is made again and again: a hospital's step of DP-SGD, or the coordinator's round.

    Raises:
        ConfigError: the job has neither, or dp-accounting is needed (a sampling rate below 1) and not installed.
    """
    budget = budget_of(job)
    before = Spending.of(budget.epsilon, budget.delta).centre_mu if job.noised_locally else 0.0
    return _multiplier(budget.epsilon, budget.delta, releases(job, job.method.rounds), _rate(budget), before)


def spent_after(job: Job, rounds: int) -> float:
    """The epsilon of a private job after so many of its rounds, with the centre of the features where one is released.

    Raises:
        ConfigError: as `step_multiplier`.
    """
    budget = budget_of(job)
    spending = Spending.of(budget.epsilon, budget.delta)
    if job.noised_locally or job.hospitals_protected:
        before = spending.centre_mu if job.noised_locally else 0.0
        return _spent(step_multiplier(job), releases(job, rounds), _rate(budget), budget.delta, before)
    share = math.sqrt(min(rounds, job.method.rounds) / job.method.rounds)
    return epsilon_of(composed([spending.centre_mu, spending.sums_mu * share]), budget.delta)


def releases(job: Job, rounds: int) -> int:
    """How many noised releases so many rounds make: steps of each hospital, or rounds of the coordinator."""
    if not job.noised_locally:
        return rounds
    return rounds * steps_in_a_round(job.method.local.epochs, _rate(budget_of(job)))


def budget_of(job: Job) -> DifferentialPrivacy:
    """The budget of a private job.

    Raises:
        ConfigError: the job is not private.
    """
    if job.privacy.differential_privacy is None:
        raise ConfigError(f"job '{job.name}' has no differential privacy")
    return job.privacy.differential_privacy


def _rate(budget: DifferentialPrivacy) -> float:
    return 1.0 if budget.sampling_rate is None else budget.sampling_rate


@functools.lru_cache(maxsize=32)
def _multiplier(epsilon: float, delta: float, number: int, rate: float, before: float) -> float:
    if rate < 1:
        return accounting.poisson_noise_multiplier(epsilon, delta, number, rate, before)
    return noise_multiplier(math.sqrt(mu_of(epsilon, delta) ** 2 - before**2), number)


@functools.lru_cache(maxsize=1024)
def _spent(multiplier: float, number: int, rate: float, delta: float, before: float) -> float:
    if number == 0:
        return epsilon_of(before, delta)
    if rate < 1:
        return accounting.poisson_spent(multiplier, number, rate, delta, before)
    return accounting.spent(multiplier, number, delta, before)
