"""SCAFFOLD's control variate and FedNova's weight of steps, by hand."""

import numpy as np
import pytest

from common.drift import control_change, correction, local_norm
from common.job import Method


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((1, 2), value, np.float32), "bias": np.full(1, value, np.float32)}


def test_the_correction_is_server_minus_own_and_server_alone_at_first():
    assert correction(arrays(3.0), arrays(1.0))["weight"].tolist() == [[2.0, 2.0]]
    assert correction(arrays(3.0), {})["bias"].tolist() == [3.0]


def test_the_control_change_by_hand():
    """From 5 to 2 in 3 steps of 0.5: a mean gradient of 2; the server's control was 0.25, so the change is 1.75."""
    found = control_change(arrays(5.0), arrays(2.0), arrays(0.25), 3, lambda name: 0.5)
    assert found["weight"].tolist() == [[1.75, 1.75]]
    assert found["bias"].dtype == np.float32


def test_each_array_has_its_learning_rate():
    found = control_change(arrays(1.0), arrays(0.0), arrays(0.0), 1, lambda name: 0.5 if name == "bias" else 0.25)
    assert (found["weight"][0, 0], found["bias"][0]) == (4.0, 2.0)


def test_steps_without_momentum_weigh_one_each():
    assert local_norm(Method(name="fednova", momentum=0.0).local, 7) == pytest.approx(7.0)


def test_the_weight_of_steps_with_momentum_is_the_sum_of_what_their_gradients_move():
    """Momentum 0.5, two steps: the first gradient moves 1 + 0.5, the second 1."""
    local = Method(name="fednova", momentum=0.5).local
    assert local_norm(local, 2) == pytest.approx(2.5)
    position, velocity = 0.0, 0.0
    for _ in range(9):
        velocity = 0.5 * velocity + 1.0
        position += velocity
    assert local_norm(local, 9) == pytest.approx(position)
