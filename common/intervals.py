"""95 % confidence intervals: Wilson's for a proportion, and one on the log-odds scale for AUROC."""

from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's 95 % interval of a proportion; None without trials.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    if trials == 0:
        return None
    share = successes / trials
    centre = share + _Z95**2 / (2 * trials)
    half = _Z95 * np.sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2))
    scale = 1 + _Z95**2 / trials
    return Interval(float(max(0.0, (centre - half) / scale)), float(min(1.0, (centre + half) / scale)))


def auroc_interval(auroc: float, deviation: float, smallest: int) -> Interval:
    """On the log-odds scale; a perfect ranking gets the one-sided bound of `smallest` successes in as many trials."""
    if deviation == 0.0 or auroc in (0.0, 1.0):
        slack = 1.0 - 0.025 ** (1.0 / smallest)
        return Interval(max(0.0, auroc - slack), min(1.0, auroc + slack))
    z = np.log(auroc / (1 - auroc))
    half = _Z95 * deviation / (auroc * (1 - auroc))
    low, high = (1 + np.tanh((z + np.array([-half, half])) / 2)) / 2
    return Interval(float(low), float(high))
