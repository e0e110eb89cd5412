"""AUROC, average precision and their curves, read from a histogram of scores.

A histogram (2, B) int64 counts negatives and positives in B bins of rising score (`common.metrics.score_edges`).
Within a bin every order of its examples is taken as equally likely.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """What the histograms of one class say.

    `auroc_error` bounds |AUROC read from the bins - AUROC of the scores|: half the share of pairs in one bin.
    `auroc_deviation` is the standard error of the AUROC.
    """

    auroc: float
    auroc_error: float
    auroc_deviation: float
    average_precision: float


def ranking(histogram: Int64) -> Ranking | None:
    """AUROC and average precision from the histograms (2, B) of [negatives, positives]; None if either is empty.

    Source of the deviation: DeLong et al. 1988, Biometrics 44:837, equations for V10 and V01, on the binned scores. A
    single positive (or negative) shows no spread, so the largest variance possible stands in: AUROC (1 - AUROC).
    """
    negatives, positives = histogram.astype(np.float64)
    n, p = negatives.sum(), positives.sum()
    if n == 0 or p == 0:
        return None
    below = np.concatenate([[0.0], np.cumsum(negatives)[:-1]])
    above = p - np.cumsum(positives)
    v10 = (below + negatives / 2) / n
    v01 = (above + positives / 2) / p
    auroc = float((positives * v10).sum() / p)
    largest = auroc * (1 - auroc)
    spread10 = (positives * (v10 - auroc) ** 2).sum() / (p - 1) if p > 1 else largest
    spread01 = (negatives * (v01 - auroc) ** 2).sum() / (n - 1) if n > 1 else largest
    return Ranking(
        auroc=auroc,
        auroc_error=float((positives * negatives).sum() / (p * n) / 2),
        auroc_deviation=float(np.sqrt(spread10 / p + spread01 / n)),
        average_precision=_average_precision(negatives, positives),
    )


def _average_precision(negatives: Float64, positives: Float64) -> float:
    """Mean precision at the positives, in expectation over the orders inside each bin.

    In a bin of s = p + n examples the j-th is positive with probability p / s and then has (j - 1)(p - 1)/(s - 1)
    positives of the bin before it in the mean, so the sum over j has the closed form below; H are harmonic numbers.
    """
    area = total = found = 0.0
    for n, p in zip(negatives[::-1], positives[::-1], strict=True):
        size = n + p
        if p:
            slope = (p - 1) / (size - 1) if size > 1 else 0.0
            start = found + 1 - slope
            harmonic = _harmonic(total + size) - _harmonic(total)
            area += p / size * (slope * size + (start - slope * total) * harmonic)
        total += size
        found += p
    return float(area / positives.sum())


def _harmonic(m: float) -> float:
    """H(m) = 1 + 1/2 + ... + 1/m, to 1e-10."""
    if m < 32:
        return float(sum(1.0 / k for k in range(1, int(m) + 1)))
    return float(np.log(m) + np.euler_gamma + 1 / (2 * m) - 1 / (12 * m**2) + 1 / (120 * m**4))


def roc_curve(histogram: Int64) -> tuple[Float64, Float64]:
    """(1 - specificity, sensitivity), each (B + 1,), from the strictest threshold to the loosest."""
    negatives, positives = histogram.astype(np.float64)
    false = np.concatenate([[0.0], np.cumsum(negatives[::-1])]) / max(negatives.sum(), 1.0)
    true = np.concatenate([[0.0], np.cumsum(positives[::-1])]) / max(positives.sum(), 1.0)
    return false, true


def precision_recall_curve(histogram: Int64) -> tuple[Float64, Float64]:
    """(recall, precision) at each threshold that selects anything, from the strictest to the loosest."""
    negatives, positives = histogram.astype(np.float64)
    found, wrong = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    selected = found + wrong > 0
    return found[selected] / max(positives.sum(), 1.0), found[selected] / (found + wrong)[selected]
