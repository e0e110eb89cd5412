from pathlib import Path

import numpy as np
import pytest

from client import diagnosis
from client.diagnosis import REFER, Diagnostician
from client.records import read_rows
from common.artifact import load_model, save_model
from common.errors import ArtifactError
from common.head import Head, Standardisation
from common.job import parse_job
from simulation.run import simulate


@pytest.fixture(scope="module")
def model(job, phantoms, cache_dir, tmp_path_factory) -> Path:
    """The model file of a short run of two hospitals."""
    two = dict(list(phantoms.items())[:2])
    folder = tmp_path_factory.mktemp("run") / "run"
    simulate(job(method={"name": "fedavg", "rounds": 2}), two, folder, cache_dir=cache_dir, device="cpu")
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def diagnostician(model) -> Diagnostician:
    return Diagnostician(model, device="cpu")


@pytest.fixture
def images(phantoms) -> list[Path]:
    return [row.path for row in read_rows(phantoms["hospital-c"])][:8]


def test_probabilities_are_those_of_the_head_and_sum_to_one(diagnostician, images):
    found = diagnostician.diagnose(images, threshold=0.0)
    assert [one.image for one in found] == images
    for one in found:
        assert list(one.probabilities) == ["normal", "opacity"]
        assert sum(one.probabilities.values()) == pytest.approx(1.0)
        assert all(0 <= value <= 1 for value in one.probabilities.values())
        assert one.label == max(one.probabilities, key=one.probabilities.get)
        assert one.problem is None
    assert len({one.probabilities["opacity"] for one in found}) == len(images)


def test_under_the_threshold_a_radiologist_decides(diagnostician, images):
    certain = sorted(max(one.probabilities.values()) for one in diagnostician.diagnose(images, 0.0))
    threshold = certain[4]
    found = diagnostician.diagnose(images, threshold)
    for one in found:
        assert (one.label == REFER) == (max(one.probabilities.values()) < threshold)
    assert sum(one.label == REFER for one in found) == 4
    assert all(one.label == REFER and one.probabilities for one in diagnostician.diagnose(images, 1.0 + 1e-9))


def test_an_unreadable_image_is_told_and_the_others_are_diagnosed(diagnostician, images, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"nonsense")
    asked = [tmp_path / "damaged.png", *images[:2], tmp_path / "gone.png"]
    first, *good, last = diagnostician.diagnose(asked, 0.0)
    for bad in (first, last):
        assert (bad.label, bad.probabilities) == (REFER, {})
        assert bad.problem
    expected = diagnostician.diagnose(images[:2], 0.0)
    assert [one.image for one in good] == images[:2]
    assert [one.label for one in good] == [one.label for one in expected]


def test_nothing_readable_and_nothing_at_all(diagnostician, tmp_path):
    assert diagnostician.diagnose([], 0.5) == []
    [only] = diagnostician.diagnose([tmp_path / "gone.png"], 0.5)
    assert only.problem


def test_many_images_are_taken_in_parts(diagnostician, images, monkeypatch):
    expected = diagnostician.diagnose(images, 0.0)
    monkeypatch.setattr(diagnosis, "_IMAGES_AT_ONCE", 3)
    found = diagnostician.diagnose(images, 0.0)
    assert [one.image for one in found] == images
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_another_backbone_than_the_trained_one_is_refused(model, tmp_path):
    head, manifest = load_model(model)
    content = {**manifest.job.model_dump(mode="json"), "backbone": {"name": "squeezenet1_1", "weights": "random"}}
    other = parse_job(content)
    changed = manifest.model_copy(update={"job": other, "job_id": other.job_id})
    save_model(tmp_path / "other.safetensors", head, changed)
    with pytest.raises(ArtifactError, match=manifest.fingerprint[:16]):
        Diagnostician(tmp_path / "other.safetensors", device="cpu")


def test_a_damaged_model_is_refused(model, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ArtifactError):
        Diagnostician(tmp_path / "model.safetensors", device="cpu")


def test_a_folded_head_on_raw_features_is_the_head_on_standardised_ones(diagnostician):
    rng = np.random.default_rng(0)
    features = diagnostician._features(rng.integers(0, 256, (6, 3, 64, 64), np.uint8))
    head = Head(rng.normal(0, 0.1, (3, 512)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    wide = features.astype(np.float64)
    standardisation = Standardisation.from_sums(len(features), wide.sum(axis=0), (wide**2).sum(axis=0))
    on_standardised = head.probabilities(standardisation.apply(features))
    np.testing.assert_allclose(standardisation.fold(head).probabilities(features), on_standardised, atol=1e-5)
    assert not np.allclose(head.probabilities(features), on_standardised, atol=1e-2)
