"""SCAFFOLD and FedNova against two hospitals' arithmetic by hand."""

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from common.drift import control_change
from common.head import Head
from common.job import Method
from common.model import Model
from server.heterogeneity import FedNova, Scaffold
from server.strategies import Aggregator, Update


def at(*numbers):
    return {"x": np.array(numbers, np.float64)}


def test_scaffold_by_hand():
    """10 and 30 examples: shares 1/4 and 3/4. From 1 to 2 and to 4: mean change 1/4 + 9/4 = 2.5, half of it is taken.

    Control changes 8 and -4: 8/4 - 12/4 = -1; a round later 4 and 4: -1 + 4 = 3.
    """
    scaffold = Scaffold(server_lr=0.5)
    assert scaffold.control_of(at(1)) == at(0)
    after = scaffold.combine(at(1), [at(2), at(4)], [10, 30], [at(8), at(-4)], members=40)
    assert after["x"].tolist() == [2.25]
    assert scaffold.control["x"].tolist() == [-1.0]
    # 2.25 + 0.5 (1/4 x 1 + 3/4 x -3) = 1.25
    after = scaffold.combine(after, [at(3.25), at(-0.75)], [10, 30], [at(4), at(4)], members=40)
    assert after["x"].tolist() == [1.25]
    assert scaffold.control["x"].tolist() == [3.0]


def test_scaffold_s_control_is_the_mean_over_all_members_also_those_who_did_not_answer():
    """10 and 30 examples of 80: the model's shares are 1/4 and 3/4, the control's 1/8 and 3/8: 8/8 - 12/8 = -0.5."""
    scaffold = Scaffold(server_lr=0.5)
    after = scaffold.combine(at(1), [at(2), at(4)], [10, 30], [at(8), at(-4)], members=80)
    assert (after["x"].tolist(), scaffold.control["x"].tolist()) == ([2.25], [-0.5])
    # The other 40 examples' hospital alone: -0.5 + 1/2 x 3.
    scaffold.combine(at(1), [at(2)], [40], [at(3)], members=80)
    assert scaffold.control["x"].tolist() == [1.0]


def test_unknown_members_are_those_who_answered():
    scaffold = Scaffold(server_lr=1.0)
    scaffold.combine(at(1), [at(2), at(4)], [10, 30], [at(8), at(-4)], members=0)
    assert scaffold.control["x"].tolist() == [-1.0]


def test_scaffold_keeps_arrays_apart():
    scaffold = Scaffold(server_lr=1.0)
    before = {"weight": np.zeros((1, 2)), "bias": np.ones(1)}
    models = [
        {"weight": np.array([[2.0, 4.0]]), "bias": np.ones(1)},
        {"weight": np.array([[4.0, 0.0]]), "bias": np.zeros(1)},
    ]
    controls = [
        {"weight": np.array([[1.0, 0.0]]), "bias": np.ones(1)},
        {"weight": np.array([[3.0, 2.0]]), "bias": np.ones(1)},
    ]
    after = scaffold.combine(before, models, [5, 5], controls, members=10)
    assert (after["weight"].tolist(), after["bias"].tolist()) == ([[3.0, 2.0]], [0.5])
    assert (scaffold.control["weight"].tolist(), scaffold.control["bias"].tolist()) == ([[2.0, 1.0]], [1.0])


def test_fednova_by_hand():
    """Shares 1/4 and 3/4. From 10 to 8 in steps that weigh 1, to 7 in steps that weigh 3: -2 and -1 for a plain step.

    Mean step -2/4 - 3/4 = -1.25; so many steps weigh 1/4 + 9/4 = 2.5; 10 - 2.5 x 1.25 = 6.875. fedavg would say 7.25.
    """
    after = FedNova().combine(at(10), [at(8), at(7)], [10, 30], [1.0, 3.0])
    assert after["x"].tolist() == [6.875]


def test_with_fednova_a_hospital_of_many_steps_does_not_pull_further_than_its_share():
    """Both take plain steps of 1, towards opposite sides, one hospital 1 and the other 9: the mean stays where it is."""
    assert FedNova().combine(at(0), [at(1), at(-9)], [10, 10], [1.0, 9.0])["x"].tolist() == [0.0]


numbers = st.floats(-100, 100)


