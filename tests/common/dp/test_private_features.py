import numpy as np
import pytest

from common.backbones import FeatureBlock
from common.dp.per_patient import Patients
from common.dp.private_features import COUNT_PART, SENSITIVITY, centre_of, centre_sums, stage_normalised

BLOCKS = (FeatureBlock("one", "mean", 0, 2), FeatureBlock("two", "mean", 2, 4))


def test_every_stage_has_the_same_norm_by_hand() -> None:
    found = stage_normalised(np.array([[3.0, 4.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0]], np.float32), BLOCKS)
    assert found * np.sqrt(2) == pytest.approx(np.array([[0.6, 0.8, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]), abs=1e-6)


def test_a_patient_moves_the_sums_by_at_most_the_sensitivity_whatever_the_features() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(20, 6)) * 10.0 ** rng.integers(-3, 4, size=(20, 1))).astype(np.float32)
    ids = [str(one) for one in rng.integers(0, 6, 20)]
    whole = centre_sums(features, Patients.of(ids))
    for name in set(ids):
        kept = [index for index, one in enumerate(ids) if one != name]
        rest = centre_sums(features[kept], Patients.of([ids[index] for index in kept]))
        assert np.linalg.norm(whole - rest) <= SENSITIVITY + 1e-9


def test_without_noise_it_is_the_mean_over_patients() -> None:
    features = np.array([[0.2, 0.0], [0.6, 0.0], [0.0, 0.5]], np.float32)
    standardisation, patients = centre_of(centre_sums(features, Patients.of(["a", "a", "b"])), 0.5)
    assert patients == pytest.approx(2.0)
    assert standardisation.mean == pytest.approx(np.array([0.2, 0.25]), abs=1e-3)
    assert standardisation.scale.tolist() == [0.5] * 2


def test_nothing_but_noise_still_is_a_standardisation() -> None:
    standardisation, patients = centre_of(np.array([500.0, -300.0, -40.0 * COUNT_PART]), 0.4)
    assert patients == 1.0
    assert np.linalg.norm(standardisation.mean.astype(float)) <= 1.001
