"""Closed-form scores of examples that were left out, with all others of their patient, of the head that scores them.

One decomposition serves all patients and all ridge strengths: what a head without some examples would have said follows from the
errors of the head with them and from their leverage.

Letters: N examples, D features, C classes, R directions.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.head import Float32, Float64
from common.metrics import Int64

Rows = npt.NDArray[np.intp]
_ROWS = 1024
_LEAST = 1e-9
_LEAST_KEPT = 1e-6


def left_out_scores(
    features: Float32, labels: Int64, patients: Sequence[str], classes: int, strengths: Sequence[float]
) -> list[Float64]:
    """Scores (N, C) of each ridge strength, each patient's by the ridge head of all other patients.

    features (N, D), labels (N,) in 0..C-1. The features are standardised by all examples; the constant is not penalised; the
    penalty is strength x N. What is held at once besides the features are arrays (N, C) and (D, D) or (N, N), the smaller.

    Source: Cook and Weisberg 1982, Residuals and Influence in Regression, equation 2.2.9 of several cases.
    """
    n = len(labels)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-6 * np.abs(mean) + 1e-12, scale, np.inf).astype(np.float32)
    squares, directions = _directions(features, mean, scale)
    truth = np.eye(classes)[labels]
    centre = truth.mean(axis=0)
    inner = np.zeros((len(squares), classes))
    for rows in _slices(n):
        inner += directions_of(features[rows], mean, scale, directions).T @ (truth[rows] - centre)
    order = np.array(sorted(range(n), key=lambda row: patients[row]), np.intp)
    results = [np.zeros((n, classes)) for _ in strengths]
    for chosen in _whole_patients(order, patients):
        block = directions_of(features[chosen], mean, scale, directions)
        groups = _groups([patients[row] for row in chosen])
        for result, strength in zip(results, strengths, strict=True):
            weights = 1.0 / (squares + strength * n)
            fitted = centre + (block * weights) @ inner
            for group in groups:
                own = block[group]
                kept = np.eye(len(group)) - (own * weights) @ own.T - 1.0 / n
                kept[np.diag_indices_from(kept)] += _LEAST_KEPT
                errors = np.linalg.solve(kept, truth[chosen[group]] - fitted[group])
                result[chosen[group]] = truth[chosen[group]] - errors
    return results


def directions_of(features: Float32, mean: Float32, scale: Float32, directions: Float64) -> Float64:
    """Examples (N, D) along the directions (D, R): (N, R)."""
    return np.asarray(((features - mean) / scale).astype(np.float64) @ directions, np.float64)


def _directions(features: Float32, mean: Float32, scale: Float32) -> tuple[Float64, Float64]:
    """Sums of squares (R,) of the standardised examples along orthogonal directions (D, R)."""
    n, width = features.shape
    if n <= width:
        rows = ((features - mean) / scale).astype(np.float64)
        values, vectors = np.linalg.eigh(rows @ rows.T)
        kept = values > _LEAST * max(float(values[-1]), _LEAST)
        return values[kept], rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    gram = np.zeros((width, width))
    for some in _slices(n):
        rows = ((features[some] - mean) / scale).astype(np.float64)
        gram += rows.T @ rows
    values, vectors = np.linalg.eigh(gram)
    kept = values > _LEAST * max(float(values[-1]), _LEAST)
    return values[kept], vectors[:, kept]


def _slices(n: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]


def _whole_patients(order: Rows, patients: Sequence[str]) -> list[Rows]:
    """The ordered rows in blocks of about `_ROWS`, no patient in two of them."""
    blocks, start = [], 0
    for end in range(1, len(order) + 1):
        last = end == len(order) or patients[order[end]] != patients[order[end - 1]]
        if last and (end - start >= _ROWS or end == len(order)):
            blocks.append(order[start:end])
            start = end
    return blocks


def _groups(patients: Sequence[str]) -> list[Rows]:
    """Positions of each patient in a block whose patients are in order."""
    starts = [0, *(at for at in range(1, len(patients)) if patients[at] != patients[at - 1]), len(patients)]
    return [np.arange(start, end) for start, end in pairwise(starts)]
