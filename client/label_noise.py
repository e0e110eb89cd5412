"""Labels that are probably wrong: what heads that never saw a patient say of that patient's images.

A candidate is an image labelled i that heads of the other patients take for class j; a sure one if they take it for j with the
probability that images labelled j have on average. Where classes look alike to the network, many true labels are candidates.

Source: Northcutt, Jiang and Chuang 2021, JAIR 70:1373, equation 2 (the confident joint), and section 3.3, ranking by the
probability of the given label.

Letters: N images, D features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.left_out import left_out_scores
from common.head import Float32, Float64
from common.metrics import Int64

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TEMPERATURES = (0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04)
FEWEST = 5
"""Images that a class needs before anything can be said of its labels."""


@dataclass(frozen=True)
class Doubt:
    """Image number `image` is labelled `label` (probability `given`, in [0, 1]) and looks like `likely` (`instead`).

    sure: as probable as the class `likely` is on average where it is the label.
    """

    image: int
    label: int
    likely: int
    given: float
    instead: float
    sure: bool


def probabilities_left_out(features: Float32, labels: Int64, patients: Sequence[str], classes: int) -> Float64:
    """Probabilities (N, C), each patient's by heads of the other patients; ridge and temperature by their log loss.

    A class without images has probability 0.
    """
    present = np.bincount(labels, minlength=classes) > 0
    best, least = np.zeros((len(labels), classes)), np.inf
    for scores in left_out_scores(features, labels, patients, classes, STRENGTHS):
        for temperature in TEMPERATURES:
            logits = np.where(present, scores / temperature, -np.inf)
            logits -= logits.max(axis=1, keepdims=True)
            found = np.exp(logits)
            found /= found.sum(axis=1, keepdims=True)
            loss = float(-np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-12)).mean())
            if loss < least:
                best, least = found, loss
    return best


def doubts(probabilities: Float64, labels: Int64) -> list[Doubt]:
    """The candidates, sure ones first, then the least probable label. probabilities (N, C) left out, labels (N,)."""
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    usual = np.bincount(labels, own, minlength=len(counts)) / np.maximum(counts, 1)
    known = np.where(counts >= FEWEST, probabilities, -1.0)
    likely = known.argmax(axis=1)
    instead = known.max(axis=1)
    found = [
        Doubt(
            image=int(row),
            label=int(labels[row]),
            likely=int(likely[row]),
            given=float(own[row]),
            instead=float(instead[row]),
            sure=bool(instead[row] >= usual[likely[row]]),
        )
        for row in np.flatnonzero((instead > own) & (counts[labels] >= FEWEST))
    ]
    return sorted(found, key=lambda doubt: (not doubt.sure, doubt.given, doubt.image))
