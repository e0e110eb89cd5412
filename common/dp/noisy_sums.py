"""(a) The closed-form head from one noised release of the sums: A = Σ f f^T and B = Σ f t^T over all patients.

f = (sqrt(1 - k²) x, k) has norm at most 1: x is a standardised, projected example, cut to norm 1, and k the constant.
t = y - 1/C is the one-hot label around its middle: ||t||² = 1 - 1/C, and nothing is lost, as Σ f is a column of A.

Sensitivity, for one patient more or less. What travels is v = (A_ii, sqrt(2) A_ij for i < j, B): an off-diagonal number stands
for two, so ||v||² = ||A||² + ||B||² (Frobenius), exactly. One example has ||f f^T|| = ||f||² <= 1 and ||f t^T|| = ||f|| ||t||, so
||v||² <= 1 + 1 - 1/C. A patient's examples are scaled together until their joint norm is at most that bound
(`common.dp.per_patient.statistics_factors`): the sensitivity is sqrt(2 - 1/C), 1.2247 for two classes, and one example of norm
1 reaches it. Without the sqrt(2) the worst example would have the same norm, but off-diagonal numbers twice the noise variance.

Noise sigma on v is noise of variance sigma² on the diagonal of A and sigma²/2 beside it: a matrix whose eigenvalues are within
sigma sqrt(2 S). The ridge is a part of that: it needs no look at the patients, and spends nothing. (AdaSSP would spend a third
of epsilon on the least eigenvalue of A, which is 0 here but for noise.)
Source: Wang 2018, arXiv 1803.02596, algorithm 2 (AdaSSP); Dwork et al. 2014, STOC, doi 10.1145/2591796.2591883, for noised Gram
matrices. The scores become logits as in `common.ridge.Ridge.logits`, with what the noise adds taken off.

Letters: N examples, R projected features, S = R + 1, C classes, T = S (S + 1) / 2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.dp.per_patient import Patients, Products, statistics_factors, within
from common.head import Float32, Float64, Head
from common.metrics import Int64
from common.sums import Sums

SPREAD = 0.4
"""What centred features are divided by: about their root mean square distance from the centre, so that most have norm 1."""

PROJECTED = 256
"""R where the features are more: the noise has S² / 2 numbers, the signal does not."""

_CONSTANT = 0.2
"""k, the last number of f."""

RIDGE = 0.25
"""Of sigma sqrt(2 S), the largest eigenvalue of the noise."""

_LEAST_RIDGE = 0.01
"""Of the mean eigenvalue N / R, where there is little noise or none."""

_MOST_BETWEEN = 0.8
"""Of the scores' variance, taken as variance between classes: noise can make it seem all."""


def sensitivity_of(classes: int) -> float:
    """L2, of the release as it travels: with or without one patient."""
    return float(np.sqrt(2.0 - 1.0 / classes))


def numbers_of(projected: int, classes: int) -> int:
    """How many numbers travel: T + S C."""
    width = projected + 1
    return width * (width + 1) // 2 + width * classes


def bounded_sums(features: Float32, labels: Int64, classes: int, patients: Patients) -> Float64:
    """A hospital's sums as they travel (T + S C,), without noise yet.

    features: (N, R) standardised, then projected; labels: (N,) in 0..C-1.
    """
    targets = np.eye(classes)[labels] - 1.0 / classes
    cut = within(features.astype(np.float64), 1.0) * np.sqrt(1.0 - _CONSTANT**2)
    extended = np.concatenate([cut, np.full((len(cut), 1), _CONSTANT)], axis=1)
    factors = statistics_factors(targets, Products.of(extended, patients), sensitivity_of(classes))
    weighted = extended * factors[:, None]
    gram, class_sums = weighted.T @ extended, weighted.T @ targets
    return np.concatenate([Sums(gram * _doubled(len(gram)), class_sums).triangle("float64"), class_sums.ravel()])


@dataclass(frozen=True)
class _Moments:
    """n examples with mean (R,), scatter (R, R) around it, and by class: numbers (C,) and offsets of the means (R, C)."""

    n: float
    mean: Float64
    scatter: Float64
    numbers: Float64
    offsets: Float64


