"""How unlike the training images an image is: its distance from them in feature space.

The training images' features have a mean and a covariance, which the sums of the closed form give. Along the R
directions in which they vary most a feature vector is measured by their spread there; what is left of it, by their
mean spread in all other directions:

    d² = Σ_r (u_r·z)² / v_r  +  (|z|² - Σ_r (u_r·z)²) / v_rest,      z = (x - mean) / scale

With R = 0, where only the sums of features and of their squares are known, it is the squared length of the standardised vector.
Source: Moghaddam and Pentland 1997, IEEE TPAMI 19:696, equation 5 (distance in and from feature space); Lee et al. 2018,
arXiv 1807.03888, for its use against unlike images.

The distance is that of the pretrained network's features, whatever of the network the job tunes.

Letters: N examples, D features, R directions, B bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.config_file import Section
from common.head import Float32, Float64, Standardisation
from common.metrics import SCORE_BINS, Int64, score_bin, score_edges
from common.ridge import Ridge

DIRECTIONS = 64
"""R, at most: measured in `docs/diagnosis.md`."""

FALSE_ALARMS = 0.03
"""Share of images like the training images that may be called unlike them; with turned ones it stays under 0.05."""

UNLIKE = "unlike."
"""Before the name of an array in a model file."""

_LEAST_VARIANCE = 1e-3
"""Of a direction, relative to the mean of all: less is rounding."""


class UnlikeLimit(Section):
    """Above `distance` (d² / D) an image is called unlike the training images.

    false_alarms: the share of images like them that is promised to stay below. images: validation images whose distances it was
    chosen by. directions: R.
    """

    distance: float = Field(gt=0.0)
    false_alarms: float
    images: int
    directions: int


@dataclass(frozen=True)
class Spread:
    """Of the training images' features: mean, scale (D,), axes (R, D) of length 1, variances (R + 1,), the last of the rest.

    Where the examples span fewer than R directions, the other axes are 0.
    """

    mean: Float32
    scale: Float32
    axes: Float32
    variances: Float32

    @classmethod
    def of(cls, ridge: Ridge, standardisation: Standardisation) -> Self:
        """That of the examples that a ridge of all features was made of; they had been standardised before."""
        features = len(standardisation.mean)
        found = ridge.principal_axes(directions_of(features, True))
        scale = standardisation.scale.astype(np.float64)
        mean = standardisation.mean.astype(np.float64) + found.mean * scale
        everywhere = (found.variances.sum() + found.rest * (features - len(found.axes))) / features
        variances = np.maximum(np.append(found.variances, found.rest), max(_LEAST_VARIANCE * everywhere, 1e-12))
        return cls(*_rounded(mean, scale * found.scale, found.axes, variances))

    @classmethod
    def diagonal(cls, examples: int, sums: Float64, squares: Float64) -> Self:
        """That of raw features, of which only the sums (D,) and the sums of squares (D,) are known."""
        known = Standardisation.from_sums(examples, sums, squares)
        mean, scale = known.mean.astype(np.float64), known.scale.astype(np.float64)
        return cls(*_rounded(mean, scale, np.zeros((0, len(mean))), np.ones(1)))

    def squared_distances(self, features: Float32) -> Float64:
        """d² / D (N,) of raw features (N, D): about 1 for the training images."""
        z = (features.astype(np.float64) - self.mean) / self.scale
        along = z @ self.axes.T.astype(np.float64)
        rest = np.maximum((z**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        squared = (along**2 / self.variances[:-1]).sum(axis=1) + rest / self.variances[-1]
        return np.asarray(squared / z.shape[1], np.float64)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """As in a model file and in a message: the directions as float16."""
        return {
            "mean": self.mean,
            "scale": self.scale,
            "axes": self.axes.astype(np.float16),
            "variances": self.variances,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """From what `arrays` gave."""
        return cls(*(arrays[name].astype(np.float32) for name in ("mean", "scale", "axes", "variances")))


def directions_of(features: int, with_sums: bool) -> int:
    """R of D features; with_sums: whether the sums of their products are known."""
    return min(DIRECTIONS, features - 1) if with_sums else 0


def _rounded(mean: Float64, scale: Float64, axes: Float64, variances: Float64) -> list[Float32]:
    """As they travel, so that hospitals and model file have the same numbers."""
    half = axes.astype(np.float16).astype(np.float32)
    return [mean.astype(np.float32), scale.astype(np.float32), half, variances.astype(np.float32)]


def pack_spread(spread: Spread) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a spread by the names they travel under."""
    return {f"{UNLIKE}{name}": array for name, array in spread.arrays().items()}


def distance_bins(squared: Float64) -> Int64:
    """The bin 0..B-1 of each d² / D, evenly fine in its logarithm around 1: the score bins of d² / (d² + D)."""
    return score_bin(squared / (1.0 + squared))


def limit_of(histogram: Int64, directions: int, false_alarms: float = FALSE_ALARMS) -> UnlikeLimit | None:
    """The least limit above which a new image comes with at most that probability; None if there are too few images.

    histogram (B,): of validation images. Of n images, m from the limit on: a new one comes there with probability
    (m + 1) / (n + 1) at most, as in `common.operating_point`.
    """
    n = int(histogram.sum())
    beyond = n - np.concatenate([[0], np.cumsum(histogram)])
    risk = (beyond + 1) / (n + 1)
    allowed = np.flatnonzero(risk <= false_alarms)
    if not len(allowed) or not 0 < allowed[0] < SCORE_BINS:
        return None
    edge = float(score_edges()[allowed[0]])
    return UnlikeLimit(
        distance=edge / (1.0 - edge), false_alarms=float(risk[allowed[0]]), images=n, directions=directions
    )
