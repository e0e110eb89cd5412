"""Counts in multiples of a base b, along orders of the examples: the arithmetic of `client/suppression.py`.

Letters: N examples, C classes, B = `SCORE_BINS`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.metrics import (
    CALIBRATION_BINS,
    FIXED_POINT,
    LOSS_LIMIT,
    SCORE_BINS,
    ClassificationCounts,
    Float64,
    Int64,
    score_bin,
    score_centres,
)


def rounded(counts: Int64, told: Int64, base: int) -> Int64:
    """Counts (..., n) along an order, as `base` times the number of the ranks in `told` that fall on each."""
    passed = np.searchsorted(told, counts.cumsum(axis=-1), side="right")
    return np.asarray(base * np.diff(passed, axis=-1, prepend=0), np.int64)


def rounded_counts(probabilities: Float64, labels: Int64, told: Mapping[int, Int64], base: int) -> ClassificationCounts:
    """Counts of probabilities (N, C) against labels (N,); told: by label the ranks that are told."""
    classes = probabilities.shape[1]
    counts = ClassificationCounts.zeros(classes)
    bins = score_bin(probabilities)
    predicted = probabilities.argmax(axis=1)
    top = np.take_along_axis(bins, predicted[:, None], axis=1)[:, 0]
    correct, wrong = np.zeros((2, SCORE_BINS), np.int64)
    for label, ranks in told.items():
        rows = labels == label
        found = rounded(_by_prediction(predicted[rows], top[rows], classes), ranks, base).reshape(classes, SCORE_BINS)
        found[0] = found[0, ::-1].copy()
        counts.confusion[label] = found.sum(axis=1)
        correct += found[label]
        wrong += found.sum(axis=0) - found[label]
        scores = np.zeros((classes, SCORE_BINS), np.int64)
        np.add.at(scores, (np.arange(classes), bins[rows]), 1)
        # The first class from the top: with two classes that is the order of the other one from the bottom.
        scores[0] = rounded(scores[0, ::-1], ranks, base)[::-1]
        scores[1:] = rounded(scores[1:], ranks, base)
        counts.histograms[np.arange(classes), (np.arange(classes) == label).astype(int)] += scores
    _add_calibration(counts, correct, wrong)
    _add_losses(counts)
    return counts


def told_images(probabilities: Float64, labels: Int64, told: Mapping[int, Int64]) -> npt.NDArray[np.bool_]:
    """Which images (N,) the confusion matrix of `rounded_counts` is made of; of images in one place the first ones come first."""
    predicted = probabilities.argmax(axis=1)
    top = np.take_along_axis(score_bin(probabilities), predicted[:, None], axis=1)[:, 0]
    places = _places(predicted, top)
    found = np.zeros(len(labels), bool)
    for label, ranks in told.items():
        rows = np.flatnonzero(labels == label)
        found[rows[np.argsort(places[rows], kind="stable")][ranks - 1]] = True
    return found


def _by_prediction(predicted: Int64, top: Int64, classes: int) -> Int64:
    """Examples of one class by predicted class and bin of the confidence in it (C x B,)."""
    return np.asarray(np.bincount(_places(predicted, top), minlength=classes * SCORE_BINS), np.int64)


def _places(predicted: Int64, top: Int64) -> Int64:
    """Where examples (N,) are in the order by predicted class and confidence in it.

    Confidence in the first class falls along the order: with two classes the score of the second rises all the way.
    """
    return np.where(predicted == 0, SCORE_BINS - 1 - top, predicted * SCORE_BINS + top)


def _add_calibration(counts: ClassificationCounts, correct: Int64, wrong: Int64) -> None:
    """From examples by bin of confidence (B,), each taken to have the confidence in the middle of its bin."""
    confidence = score_centres()
    bucket = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    np.add.at(counts.calibration[0], bucket, correct + wrong)
    np.add.at(counts.calibration[1], bucket, correct)
    np.add.at(counts.calibration[2], bucket, (correct + wrong) * np.floor(confidence * FIXED_POINT).astype(np.int64))


def _add_losses(counts: ClassificationCounts) -> None:
    """Both losses are sums over classes of functions of one score, so the histograms give them."""
    score = score_centres()
    others, own = counts.histograms.sum(axis=0)
    brier = (others * score**2 + own * (1.0 - score) ** 2).sum()
    log_loss = (own * np.minimum(-np.log(np.maximum(score, 1e-300)), LOSS_LIMIT)).sum()
    counts.losses[0] = int(min(brier, 2.0 * counts.n) * FIXED_POINT)
    counts.losses[1] = int(log_loss * FIXED_POINT)


def auroc_bound(counts: ClassificationCounts, label: int, base: int) -> float:
    """How far the AUROC of a class may be from that of the exact counts of the same images."""
    own = int(counts.support[label])
    others = counts.n - own
    return (base - 1) * (1 / own + (counts.classes - 1) / others) if own and others else 0.0
