"""Learning rates, SCAFFOLD's control variate and FedNova's weight of steps, by hand."""

import math
from typing import Any

import numpy as np
import pytest

from common.drift import backbone_lr, learning_rates, local_norm, own_control
from common.job import Job, Method, parse_job

ROUNDS = (1, 2, 3, 4)


def tuning(**tune: Any) -> Job:
    """A job of four rounds with a head's rate of 0.25."""
    return parse_job(
        {
            "name": "j",
            "classes": ["a", "b"],
            "backbone": {"name": "resnet18", "weights": "random"},
            "method": {"name": "scaffold", "rounds": 4, "lr": 0.25},
            **({"tune": {"part": "last-blocks", **tune}} if tune else {}),
        }
    )


def test_the_rate_of_the_backbone_falls_over_the_rounds_as_the_job_says() -> None:
    falling, level = tuning(lr=0.8, schedule="cosine"), tuning(lr=0.8, schedule="constant")
    found = [backbone_lr(falling, number) for number in ROUNDS]
    assert found == pytest.approx([0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))])
    assert {backbone_lr(level, number) for number in ROUNDS} == {0.8}


def test_the_rate_of_the_backbone_is_never_nought_as_it_is_divided_by() -> None:
    assert min(backbone_lr(tuning(lr=0.8, schedule="cosine"), number) for number in ROUNDS) > 0


def test_a_job_that_tunes_the_head_alone_has_no_rate_of_the_backbone() -> None:
    assert [backbone_lr(tuning(), number) for number in ROUNDS] == [0.0] * 4


def test_head_and_backbone_have_rates_of_their_own_and_only_the_backbone_s_falls() -> None:
    job = tuning(lr=0.8, schedule="cosine")
    for number in ROUNDS:
        lr_of = learning_rates(job, number)
        assert lr_of("weight") == lr_of("bias") == 0.25
        assert lr_of("tuned.weight") == lr_of("tuned.layer4.1.conv2.weight") == backbone_lr(job, number)
    assert learning_rates(job, 3)("tuned.a") == pytest.approx(0.4)


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((1, 2), value, np.float32), "bias": np.full(1, value, np.float32)}


def test_the_own_control_by_hand() -> None:
    """From 5 to 2 in 3 steps of 0.5: a mean step of 2, of which 0.25 were the correction: the gradient was 1.75."""
    found = own_control(arrays(5.0), arrays(2.0), arrays(0.25), 3, lambda _: 0.5)
    assert (found["weight"].tolist(), found["bias"].tolist()) == ([[1.75, 1.75]], [1.75])
    assert all(array.dtype == np.float32 for array in found.values())


def test_the_own_control_has_the_arrays_of_the_model_and_changes_none() -> None:
    before, after, correction = arrays(5.0), arrays(2.0), {**arrays(0.25), "of another job": np.ones(9, np.float32)}
    assert own_control(before, after, correction, 3, lambda _: 0.5).keys() == before.keys()
    assert (before["bias"].tolist(), after["bias"].tolist(), correction["bias"].tolist()) == ([5.0], [2.0], [0.25])


def test_each_array_has_its_learning_rate() -> None:
    found = own_control(arrays(1.0), arrays(0.0), arrays(0.0), 1, lambda name: 0.5 if name == "bias" else 0.25)
    assert (found["weight"][0, 0], found["bias"][0]) == (4.0, 2.0)


def test_the_own_control_of_a_round_by_the_job_s_own_rates() -> None:
    """From 1 to 0 in 2 steps: of 0.25 each for the head, so a gradient of 2; of 0.4 each for the backbone, so 1.25."""
    before = {**arrays(1.0), "tuned.a": np.ones(3, np.float32)}
    after, correction = ({name: np.zeros_like(array) for name, array in before.items()} for _ in range(2))
    found = own_control(before, after, correction, 2, learning_rates(tuning(lr=0.8, schedule="cosine"), 3))
    assert (found["weight"].tolist(), found["bias"].tolist()) == ([[2.0, 2.0]], [2.0])
    assert found["tuned.a"].tolist() == pytest.approx([1.25] * 3)
    assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize("correction", [0.0, -0.75, 40.0])
def test_plain_steps_along_a_constant_gradient_give_that_gradient_back_whatever_was_added(correction: float) -> None:
    gradient, lr, position = 1.5, 0.125, 4.0
    for _ in range(6):
        position -= lr * (gradient + correction)
    found = own_control(arrays(4.0), arrays(position), arrays(correction), 6, lambda _: lr)
    assert found["bias"][0] == gradient


def test_steps_without_momentum_weigh_one_each() -> None:
    assert local_norm(Method(name="fednova", momentum=0.0).local, 7) == pytest.approx(7.0)


def test_the_weight_of_steps_with_momentum_is_the_sum_of_what_their_gradients_move() -> None:
    """Momentum 0.5, two steps: the first gradient moves 1 + 0.5, the second 1."""
    local = Method(name="fednova", momentum=0.5).local
    assert local_norm(local, 2) == pytest.approx(2.5)
    position, velocity = 0.0, 0.0
    for _ in range(9):
        velocity = 0.5 * velocity + 1.0
        position += velocity
    assert local_norm(local, 9) == pytest.approx(position)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_one_step_weighs_one_and_each_more_weighs_more(momentum: float) -> None:
    local = Method(name="fednova", momentum=momentum).local
    found = [local_norm(local, steps) for steps in range(1, 30)]
    assert found[0] == pytest.approx(1.0)
    # A further step adds its own gradient and, with momentum, more of the ones before; 1 / (1 - momentum) at most.
    assert all(1 - 1e-9 <= more <= 1 / (1 - momentum) + 1e-9 for more in np.diff(found))
