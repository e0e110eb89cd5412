"""Metrics are counts that add: counted at each hospital, added anywhere, derived once by the reader.

`ClassificationCounts` is a commutative monoid of whole numbers, so any split of the examples gives exactly the pooled counts and
the pooled metrics. Every metric is exact except AUROC and average precision, which are read from histograms of scores; the
largest possible error of the AUROC comes with it (`Ranking.auroc_error`).

Letters: N examples, C classes, B = `SCORE_BINS` bins, K = `CALIBRATION_BINS` bins.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SCORE_BINS = 256
CALIBRATION_BINS = 15
_SOFTNESS = 4.0
_FIXED_POINT = 2.0**30
_LOSS_LIMIT = 50.0
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class ClassificationCounts:
    """Counts over examples.

    confusion (C, C) int64: rows are true classes, columns predicted ones (the most probable class).
    histograms (C, 2, B) int64: scores of class c, of examples [not of class c, of class c], in the bins of `score_edges`.
    calibration (3, K) int64: per bin of top-class confidence the number of examples, of correct ones, and the sum of
        confidence in units of 2**-30.
    losses (2,) int64: sums over examples of the Brier score and of the log loss, in units of 2**-30.
    """

    confusion: Int64
    histograms: Int64
    calibration: Int64
    losses: Int64

    @classmethod
    def zeros(cls, classes: int) -> Self:
        """The neutral element: no example."""
        return cls(
            np.zeros((classes, classes), np.int64),
            np.zeros((classes, 2, SCORE_BINS), np.int64),
            np.zeros((3, CALIBRATION_BINS), np.int64),
            np.zeros(2, np.int64),
        )

    def __add__(self, other: "ClassificationCounts") -> "ClassificationCounts":
        return ClassificationCounts(
            self.confusion + other.confusion,
            self.histograms + other.histograms,
            self.calibration + other.calibration,
            self.losses + other.losses,
        )

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.confusion.sum())

    @property
    def classes(self) -> int:
        """C."""
        return len(self.confusion)

    @property
    def support(self) -> Int64:
        """Examples of each true class (C,)."""
        return np.asarray(self.confusion.sum(axis=1), dtype=np.int64)


def count(probabilities: Float64, labels: Int64) -> ClassificationCounts:
    """Counts of probabilities (N, C) in [0, 1] against labels (N,) in 0..C-1."""
    examples, classes = probabilities.shape
    counts = ClassificationCounts.zeros(classes)
    if examples == 0:
        return counts
    predicted = probabilities.argmax(axis=1)
    np.add.at(counts.confusion, (labels, predicted), 1)
    bins = score_bin(probabilities)
    for column in range(classes):
        np.add.at(counts.histograms[column], ((labels == column).astype(int), bins[:, column]), 1)
    confidence = probabilities[np.arange(examples), predicted]
    bucket = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    np.add.at(counts.calibration[0], bucket, 1)
    np.add.at(counts.calibration[1], bucket, (predicted == labels).astype(np.int64))
    np.add.at(counts.calibration[2], bucket, _fixed(confidence))
    truth = np.eye(classes)[labels]
    counts.losses[0] = _fixed(((probabilities - truth) ** 2).sum(axis=1)).sum()
    own = probabilities[np.arange(examples), labels]
    counts.losses[1] = _fixed(np.minimum(-np.log(np.maximum(own, 1e-300)), _LOSS_LIMIT)).sum()
    return counts


def _fixed(values: Float64) -> Int64:
    """Whole numbers of units of 2**-30: sums of them do not depend on their order."""
    return np.rint(values * _FIXED_POINT).astype(np.int64)


def score_bin(probabilities: Float64) -> Int64:
    """Histogram bin 0..B-1 of each probability.

    Bins have equal width on z / (|z| + 4), z the log-odds: fine around the decision, no end where confident scores pile up.
    """
    with np.errstate(divide="ignore"):
        z = np.log(probabilities) - np.log1p(-probabilities)
    softened = np.where(np.isinf(z), np.sign(z), z / (np.abs(np.where(np.isinf(z), 0.0, z)) + _SOFTNESS))
    return np.clip(np.floor((softened + 1.0) / 2.0 * SCORE_BINS), 0, SCORE_BINS - 1).astype(np.int64)


def score_edges() -> Float64:
    """Probabilities (B + 1,) at the edges of the score bins, from 0 to 1."""
    softened = np.linspace(-1.0, 1.0, SCORE_BINS + 1)[1:-1]
    z = _SOFTNESS * softened / (1.0 - np.abs(softened))
    return np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-z)), [1.0]])


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """What a clinician-researcher reads. None where it is undefined (no example of a class, say).

    Two classes: sensitivity, specificity, precision, F1, AUROC and average precision are those of the second class.
    More: the mean over the classes that have examples, each against the rest. `ece` uses 15 bins of top-class confidence.
    """

    n: int
    accuracy: float | None
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    f1: float | None
    auroc: float | None
    average_precision: float | None
    ece: float | None
    brier: float | None
    log_loss: float | None


@dataclass(frozen=True)
class Ranking:
    """What the histograms of one class say.

    `auroc_error` bounds |AUROC read from the bins - AUROC of the scores|: half the share of pairs that fall into one bin.
    """

    auroc: float
    auroc_error: float
    auroc_deviation: float
    average_precision: float


HIGHER_IS_BETTER = {
    "accuracy": True,
    "balanced_accuracy": True,
    "sensitivity": True,
    "specificity": True,
    "precision": True,
    "f1": True,
    "auroc": True,
    "average_precision": True,
    "ece": False,
    "brier": False,
    "log_loss": False,
}
"""The metrics, and whether more is better."""


def derive(counts: ClassificationCounts) -> Metrics:
    """All metrics of some counts."""
    n = counts.n
    if n == 0:
        return Metrics(0, *[None] * len(HIGHER_IS_BETTER))
    true_positive, false_positive, false_negative, true_negative = _one_against_rest(counts.confusion)
    present = counts.support > 0
    recall = _ratio(true_positive, true_positive + false_negative)
    rows = np.array([1]) if counts.classes == 2 else np.flatnonzero(present)
    rankings = [ranking(counts.histograms[row]) for row in rows]
    ranked = [found for found in rankings if found is not None]
    number, _, _ = counts.calibration
    precise = np.where(true_positive + false_positive > 0, _ratio(true_positive, true_positive + false_positive), 0.0)
    return Metrics(
        n=n,
        accuracy=float(np.trace(counts.confusion) / n),
        balanced_accuracy=float(recall[present].mean()),
        sensitivity=_mean(recall[rows]),
        specificity=_mean(_ratio(true_negative, true_negative + false_positive)[rows]),
        precision=_mean(np.where(present, precise, np.nan)[rows]),
        f1=_mean(_ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative)[rows]),
        auroc=float(np.mean([found.auroc for found in ranked])) if ranked else None,
        average_precision=float(np.mean([found.average_precision for found in ranked])) if ranked else None,
        ece=float(np.abs(_calibration_gaps(counts)).sum() / number.sum()),
        brier=float(counts.losses[0] / _FIXED_POINT / n),
        log_loss=float(counts.losses[1] / _FIXED_POINT / n),
    )


def intervals(counts: ClassificationCounts) -> dict[str, Interval | None]:
    """95 % intervals: Wilson (1927) for accuracy, and with two classes sensitivity, specificity and precision; for AUROC
    DeLong et al. (1988) on the binned scores, on the log-odds scale.

    With more classes the AUROC is a mean over classes; its deviation is taken as the mean of theirs, an upper bound.
    """
    found: dict[str, Interval | None] = {"accuracy": wilson(int(np.trace(counts.confusion)), counts.n)}
    if counts.classes == 2:
        (tn, fp), (fn, tp) = counts.confusion.tolist()
        found["sensitivity"] = wilson(tp, tp + fn)
        found["specificity"] = wilson(tn, tn + fp)
        found["precision"] = wilson(tp, tp + fp)
    rows = [1] if counts.classes == 2 else list(range(counts.classes))
    ranked = [found for found in (ranking(counts.histograms[row]) for row in rows) if found is not None]
    if not ranked:
        found["auroc"] = None
        return found
    smallest = min(int(min(counts.histograms[row].sum(axis=1))) for row in rows if ranking(counts.histograms[row]))
    auroc = float(np.mean([one.auroc for one in ranked]))
    deviation = float(np.mean([one.auroc_deviation for one in ranked]))
    found["auroc"] = _auroc_interval(auroc, deviation, smallest)
    return found


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


def ranking(histogram: Int64) -> Ranking | None:
    """AUROC and average precision from the histograms (2, B) of [negatives, positives]; None if either is empty.

    Within a bin every order of its examples is taken as equally likely. Source of the deviation: DeLong et al. 1988, Biometrics
    44:837, equations for V10 and V01, on the binned scores.
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
    spread10 = (positives * (v10 - auroc) ** 2).sum() / max(p - 1, 1)
    spread01 = (negatives * (v01 - auroc) ** 2).sum() / max(n - 1, 1)
    tied = float((positives * negatives).sum() / (p * n))
    return Ranking(auroc, tied / 2, float(np.sqrt(spread10 / p + spread01 / n)), _average_precision(negatives, positives))


