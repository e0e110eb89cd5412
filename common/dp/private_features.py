"""Bounded features, and their centre with noise: what both ways to a head begin with.

    features  -> every stage of every example scaled to norm 1: nothing is learned from other patients, so it costs nothing
    centre    <- mean over all patients, with noise: one release, which also says how many patients there are
    head      <- trained on (x - centre) / spread, and linear in x, so `Standardisation.fold` takes the centre in

The spread is a constant of the way to the head (`noisy_sums.SPREAD`, `Descent.spread`): a measured one would have to be
released too. Any constant is as private, since what a patient adds is bounded afterwards.

Letters: N examples, D features, P patients.
"""

from collections.abc import Sequence

import numpy as np

from common.backbones import FeatureBlock
from common.dp.per_patient import Patients, within
from common.head import Float32, Float64, Standardisation

COUNT_PART = 0.3
"""Of the unit length of a patient's contribution to the centre, given to the number of patients."""

SENSITIVITY = 1.0
"""L2, of the sums for the centre: with or without one patient."""


def stage_normalised(features: Float32, blocks: Sequence[FeatureBlock]) -> Float32:
    """Features (N, D) with each of the S stages (a slice of the columns) scaled to norm 1 / sqrt(S): norm 1, or 0 in stages of 0.

    The model reads these too: an image to be diagnosed is scaled alike.
    """
    scaled = np.zeros(features.shape, np.float32)
    for block in blocks:
        columns = slice(block.start, block.stop)
        norms = np.linalg.norm(features[:, columns].astype(np.float64), axis=1, keepdims=True)
        scaled[:, columns] = features[:, columns] / np.maximum(norms, 1e-30) / np.sqrt(len(blocks))
    return scaled


def centre_sums(features: Float32, patients: Patients) -> Float64:
    """A hospital's sums for the centre (D + 1,), without noise: patients' means, and in the last place their number.

    A patient adds (sqrt(1 - c²) m, c), m the mean of the patient's features (N, D), cut to norm 1, and c = `COUNT_PART`: of
    norm at most 1, which is the sensitivity, whatever the features are.
    """
    sums = np.zeros(features.shape[1] + 1)
    for group in patients.groups:
        means = within(features[group].astype(np.float64).mean(axis=1), 1.0)
        sums[:-1] += np.sqrt(1.0 - COUNT_PART**2) * means.sum(axis=0)
        sums[-1] += COUNT_PART * len(group)
    return sums


def patients_of(noised: Float64) -> int:
    """About how many patients one hospital has, by its noised sums (D + 1,); at least 1, so that it may divide and weigh."""
    return max(1, round(float(noised[-1]) / COUNT_PART))


def centre_of(noised: Float64, spread: float) -> tuple[Standardisation, float]:
    """The standardisation by the noised sums (D + 1,) of all hospitals, and about how many patients there are (at least 1)."""
    patients = max(1.0, float(noised[-1]) / COUNT_PART)
    mean = noised[:-1] / np.sqrt(1.0 - COUNT_PART**2) / patients
    # A mean of vectors of norm 1 is no longer than they are: a longer one is noise.
    mean = within(mean, 1.0)
    return Standardisation(mean.astype(np.float16), np.full(len(mean), spread, np.float16)), patients
