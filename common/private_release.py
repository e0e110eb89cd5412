"""The noise of each noised answer of a private job: hospital and coordinator compute the same, from the job and the terms.

A job makes one release of the centre of the features, then either one of sums or one of a gradient in each round; together
they spend the job's (epsilon, delta), no more (`common.dp.accounting`).
"""

from common.dp.accounting import Spending, noise_multiplier
from common.dp.noise import share_scale, sigma_with_rounding
from common.dp.noisy_sums import sensitivity_of
from common.dp.private_features import SENSITIVITY
from common.errors import ConfigError
from common.job import Job
from common.summed import Question, released

NOISED = ("centre", "noised-statistics", "gradient")
"""The questions of `common.wire.SUMMED` whose answers are noised, and spend epsilon."""


def noise_scale(job: Job, question: Question, threshold: int) -> float:
    """The deviation of the noise that each hospital adds to a noised answer, in a sum over at least `threshold` hospitals.

    Raises:
        ConfigError: the job is not private.
    """
    budget = job.privacy.differential_privacy
    if budget is None:
        raise ConfigError(f"job '{job.name}' has no differential privacy")
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