def _average_precision(negatives: Float64, positives: Float64) -> float:
    """Mean precision at the positives, in expectation over the orders inside each bin.

    In a bin of s = p + n examples the j-th is positive with probability p / s and has (j - 1)(p - 1)/(s - 1) positives of the
    bin before it in the mean, so the sum over j has the closed form below, with H the harmonic numbers.
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


def reliability(counts: ClassificationCounts) -> tuple[Float64, Float64, Int64]:
    """Mean confidence, accuracy and number of examples of each non-empty bin of top-class confidence."""
    number, correct, confidence = counts.calibration
    filled = number > 0
    return (
        confidence[filled] / _FIXED_POINT / number[filled],
        correct[filled] / number[filled],
        number[filled],
    )


def better(metric: str, candidate: float | None, incumbent: float | None) -> bool:
    """Whether `candidate` improves on `incumbent`; anything improves on None, None improves on nothing."""
    if candidate is None:
        return False
    if incumbent is None:
        return True
    return candidate > incumbent if HIGHER_IS_BETTER[metric] else candidate < incumbent


def worst(by_hospital: dict[str, Metrics]) -> dict[str, tuple[str, float]]:
    """For each metric the hospital where it is worst and its value there; hospitals where it is undefined are left out."""
    found: dict[str, tuple[str, float]] = {}
    for metric in HIGHER_IS_BETTER:
        for name in sorted(by_hospital):
            value = getattr(by_hospital[name], metric)
            if value is not None and (metric not in found or better(metric, found[metric][1], value)):
                found[metric] = (name, value)
    return found


def _one_against_rest(confusion: Int64) -> tuple[Int64, Int64, Int64, Int64]:
    """True positives, false positives, false negatives and true negatives of each class (C,)."""
    hit = np.diag(confusion)
    missed = confusion.sum(axis=1) - hit
    wrongly = confusion.sum(axis=0) - hit
    return hit, wrongly, missed, confusion.sum() - hit - missed - wrongly


def _ratio(part: Int64, whole: Int64) -> Float64:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: Float64) -> float | None:
    """Mean of the defined values; None if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _calibration_gaps(counts: ClassificationCounts) -> Float64:
    """Correct minus confident examples in each bin (K,)."""
    _, correct, confidence = counts.calibration
    return np.asarray(correct - confidence / _FIXED_POINT, dtype=np.float64)


def _auroc_interval(auroc: float, deviation: float, smallest: int) -> Interval:
    """On the log-odds scale; a perfect ranking gets the one-sided bound of `smallest` successes in as many trials."""
    if deviation == 0.0 or auroc in (0.0, 1.0):
        slack = 1.0 - 0.025 ** (1.0 / smallest)
        return Interval(max(0.0, auroc - slack), min(1.0, auroc + slack))
    z = np.log(auroc / (1 - auroc))
    half = _Z95 * deviation / (auroc * (1 - auroc))
    return Interval(float(1 / (1 + np.exp(half - z))), float(1 / (1 + np.exp(-half - z))))
