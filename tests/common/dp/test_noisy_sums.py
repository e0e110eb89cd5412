import numpy as np
import pytest

from common.dp.gaussian import mu_of
from common.dp.noisy_sums import bounded_sums, numbers_of, sensitivity_of, solve, unprojected
from common.dp.per_patient import Patients
from common.metrics import count, derive


def _examples(number: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    middles = np.random.default_rng(99).normal(size=(classes, 12)) * 0.25
    return (rng.normal(size=(number, 12)) * 0.25 + middles[labels]).astype(np.float32), labels


def _each(number: int) -> Patients:
    return Patients.of([str(one) for one in range(number)])


@pytest.mark.parametrize("classes", [2, 3])
def test_one_example_of_norm_one_reaches_the_sensitivity(classes: int) -> None:
    features = np.array([[3.0, 4.0]], np.float32)
    found = bounded_sums(features, np.array([1]), classes, _each(1))
    assert len(found) == numbers_of(2, classes)
    assert np.linalg.norm(found) == pytest.approx(sensitivity_of(classes))


def test_a_patient_moves_the_sums_by_at_most_the_sensitivity() -> None:
    rng = np.random.default_rng(1)
    features, labels = _examples(60, 3)
    features *= 10.0 ** rng.integers(-2, 3, size=(60, 1)).astype(np.float32)
    ids = [str(one) for one in rng.integers(0, 15, 60)]
    whole = bounded_sums(features, labels, 3, Patients.of(ids))
    for name in set(ids):
        kept = np.array([one != name for one in ids])
        rest = bounded_sums(features[kept], labels[kept], 3, Patients.of([one for one in ids if one != name]))
        assert np.linalg.norm(whole - rest) <= sensitivity_of(3) + 1e-9


def test_two_classes_need_noise_of_sqrt_three_halves() -> None:
    assert sensitivity_of(2) == pytest.approx(1.5**0.5)


@pytest.mark.parametrize("classes", [2, 4])
def test_without_noise_the_head_is_that_of_linear_discriminants_and_calibrated(classes: int) -> None:
    features, labels = _examples(3000, classes)
    fresh, truth = _examples(3000, classes, seed=1)
    head = solve(bounded_sums(features, labels, classes, _each(3000)), classes, 0.0)
    found = derive(count(head.probabilities(fresh), truth))
    middles = np.stack([features[labels == one].mean(0) for one in range(classes)])
    nearest = ((fresh[:, None] - middles) ** 2).sum(2).argmin(1)
    assert found.accuracy == pytest.approx(float((nearest == truth).mean()), abs=0.02)
    assert (found.ece or 0.0) < 0.04


def test_a_split_gives_the_pooled_sums() -> None:
    features, labels = _examples(50, 2)
    parts = [bounded_sums(features[rows], labels[rows], 2, _each(25)) for rows in (slice(0, 25), slice(25, 50))]
    assert sum(parts) == pytest.approx(bounded_sums(features, labels, 2, _each(50)))


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_noise_leaves_a_head_that_is_finite_and_mostly_right(epsilon: float) -> None:
    features, labels = _examples(3000, 2)
    fresh, truth = _examples(3000, 2, seed=1)
    sums = bounded_sums(features, labels, 2, _each(3000))
    sigma = sensitivity_of(2) / mu_of(epsilon, 1e-5)
    head = solve(sums + np.random.default_rng(4).normal(0, sigma, len(sums)), 2, sigma)
    assert (head.logits(fresh).argmax(1) == truth).mean() > 0.8


def test_pure_noise_is_no_error() -> None:
    for seed in range(20):
        head = solve(np.random.default_rng(seed).normal(0, 50.0, numbers_of(8, 3)), 3, 50.0)
        assert np.isfinite(head.weight).all()
        assert np.isfinite(head.bias).all()


def test_a_class_that_nobody_has_is_improbable() -> None:
    features, labels = _examples(500, 2)
    head = solve(bounded_sums(features, labels, 3, _each(500)), 3, 0.0)
    assert head.probabilities(features)[:, 2].max() < 0.1


def test_the_projection_is_folded_in() -> None:
    features, labels = _examples(200, 2)
    projection = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    projected = np.asarray(features @ projection, np.float32)
    head = solve(bounded_sums(projected, labels, 2, _each(200)), 2, 0.0)
    assert unprojected(head, projection).logits(features) == pytest.approx(head.logits(projected), abs=1e-3)


def test_a_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers"):
        solve(np.zeros(17), 2, 1.0)
