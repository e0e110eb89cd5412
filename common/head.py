"""The head: softmax(W x + b), and the standardisation of its inputs that is folded into it at the end.

Letters: N examples, D features, C classes.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """weight (C, D) float32 and bias (C,) float32."""

    weight: Float32
    bias: Float32

    @classmethod
    def zeros(cls, classes: int, features: int) -> Self:
        """The head that gives every class the same probability."""
        return cls(np.zeros((classes, features), np.float32), np.zeros(classes, np.float32))

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return self.weight.nbytes + self.bias.nbytes

    def logits(self, features: Float32) -> Float64:
        """Scores (N, C) float64 of features (N, D)."""
        return features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, features: Float32) -> Float64:
        """Probabilities (N, C) float64 in [0, 1] of features (N, D); each row sums to 1."""
        return softmax(self.logits(features))

    def distance(self, other: "Head") -> float:
        """L2 norm of the difference of all C D + C numbers."""
        weight = self.weight.astype(np.float64) - other.weight
        bias = self.bias.astype(np.float64) - other.bias
        return float(np.sqrt((weight**2).sum() + (bias**2).sum()))


def softmax(logits: Float64) -> Float64:
    """Row-wise softmax of logits (..., C)."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Standardisation:
    """x -> (x - mean) / scale, feature by feature: mean (D,) and scale (D,), both float16.

    It only has to be the same at every hospital and well conditioned, not precise, so it travels as float16: half the
    bytes, and exact afterwards because everyone computes with the rounded numbers.
    """

    mean: npt.NDArray[np.float16]
    scale: npt.NDArray[np.float16]

    @classmethod
    def from_sums(cls, examples: int, sums: Float64, squares: Float64) -> Self:
        """From the federation's number of examples N and the sums (D,) of x and of x squared.

        A feature that varies by no more than the rounding of the sums gets scale 1. Values are kept inside the range of
        normal float16 numbers.
        """
        mean = sums / max(examples, 1)
        variance = np.maximum(squares / max(examples, 1) - mean**2, 0.0)
        scale = np.sqrt(variance)
        scale = np.where(scale > 1e-7 + 1e-5 * np.abs(mean), scale, 1.0)
        return cls(
            np.clip(mean, -60_000.0, 60_000.0).astype(np.float16),
            np.clip(scale, 1e-4, 60_000.0).astype(np.float16),
        )

    @classmethod
    def identity(cls, features: int) -> Self:
        """The standardisation that changes nothing."""
        return cls(np.zeros(features, np.float16), np.ones(features, np.float16))

    def apply(self, features: Float32) -> Float32:
        """Standardised features (N, D) float32."""
        shifted = features - self.mean.astype(np.float32)
        return np.asarray(shifted / self.scale.astype(np.float32), dtype=np.float32)

    def fold(self, head: Head) -> Head:
        """The head that gives the same scores on raw features as `head` on standardised ones.

        W' = W / scale, b' = b - W' mean, computed in float64.
        """
        weight = head.weight.astype(np.float64) / self.scale.astype(np.float64)
        bias = head.bias.astype(np.float64) - weight @ self.mean.astype(np.float64)
        return Head(weight.astype(np.float32), bias.astype(np.float32))
