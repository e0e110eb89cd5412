import numpy as np
import pytest

from client.hospital_drift import Federation, drift_of, kept_federation
from client.local_state import LocalState
from common.errors import DataError


@pytest.fixture
def features(job):
    rng = np.random.default_rng(0)
    return lambda n, shift=0.0: (rng.normal(3.0 + 2.0 * shift, 2.0, (n, job().num_features))).astype(np.float32)


def test_no_drift_is_none_however_few_the_images(job, features):
    federation = Federation.of([features(400), features(400)], "two")
    few = drift_of(features(5), federation, job())
    assert few.shift < 0.4
    assert not few.far
    assert few.distances.mean() == pytest.approx(1.0, abs=0.05)
    assert drift_of(features(400), federation, job()).shift < 0.05


def test_a_shift_by_deviations_is_told_in_deviations(job, features):
    federation = Federation(
        np.full(job().num_features, 3.0, np.float32), np.full(job().num_features, 2.0, np.float32), "x"
    )
    found = drift_of(features(200, shift=1.5), federation, job())
    assert found.shift == pytest.approx(1.5, abs=0.05)
    assert found.far
    assert found.outside > 0.5
    assert list(found.by_stage) == list(dict.fromkeys(block.stage for block in job().feature_blocks))


def test_the_federation_of_several_is_that_of_all_their_images(job, features):
    parts = [features(30), features(50, shift=1.0)]
    found, pooled = Federation.of(parts, ""), np.concatenate(parts).astype(float)
    np.testing.assert_allclose(found.mean, pooled.mean(axis=0), rtol=2e-3)
    np.testing.assert_allclose(found.scale, pooled.std(axis=0), rtol=2e-3)


def test_what_a_hospital_was_sent_is_kept_and_found(phantoms, hospital_with, job, requests_of, tmp_path):
    one = job()
    assert kept_federation(tmp_path, "st-marys", one) is None
    hospital = hospital_with(phantoms["hospital-a"], cache=tmp_path)
    asked = requests_of(one, hospital)
    assert kept_federation(tmp_path, "st-marys", one) is None
    hospital.answer("evaluate", asked.evaluate())
    found = kept_federation(tmp_path, "st-marys", one)
    np.testing.assert_array_equal(found.mean, asked.standardisation.mean.astype(np.float32))
    np.testing.assert_array_equal(found.scale, asked.standardisation.scale.astype(np.float32))
    assert kept_federation(tmp_path, "other-name", one) is not None  # it was sent to all of them
    assert kept_federation(tmp_path, "st-marys", job(seed=4)) is None
    LocalState(tmp_path, "st-marys", one).save("federation", 0, {"mean": np.zeros(3, np.float32)})
    with pytest.raises(DataError, match="expected mean and scale"):
        kept_federation(tmp_path, "st-marys", one)
