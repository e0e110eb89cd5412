import numpy as np
import pytest

from common.dp.per_patient import Patients, Products, bounding, gradient_factors, statistics_factors, within

IDS = ["a", "b", "a", "c", "d", "d", "a"]


def test_examples_are_found_by_patient_and_weigh_as_one() -> None:
    patients = Patients.of(IDS)
    assert patients.number == 4
    found = {tuple(sorted(int(one) for one in row)) for group in patients.groups for row in group}
    assert found == {(0, 2, 6), (1,), (3,), (4, 5)}
    assert patients.shares.tolist() == [1 / 3, 1, 1 / 3, 1, 0.5, 0.5, 1 / 3]


def test_no_examples_are_no_patients() -> None:
    patients = Patients.of([])
    assert patients.number == 0
    assert patients.shares.shape == (0,)
    assert gradient_factors(np.zeros((0, 2)), Products.of(np.zeros((0, 3)), patients), 1.0).shape == (0,)


def test_long_vectors_are_cut_and_short_ones_left() -> None:
    assert within(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0) == pytest.approx(np.array([[0.6, 0.8], [0.3, 0.4]]))
    assert bounding(np.array([0.0, 2.0]), 1.0).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("bound", [0.1, 1.0, 1e6])
def test_what_a_patient_adds_is_bounded_exactly(bound: float) -> None:
    rng = np.random.default_rng(3)
    features, residuals = rng.normal(size=(7, 5)), rng.normal(size=(7, 3))
    patients = Patients.of(IDS)
    products = Products.of(features, patients)
    gradients = gradient_factors(residuals, products, bound)
    statistics = statistics_factors(residuals, products, bound)
    for name in set(IDS):
        rows = [index for index, one in enumerate(IDS) if one == name]
        gradient = residuals[rows].T @ features[rows]
        both = np.concatenate([features[rows].T @ features[rows], features[rows].T @ residuals[rows]], axis=1)
        for factors, whole in ((gradients, gradient), (statistics, both)):
            assert len(set(factors[rows])) == 1
            assert factors[rows[0]] == pytest.approx(min(1.0, bound / np.linalg.norm(whole)))
