"""Metrics are counts that add: counted at each hospital, added anywhere, derived once by the reader.

`ClassificationCounts` is a commutative monoid of whole numbers, so any split of the examples gives exactly the pooled
counts and the pooled metrics. Every metric is exact except AUROC and average precision, which are read from histograms
of scores; the largest possible error of the AUROC comes with it (`common.ranking.Ranking.auroc_error`).

Letters: N examples, C classes, B = `SCORE_BINS` bins, K = `CALIBRATION_BINS` bins.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from common.intervals import Interval, auroc_interval, wilson
from common.ranking import ranking

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SCORE_BINS = 256
CALIBRATION_BINS = 15
_SOFTNESS = 4.0
FIXED_POINT = 2.0**30
"""Units of the sums in `ClassificationCounts`: whole numbers, so that sums of them do not depend on their order."""

LOSS_LIMIT = 50.0
"""Most that one example adds to the log loss, in nats."""


@dataclass(frozen=True)
class ClassificationCounts:
    """Counts over examples.

    confusion (C, C) int64: rows are true classes, columns predicted ones (the most probable class).
    histograms (C, 2, B) int64: scores of class c, of examples [not of class c, of class c], in `score_edges` bins.
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
    return count_each(probabilities[np.newaxis], labels)[0]


def count_each(probabilities: Float64, labels: Int64) -> list[ClassificationCounts]:
    """Counts of M heads at once: probabilities (M, N, C) in [0, 1] against labels (N,) in 0..C-1.

    Where there are few examples and many heads, one by one takes ten times as long.
    """
    heads, examples, classes = probabilities.shape
    if examples == 0:
        return [ClassificationCounts.zeros(classes) for _ in range(heads)]
    row, column = np.arange(heads)[:, None], np.arange(classes)
    predicted = probabilities.argmax(axis=2)
    truth = labels[:, None] == column
    confusion = _tally((row * classes + labels) * classes + predicted, (heads, classes, classes))
    scored = ((row[..., None] * classes + column) * 2 + truth) * SCORE_BINS + score_bin(probabilities)
    histograms = _tally(scored, (heads, classes, 2, SCORE_BINS))
    confidence = np.take_along_axis(probabilities, predicted[..., None], axis=2)[..., 0]
    bucket = row * CALIBRATION_BINS + np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    sums = np.zeros(heads * CALIBRATION_BINS, np.int64)
    np.add.at(sums, bucket.ravel(), _fixed(confidence).ravel())
    shape = (heads, CALIBRATION_BINS)
    calibration = np.stack(
        [_tally(bucket, shape), _tally(bucket[predicted == labels], shape), sums.reshape(shape)], axis=1
    )
    brier = _fixed(((probabilities - truth.astype(np.float64)) ** 2).sum(axis=2)).sum(axis=1)
    own = probabilities[:, np.arange(examples), labels]
    loss = _fixed(np.minimum(-np.log(np.maximum(own, 1e-300)), LOSS_LIMIT)).sum(axis=1)
    losses = np.stack([brier, loss], axis=1)
    return [
        ClassificationCounts(confusion[head], histograms[head], calibration[head], losses[head])
        for head in range(heads)
    ]


def _tally(places: Int64, shape: tuple[int, ...]) -> Int64:
    """How often each place of an array of this shape is there."""
    size = int(np.prod(shape))
    return np.bincount(places.ravel(), minlength=size).astype(np.int64).reshape(shape)


def _fixed(values: Float64) -> Int64:
    """Whole numbers of units of 2**-30: sums of them do not depend on their order."""
    return np.rint(values * FIXED_POINT).astype(np.int64)


