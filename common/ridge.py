"""The closed-form head: ridge regression on one-hot labels, from sums alone, and its scores turned into logits.

One eigendecomposition of the scatter matrix serves all ridge strengths, with and without class balancing.

The features are standardised exactly by the mean and deviation that the sums give; the penalty is strength x N, and the
constant is not penalised: what scikit-learn's Ridge(alpha=strength * N) gives on the output of its StandardScaler.

Letters: N examples, D features, d features of a subset, C classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.head import Float64, Head
from common.sums import Sums

_LEAST_VARIANCE = 1e-5
"""Of a feature, relative to its mean square: below it the feature is constant but for rounding, and is left out.

Sums travel as float32, which keeps 6e-8 of a mean square; a variance made of rounding would get an enormous weight. Features
that were standardised before they were summed are far above it, unless they are constant."""

_ROUNDING = 1e-6
"""Of N, added to each square in what is left of the errors: where the examples are interpolated it would be rounding alone."""

_LEAST_KEPT = 1e-6
"""Of 1 - h: below it the examples are interpolated, and what is left of their errors is rounding."""


@dataclass(frozen=True)
class Scores:
    """Linear scores s = W x + b of all D features: weight (C, D) and bias (C,) float64."""

    weight: Float64
    bias: Float64


@dataclass(frozen=True)
class PrincipalAxes:
    """The R directions in which the standardised examples vary most: z = (x - mean) / scale, mean and scale (D,).

    axes (R, D) of length 1, or 0 where the examples span fewer. variances (R,) along them. rest: the mean variance in all other
    directions of the D.
    """

    mean: Float64
    scale: Float64
    axes: Float64
    variances: Float64
    rest: float


class Ridge:
    """All ridge heads of a subset of the features.

    Args:
        sums: of all examples; at least one.
        columns: the d features used, as indices into the D features; all if None.
    """

    def __init__(self, sums: Sums, columns: npt.NDArray[np.intp] | None = None) -> None:
        self._width = len(sums.gram) - 1
        chosen = np.arange(self._width) if columns is None else columns
        self._n, self._counts = sums.examples, sums.class_counts
        self._all_means = sums.gram[:-1, -1] / self._n
        mean = self._all_means[chosen]
        squares = np.diag(sums.gram)[chosen] / self._n
        variance = squares - mean**2
        varies = variance > _LEAST_VARIANCE * np.maximum(squares, 1e-30)
        self._columns, self._mean = chosen[varies], mean[varies]
        self._scale = np.sqrt(variance[varies])
        inside = sums.gram[np.ix_(self._columns, self._columns)]
        scatter = (inside - self._n * np.outer(self._mean, self._mean)) / np.outer(self._scale, self._scale)
        self._present = np.flatnonzero(self._counts > 0)
        counts = self._counts[self._present]
        class_means = sums.class_sums[np.ix_(self._columns, self._present)] / counts
        self._offsets = (class_means - self._mean[:, None]) / self._scale[:, None]
        values, vectors = np.linalg.eigh(scatter)
        # N examples around their mean span N - 1 directions at most; what the others have is rounding.
        first = max(0, len(values) - max(0, round(self._n) - 1))
        self._values, self._vectors = np.maximum(values[first:], 0.0), vectors[:, first:]
        self._scatter = scatter + _ROUNDING * self._n * np.eye(len(scatter))

    def scores(self, strength: float, balanced: bool = False) -> Scores:
        """The ridge scores for one-hot labels; a class without examples scores 0.

        balanced: every class present weighs the same, with the scatter inside the classes taken as one for all of them
        (the sums do not hold it class by class).
        """
        penalty = strength * self._n
        weight = self._balanced(penalty) if balanced else self._solve(self._offsets * self._weights(False), penalty)
        share = self._weights(balanced) / self._n
        centre = self._offsets @ share
        bias = share - centre @ weight
        return self._spread(weight, bias)

    def logits(self, strength: float, balanced: bool = False) -> Head:
        """The ridge scores as a head: each class is taken as a Gaussian in the space of the scores, with one covariance.

        Means and covariance are those of examples left out, not of examples fitted: with mean leverage h an example that is
        left out has 1 / (1 - h) times the error. So the head is calibrated, nearly, from the sums alone. A class without
        examples has the mean of the others' logits and the odds of half an example: a probability of at most 0.5 / N.

        (Views of an image count as examples of their own: they would be left out together, but new images are scored by the
        mean of theirs, and the two about cancel.)

        Source: Hastie, Buja and Tibshirani 1995, Annals of Statistics 23:73, penalised discriminant analysis; Golub, Heath
        and Wahba 1979, Technometrics 21:215, equation 1.5, for the mean leverage.
        """
        scores = self.scores(strength, balanced)
        priors = self._weights(balanced) / self._n
        weight = scores.weight[:, self._columns][self._present]
        # The scores of the classes add up to 1, so they are taken in the C - 1 directions in which they can differ.
        truth = np.linalg.svd(np.ones((1, len(priors))))[2][1:]
        inner = truth @ weight * self._scale
        fitted = inner @ self._offsets
        within = inner @ self._scatter @ inner.T - (fitted * self._weights(False)) @ fitted.T
        kept = self._kept(strength)
        constant = truth @ (scores.bias[self._present] + weight @ self._mean)
        means = truth - (truth - fitted - constant[:, None]) / kept
        directions = means.T @ np.linalg.pinv(within / self._n / kept**2, rcond=1e-10, hermitian=True)
        bias = np.log(priors) + directions @ constant - 0.5 * np.einsum("ck,kc->c", directions, means)
        full = self._spread((directions @ inner).T, bias)
        absent = np.setdiff1d(np.arange(len(self._counts)), self._present)
        full.weight[absent] = priors @ full.weight[self._present]
        full.bias[absent] = priors @ full.bias[self._present] + np.log(0.5 / self._n)
        return Head(full.weight.astype(np.float32), full.bias.astype(np.float32))

    def error_left_out(self, strength: float) -> float:
        """Mean squared error of the plain scores at an example left out, from the sums alone: what chooses without validation.

        Source: Golub, Heath and Wahba 1979, Technometrics 21:215, equation 1.5 (generalised cross-validation).
        """
        weight = self._solve(self._offsets * self._weights(False), strength * self._n)
        right = self._offsets * self._weights(False)
        counts = self._weights(False)
        total = float(counts.sum() - (counts**2).sum() / self._n)
        residual = total - 2.0 * float((weight * right).sum()) + float((weight * (self._scatter @ weight)).sum())
        return residual / self._n / self._kept(strength) ** 2

    def principal_axes(self, count: int) -> PrincipalAxes:
        """Of a ridge of all features: its R = `count` principal axes. A constant feature is 0 in all of them, with scale 1."""
        mean, scale = self._all_means.copy(), np.ones(self._width)
        mean[self._columns], scale[self._columns] = self._mean, self._scale
        values, vectors = self._values[::-1][:count] / self._n, self._vectors[:, ::-1][:, :count]
        axes, variances = np.zeros((count, self._width)), np.zeros(count)
        axes[: len(values), self._columns], variances[: len(values)] = vectors.T, values
        rest = (float(self._values.sum()) / self._n - float(values.sum())) / max(1, self._width - count)
        return PrincipalAxes(mean, scale, axes, variances, rest)

    def _kept(self, strength: float) -> float:
        """1 - h, where h is the mean leverage of an example: how much of its own score it decides."""
        freedom = 1.0 + float((self._values / (self._values + strength * self._n)).sum())
        return max(1.0 - freedom / self._n, _LEAST_KEPT)

    def _weights(self, balanced: bool) -> Float64:
        """How many examples each present class counts as; N in all."""
        counts = self._counts[self._present]
        return np.full(len(counts), self._n / len(counts)) if balanced else counts

    def _solve(self, right: Float64, penalty: float) -> Float64:
        inner = self._vectors.T @ right
        return np.asarray(self._vectors @ (inner / (self._values + penalty)[:, None]), np.float64)

    def _balanced(self, penalty: float) -> Float64:
        """Weights for classes of equal weight: their scatter differs from the plain one by a matrix of low rank (Woodbury)."""
        plain, even = self._weights(False), self._weights(True)
        around = self._offsets - (self._offsets @ even / self._n)[:, None]
        change = np.concatenate([self._offsets, around], axis=1)
        amounts = np.concatenate([-plain, even])
        right = around * even
        solved, moved = self._solve(right, penalty), self._solve(change, penalty)
        small = np.diag(1.0 / amounts) + change.T @ moved
        return np.asarray(solved - moved @ np.linalg.solve(small, change.T @ solved), np.float64)

    def _spread(self, weight: Float64, bias: Float64) -> Scores:
        """Weights (d, classes present) on standardised features and a bias there, as scores of all D features as they come."""
        full_weight, full_bias = np.zeros((len(self._counts), self._width)), np.zeros(len(self._counts))
        raw = weight / self._scale[:, None]
        full_weight[np.ix_(self._present, self._columns)] = raw.T
        full_bias[self._present] = bias - self._mean @ raw
        return Scores(full_weight, full_bias)