@given(st.lists(st.tuples(numbers, st.integers(1, 1000)), min_size=1, max_size=5), st.floats(1, 50), numbers)
@settings(max_examples=30, deadline=None)
def test_fednova_with_equal_steps_is_fedavg(told, norm, start):
    models, examples = [at(value) for value, _ in told], [n for _, n in told]
    after = FedNova().combine(at(start), models, examples, [norm] * len(told))
    mean = sum(value * n for value, n in told) / sum(examples)
    assert after["x"][0] == pytest.approx(mean, rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(numbers, st.integers(1, 1000)), min_size=1, max_size=5), numbers)
@settings(max_examples=30, deadline=None)
def test_scaffold_without_control_is_fedavg(told, start):
    models, examples = [at(value) for value, _ in told], [n for _, n in told]
    scaffold = Scaffold(1.0)
    after = scaffold.combine(at(start), models, examples, [at(0)] * len(told), sum(examples))
    assert after["x"][0] == pytest.approx(sum(value * n for value, n in told) / sum(examples), rel=1e-9, abs=1e-9)
    assert scaffold.control["x"].tolist() == [0.0]


def model(value):
    return Model(
        Head(np.full((2, 3), value, np.float32), np.full(2, value, np.float32)), {"a": np.full(4, value, np.float32)}
    )


def update(name, value, examples, **more):
    return Update(name, model(value), examples, **more)


@pytest.fixture(autouse=True)
def _in_a_run():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def numbers_in(arrays):
    return {number for array in arrays.values() for number in array.ravel().tolist()}


def test_the_control_variate_is_sent_along_and_only_by_scaffold():
    """From 1 to 2 in one step of 0.5: -2; to 4 in three: -2; so c = -2."""
    aggregator = Aggregator(Method(name="scaffold", lr=0.5))
    sent = aggregator.sent_along(model(0.0))
    assert {name: array.shape for name, array in sent.items()} == {"weight": (2, 3), "bias": (2,), "tuned.a": (4,)}
    assert not any(array.any() for array in sent.values())
    after = aggregator.combine(1, model(1.0), [update("a", 2.0, 10, steps=1), update("b", 4.0, 30, steps=3)])
    assert numbers_in(after.arrays()) == {3.5}
    sent = aggregator.sent_along(after)
    assert all(array.dtype == np.float32 and set(array.ravel().tolist()) == {-2.0} for array in sent.values())
    assert Aggregator(Method(name="fednova")).sent_along(after) == {}
    assert Aggregator(Method(name="fedavgm")).sent_along(after) == {}


def test_two_rounds_of_scaffold_by_hand():
    """10 and 30 examples of 80; steps of 0.5; half of the mean change is taken.

    From 1 to 2 in 2 steps, a gradient of -1, and to 4 in 3 steps, -2: 1 + 0.5 (1/4 + 9/4) = 2.25; c = -1/8 - 6/8 = -0.875.
    From 2.25 to 3.25 in 1 step, -2 - c = -1.125, and to -0.75 in 4 steps, 1.5 - c = 2.375: 2.25 + 0.5 (1/4 - 9/4) = 1.25;
    c = -0.875 - 1.125/8 + 7.125/8 = -0.125.
    """
    aggregator = Aggregator(Method(name="scaffold", server_lr=0.5, lr=0.5), members=80)
    after = aggregator.combine(1, model(1.0), [update("a", 2.0, 10, steps=2), update("b", 4.0, 30, steps=3)])
    assert numbers_in(after.arrays()) == {2.25}
    assert numbers_in(aggregator.sent_along(after)) == {-0.875}
    after = aggregator.combine(2, after, [update("b", -0.75, 30, steps=4), update("a", 3.25, 10, steps=1)])
    assert numbers_in(after.arrays()) == {1.25}
    assert numbers_in(aggregator.sent_along(after)) == {-0.125}


def test_the_control_variate_knows_the_rate_of_each_array_in_each_round():
    """1 to 0 in 2 steps: rates of 0.5 and 0.25 for head and backbone, and in the second round half of that.

    Gradients of 1 and 2, then of 2 and 4 less c: then c, of the only hospital, is the gradient of the last round.
    """
    aggregator = Aggregator(
        Method(name="scaffold"), lambda number: lambda name: (0.25 if name.startswith("tuned.") else 0.5) / number
    )
    for number in (1, 2):
        aggregator.combine(number, model(1.0), [update("a", 0.0, 10, steps=2)])
        sent = aggregator.sent_along(model(0.0))
        assert {name: numbers_in({name: array}) for name, array in sent.items()} == {
            "weight": {1.0 * number},
            "bias": {1.0 * number},
            "tuned.a": {2.0 * number},
        }