def score_bin(probabilities: Float64) -> Int64:
    """Histogram bin 0..B-1 of each probability.

    Bins have equal width on z / (|z| + 4), z the log-odds: fine around the decision, no end where confident scores
    pile up.
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


def score_centres() -> Float64:
    """Probabilities (B,) in the middle of the score bins, by the log-odds."""
    softened = (2 * np.arange(SCORE_BINS) + 1) / SCORE_BINS - 1.0
    z = _SOFTNESS * softened / (1.0 - np.abs(softened))
    return np.asarray(np.where(z < 0, np.exp(np.minimum(z, 0)), 1.0) / (1.0 + np.exp(-np.abs(z))), np.float64)


@dataclass(frozen=True)
class Metrics:
    """What a clinician-researcher reads. None where it is undefined (no example of a class, say).

    Two classes: sensitivity, specificity, precision, F1, AUROC and average precision are those of the second class.
    More: the mean over the classes that have examples, each against the rest. A class without examples has none of
    them; a class never predicted has precision 0. `ece` uses 15 bins of top-class confidence. `brier` is the sum of
    squared differences over the classes, halved with two classes so that it is the familiar (probability - outcome)**2.
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
    precise = np.where(present, _ratio(true_positive, np.maximum(true_positive + false_positive, 1)), np.nan)
    f1 = _ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative)
    return Metrics(
        n=n,
        accuracy=float(np.trace(counts.confusion) / n),
        balanced_accuracy=float(recall[present].mean()),
        sensitivity=_mean(recall[rows]),
        specificity=_mean(_ratio(true_negative, true_negative + false_positive)[rows]),
        precision=_mean(precise[rows]),
        f1=_mean(np.where(present, f1, np.nan)[rows]),
        auroc=float(np.mean([found.auroc for found in ranked])) if ranked else None,
        average_precision=float(np.mean([found.average_precision for found in ranked])) if ranked else None,
        ece=float(np.abs(_calibration_gaps(counts)).sum() / number.sum()) if number.any() else None,
        brier=float(counts.losses[0] / FIXED_POINT / n / (2 if counts.classes == 2 else 1)),
        log_loss=float(counts.losses[1] / FIXED_POINT / n),
    )


def intervals(counts: ClassificationCounts) -> dict[str, Interval | None]:
    """95 % intervals; None where undefined.

    Wilson (1927) for accuracy, and with two classes sensitivity, specificity and precision; for AUROC DeLong et al.
    (1988) on the binned scores, on the log-odds scale.

    With more classes the AUROC is a mean over classes; its deviation is taken as the mean of theirs, an upper bound.
    """
    found: dict[str, Interval | None] = {"accuracy": wilson(int(np.trace(counts.confusion)), counts.n)}
    if counts.classes == 2:
        (tn, fp), (fn, tp) = counts.confusion.tolist()
        found["sensitivity"] = wilson(tp, tp + fn)
        found["specificity"] = wilson(tn, tn + fp)
        found["precision"] = wilson(tp, tp + fp) if tp + fn else None
    histograms = counts.histograms[1:] if counts.classes == 2 else counts.histograms
    ranked = [(one, int(histogram.sum(axis=1).min())) for histogram in histograms if (one := ranking(histogram))]
    if not ranked:
        return {**found, "auroc": None}
    auroc = float(np.mean([one.auroc for one, _ in ranked]))
    deviation = float(np.mean([one.auroc_deviation for one, _ in ranked]))
    return {**found, "auroc": auroc_interval(auroc, deviation, min(smaller for _, smaller in ranked))}


def reliability(counts: ClassificationCounts) -> tuple[Float64, Float64, Int64]:
    """Mean confidence, accuracy and number of examples of each non-empty bin of top-class confidence."""
    number, correct, confidence = counts.calibration
    filled = number > 0
    return (
        confidence[filled] / FIXED_POINT / number[filled],
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
    """For each metric the hospital where it is worst and its value there.

    Hospitals where a metric is undefined are left out, and so is a metric defined nowhere.
    """
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
    """The share `part` / `whole`, NaN where `whole` is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0), dtype=np.float64)


def _mean(values: Float64) -> float | None:
    """Mean of the defined values; None if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _calibration_gaps(counts: ClassificationCounts) -> Float64:
    """Correct minus confident examples in each bin (K,)."""
    _, correct, confidence = counts.calibration
    return np.asarray(correct - confidence / FIXED_POINT, dtype=np.float64)
