import numpy as np
import pytest

from common.dp.gradient_descent import (
    Descent,
    DescentState,
    clipped_gradient_sum,
    draw_patients,
    products_of,
    result,
    step,
)
from common.dp.per_patient import Patients
from common.head import Head


def _examples(number: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, number)
    features = (rng.normal(size=(number, 6)) + np.eye(3, 6)[labels] * 2).astype(np.float32)
    return features, labels, [str(one) for one in rng.integers(0, number // 2, number)]


def test_one_example_by_hand() -> None:
    features, labels = np.array([[3.0, 4.0]], np.float32), np.array([1])
    products = products_of(features, Patients.of(["a"]))
    plain = clipped_gradient_sum(Head.zeros(2, 2), features, labels, products, 1e9)
    assert plain == pytest.approx(np.array([[1.5, 2.0, 0.5], [-1.5, -2.0, -0.5]]))
    clipped = clipped_gradient_sum(Head.zeros(2, 2), features, labels, products, 1.0)
    assert np.linalg.norm(clipped) == pytest.approx(1.0)
    assert clipped / np.linalg.norm(clipped) == pytest.approx(plain / np.linalg.norm(plain))


def test_a_patient_moves_a_step_by_at_most_the_clip() -> None:
    features, labels, ids = _examples()
    head = Head(np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32), np.zeros(3, np.float32))
    whole = clipped_gradient_sum(head, features, labels, products_of(features, Patients.of(ids)), 0.4)
    moved = []
    for name in set(ids):
        kept = np.array([one != name for one in ids])
        rest = Patients.of([one for one in ids if one != name])
        without = clipped_gradient_sum(head, features[kept], labels[kept], products_of(features[kept], rest), 0.4)
        moved.append(np.linalg.norm(whole - without))
    assert max(moved) == pytest.approx(0.4, rel=1e-4)


def test_the_sums_of_hospitals_add_to_the_pooled_one() -> None:
    features, labels, _ = _examples()
    ids = [str(one // 2) for one in range(40)]
    head = Head.zeros(3, 6)
    halves = [
        clipped_gradient_sum(
            head, features[part], labels[part], products_of(features[part], Patients.of(ids[part])), 0.4
        )
        for part in (slice(0, 20), slice(20, 40))
    ]
    whole = clipped_gradient_sum(head, features, labels, products_of(features, Patients.of(ids)), 0.4)
    assert sum(halves) == pytest.approx(whole, abs=1e-5)


def test_a_patient_s_repeated_images_count_once() -> None:
    features, labels, _ = _examples(10)
    ids = [str(one) for one in range(10)]
    once = clipped_gradient_sum(Head.zeros(3, 6), features, labels, products_of(features, Patients.of(ids)), 0.4)
    twice = np.concatenate([features, features])
    products = products_of(twice, Patients.of(ids + ids))
    again = clipped_gradient_sum(Head.zeros(3, 6), twice, np.concatenate([labels, labels]), products, 0.4)
    assert again == pytest.approx(once, abs=1e-5)


def test_steps_by_hand() -> None:
    descent = Descent(steps=3, lr=0.5, momentum=0.5, averaged=2)
    state = DescentState.start(1, 0)
    path = []
    for _ in range(3):
        state = step(state, np.array([[4.0]]), 2.0, descent)
        path.append(float(state.weight[0, 0]))
    assert path == [-1.0, -2.5, -4.25]
    assert result(state, descent).bias == pytest.approx([(-2.5 - 4.25) / 2])


def test_a_run_that_ends_early_gives_the_head_it_has() -> None:
    descent = Descent(steps=10, averaged=2)
    state = step(DescentState.start(2, 1), np.ones((2, 2)), 1.0, descent)
    assert result(state, descent).bias == pytest.approx(state.head.bias)


def test_without_noise_it_learns() -> None:
    features, labels, ids = _examples(300)
    products, descent = products_of(features, Patients.of(ids)), Descent()
    state = DescentState.start(3, 6)
    for _ in range(descent.steps):
        gradient = clipped_gradient_sum(state.head, features, labels, products, descent.clip)
        state = step(state, gradient, products.patients.number, descent)
    assert (result(state, descent).logits(features).argmax(1) == labels).mean() > 0.8


def test_sampled_patients_come_with_all_their_examples() -> None:
    features, labels, ids = _examples(400)
    patients = Patients.of(ids)
    drawn = draw_patients(patients, 0.25, np.random.default_rng(2).bytes)
    assert all(len({drawn[index] for index, one in enumerate(ids) if one == name}) == 1 for name in set(ids))
    assert (drawn * patients.shares).sum() / patients.number == pytest.approx(0.25, abs=0.1)
    kept = drawn > 0
    products = products_of(features, patients)
    sampled = clipped_gradient_sum(Head.zeros(3, 6), features, labels, products, 0.4, drawn)
    alone = products_of(features[kept], Patients.of([one for one, use in zip(ids, kept, strict=True) if use]))
    assert sampled == pytest.approx(
        clipped_gradient_sum(Head.zeros(3, 6), features[kept], labels[kept], alone, 0.4), abs=1e-4
    )