def test_fednova_weighs_the_steps_with_their_momentum_by_hand():
    """10 and 30 examples. Without momentum as above: 10 to 8 in 1 step, to 7 in 3 steps: 6.875.

    With momentum 0.5 two steps weigh 1 + 1.5 = 2.5: mean step -2/4 - 3/4 x 3/2.5 = -1.4, of 1/4 + 3/4 x 2.5 = 2.125 steps:
    10 - 2.975.
    """
    plain = Aggregator(Method(name="fednova", momentum=0.0))
    after = plain.combine(1, model(10.0), [update("a", 8.0, 10, steps=1), update("b", 7.0, 30, steps=3)])
    assert numbers_in(after.arrays()) == {6.875}
    momentum = Aggregator(Method(name="fednova", momentum=0.5))
    after = momentum.combine(1, model(10.0), [update("a", 8.0, 10, steps=1), update("b", 7.0, 30, steps=2)])
    assert [*numbers_in(after.arrays())] == pytest.approx([7.025], rel=1e-6)
    assert momentum.state() == {}


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_server_s_control_is_the_mean_of_those_that_the_hospitals_keep(seed, rounds):
    """Each adds Δc_k to its c_k, from zeros on, and computes it itself from what it was sent."""
    rng = np.random.default_rng(seed)
    examples, steps = rng.integers(1, 100, 3).tolist(), rng.integers(1, 20, 3).tolist()
    method, current = Method(name="scaffold", lr=0.1), model(0.5)
    aggregator = Aggregator(method, members=sum(examples))
    own = [{name: np.zeros(array.shape) for name, array in current.arrays().items()} for _ in examples]
    for number in range(1, rounds + 1):
        sent, updates = aggregator.sent_along(current), []
        for k, kept in enumerate(own):
            arrays = {
                name: array + rng.normal(size=array.shape).astype(np.float32)
                for name, array in current.arrays().items()
            }
            change = control_change(current.arrays(), arrays, sent, steps[k], lambda _: 0.1)
            own[k] = {name: array + change[name] for name, array in kept.items()}
            updates.append(Update(f"h{k}", Model.from_arrays(arrays), examples[k], steps[k]))
        current = aggregator.combine(number, current, updates)
    for name, array in aggregator.state().items():
        mean = sum(n * kept[name.removeprefix("control.")] for n, kept in zip(examples, own, strict=True))
        np.testing.assert_allclose(array, mean / sum(examples), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e6), st.integers(1, 50), st.floats(1e-4, 1.0), st.floats(0, 1e4))
@settings(max_examples=50, deadline=None)
def test_the_norm_of_an_update_bounds_the_change_of_the_control_variate(seed, bound, steps, lr, size):
    """|Δc| <= |y - x| / (steps lr) + |c|: with the norm that the guard allows, no steps make c explode."""
    rng = np.random.default_rng(seed)
    start = model(0.0).arrays()
    moved = {name: rng.normal(size=array.shape) for name, array in start.items()}
    control = {name: size * rng.normal(size=array.shape) for name, array in start.items()}
    length = norm_of(moved)
    y = Model.from_arrays({name: (array * bound / length).astype(np.float32) for name, array in moved.items()})
    assert y.distance(model(0.0)) == pytest.approx(bound, rel=1e-5)
    aggregator = Aggregator(Method(name="scaffold", lr=lr))
    aggregator.restore({f"control.{name}": array for name, array in control.items()})
    aggregator.combine(1, model(0.0), [Update("a", y, 10, steps)])
    change = {name: aggregator.state()[f"control.{name}"] - array for name, array in control.items()}
    assert norm_of(change) <= (bound / (steps * lr) + norm_of(control)) * (1 + 1e-5)


def norm_of(arrays):
    return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays.values())))


def test_the_control_variate_survives_a_restart():
    first, second = Aggregator(Method(name="scaffold")), Aggregator(Method(name="scaffold"))
    after = first.combine(1, model(0.0), [update("a", 1.0, 1, steps=3), update("b", -3.0, 2, steps=1)])
    second.restore(dict(sorted(first.state().items())))
    one, other = first.sent_along(after), second.sent_along(after)
    assert all(array.any() for array in one.values())
    assert {name: array.tobytes() for name, array in one.items()} == {k: v.tobytes() for k, v in other.items()}
    assert set(first.state()) == {"control.weight", "control.bias", "control.tuned.a"}
    assert Aggregator(Method(name="scaffold")).state() == Aggregator(Method(name="fednova")).state() == {}