def solve(noised: Float64, classes: int, sigma: float, ridge: float = RIDGE) -> Head:
    """The head on projected features (C, R) from the noised sums (T + S C,) of all hospitals; sigma: the noise they have, or 0.

    Raises:
        ValueError: the length is not that of sums for so many classes.
    """
    moments = _moments(noised, classes, sigma)
    values, vectors = np.linalg.eigh(moments.scatter)
    width = len(values) + 1
    added = ridge * sigma * np.sqrt(2.0 * width) + _LEAST_RIDGE * moments.n / width
    values = np.maximum(values, 0.0) + added
    right = moments.offsets * moments.numbers
    weight = vectors @ ((vectors.T @ right) / values[:, None])
    # In the C - 1 directions in which classes can differ, as in `common.ridge`.
    truth = np.linalg.svd(np.ones((1, classes)))[2][1:]
    inner = truth @ weight.T
    # Noise in B is in weight and in offsets: their product holds sigma² tr (scatter + ridge)^-1 of it.
    means = inner @ moments.offsets - truth * (sigma**2 * (1.0 / values).sum() / moments.numbers)
    total = (inner @ vectors * values) @ (inner @ vectors).T / moments.n
    priors = moments.numbers / moments.numbers.sum()
    directions = means.T @ np.linalg.pinv(_within(total, means, priors), hermitian=True)
    scale = np.sqrt(1.0 - _CONSTANT**2)
    full = directions @ inner
    bias = np.log(priors) - 0.5 * np.einsum("ck,kc->c", directions, means) - full @ moments.mean
    return Head((full * scale).astype(np.float32), bias.astype(np.float32))


def unprojected(head: Head, projection: npt.NDArray[np.float32]) -> Head:
    """The head on the features before the projection (D, R)."""
    return Head(np.asarray(head.weight @ projection.T, np.float32), head.bias)


def _moments(noised: Float64, classes: int, sigma: float) -> _Moments:
    """Mean, scatter and class means; no class counts for fewer examples than its count has noise."""
    width = _width_of(len(noised), classes)
    class_sums = noised[-width * classes :].reshape(width, classes)
    gram = Sums.from_triangle(noised[: -width * classes], class_sums).gram / _doubled(width)
    least = max(1.0, sigma / _CONSTANT)
    n = max(classes * least, float(gram[-1, -1]) / _CONSTANT**2)
    mean = gram[:-1, -1] / _CONSTANT / n
    numbers = class_sums[-1] / _CONSTANT + n / classes
    offsets = class_sums[:-1] + (n / classes - numbers) * mean[:, None]
    numbers = np.maximum(numbers, least)
    return _Moments(n, mean, gram[:-1, :-1] - n * np.outer(mean, mean), numbers, offsets / numbers)


def _within(total: Float64, means: Float64, priors: Float64) -> Float64:
    """The scores' covariance inside the classes (C - 1, C - 1): total less between, positive definite whatever the noise did."""
    factor = np.linalg.cholesky(total + 1e-12 * np.trace(total) * np.eye(len(total)))
    between = np.linalg.solve(factor, np.linalg.solve(factor, (means * priors) @ means.T).T)
    shares, axes = np.linalg.eigh((between + between.T) / 2)
    return np.asarray((factor @ axes * (1.0 - np.clip(shares, 0.0, _MOST_BETWEEN))) @ (factor @ axes).T, np.float64)


def _doubled(width: int) -> Float64:
    """What the numbers of A are multiplied by: 1 on the diagonal, sqrt(2) beside it (S, S)."""
    return np.asarray(np.where(np.eye(width, dtype=bool), 1.0, np.sqrt(2.0)), np.float64)


def _width_of(length: int, classes: int) -> int:
    """S from T + S C."""
    width = int((np.sqrt((2 * classes + 1) ** 2 + 8 * length) - (2 * classes + 1)) / 2 + 0.5)
    if numbers_of(width - 1, classes) != length:
        raise ValueError(f"noised sums: {length} numbers are not those of any width for {classes} classes")
    return width
