"""The sums over examples that the closed-form head needs: they add, so any split of the examples gives the pooled ones.

With F = [x, 1] for each example, gram = Σ F Fᵀ and class_sums = Σ F yᵀ, y one-hot.
Source: Fanì et al. 2024 (Fed3R), arXiv 2406.01116, equations 3 and 4.

Letters: N examples, D features, C classes, S = D + 1, T = S (S + 1) / 2.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from common.head import Float32, Float64
from common.metrics import Int64

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Sums:
    """gram (S, S) float64, symmetric, and class_sums (S, C) float64; the last row of both belongs to the constant 1."""

    gram: Float64
    class_sums: Float64

    @classmethod
    def of(cls, features: Float32, labels: Int64, classes: int) -> Self:
        """Of features (N, D) and labels (N,) in 0..C-1; N may be 0."""
        width = features.shape[1] + 1
        gram, class_sums = np.zeros((width, width)), np.zeros((width, classes))
        truth = np.eye(classes)
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            some = np.concatenate([features[rows].astype(np.float64), np.ones((len(labels[rows]), 1))], axis=1)
            gram += some.T @ some
            class_sums += some.T @ truth[labels[rows]]
        return cls(gram, class_sums)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.class_sums + other.class_sums)

    @property
    def class_counts(self) -> Float64:
        """Examples of each class (C,)."""
        return np.asarray(self.class_sums[-1], np.float64)

    @property
    def examples(self) -> float:
        """N."""
        return float(self.gram[-1, -1])

    def triangle(self, dtype: str) -> npt.NDArray[np.generic]:
        """The upper half of gram row by row (T,): all that need travel of a symmetric matrix."""
        gram = self.gram.astype(dtype)
        return np.concatenate([gram[row, row:] for row in range(len(gram))])

    @classmethod
    def from_triangle(cls, triangle: npt.NDArray[np.generic], class_sums: npt.NDArray[np.generic]) -> Self:
        """From what `triangle` gave (T,) and class_sums (S, C)."""
        width = len(class_sums)
        gram = np.zeros((width, width))
        start = 0
        for row in range(width):
            gram[row, row:] = gram[row:, row] = triangle[start : start + width - row]
            start += width - row
        return cls(gram, class_sums.astype(np.float64))

    def contradiction(self) -> str | None:
        """Why no examples at all can have these sums, or None.

        The Gram matrix of [F, y] must be positive semidefinite; its factor exists then, up to the rounding of the sums.
        """
        counts = self.class_counts
        joint = np.block([[self.gram, self.class_sums], [self.class_sums.T, np.diag(counts)]])
        diagonal = np.diag(joint)
        if (diagonal < 0).any():
            return "a sum of squares is negative"
        size = np.sqrt(np.maximum(diagonal, 1e-12))
        # In place: with thousands of features a copy takes as long as its factor.
        joint /= size[:, None]
        joint /= size
        np.fill_diagonal(joint, 1.0 + _ROUNDING)
        try:
            np.linalg.cholesky(joint)
        except np.linalg.LinAlgError:
            return "no examples have such sums of products"
        return None


_ROUNDING = 1e-4
"""Room for sums that were rounded to float32, relative to the squares, in `Sums.contradiction`."""
