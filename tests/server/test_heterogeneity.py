"""SCAFFOLD and FedNova against two hospitals' arithmetic by hand."""

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from common.head import Head
from common.job import Method
from common.model import Model
from server.heterogeneity import FedNova, Scaffold
from server.strategies import Aggregator, Update


def at(*numbers):
    return {"x": np.array(numbers, np.float64)}


def test_scaffold_moves_the_model_by_a_share_of_the_mean_change():
    """10 and 30 examples: shares 1/4 and 3/4. From 1 to 2 and to 4: mean change 1/4 + 9/4 = 2.5, half of it is taken."""
    scaffold = Scaffold(server_lr=0.5, members={"a": 10, "b": 30})
    assert scaffold.combine(at(1), [at(2), at(4)], [10, 30])["x"].tolist() == [2.25]
    # 2.25 + 0.5 (1/4 x 1 + 3/4 x -3) = 1.25
    assert scaffold.combine(at(2.25), [at(3.25), at(-0.75)], [10, 30])["x"].tolist() == [1.25]


def test_what_each_hospital_is_sent_is_the_mean_of_all_members_less_its_own():
    """10, 30 and 40 examples of 80, c of 8, -4 and still nought: c = 8/8 - 12/8 = -0.5."""
    scaffold = Scaffold(server_lr=0.5, members={"a": 10, "b": 30, "c": 40})
    assert scaffold.corrections(at(1)) == {"a": at(0), "b": at(0), "c": at(0)}
    scaffold.controls = {"a": at(8), "b": at(-4)}
    found = scaffold.corrections(at(1))
    assert {name: one["x"].tolist() for name, one in found.items()} == {"a": [-8.5], "b": [3.5], "c": [-0.5]}
    assert scaffold.controls.keys() == {"a", "b"}


def test_a_hospital_that_did_not_answer_keeps_its_control_and_its_share_in_the_mean():
    """The model is the mean of who answered, c the mean of all members."""
    scaffold = Scaffold(server_lr=1.0, members={"a": 10, "b": 30})
    scaffold.controls = {"a": at(8), "b": at(-4)}
    assert scaffold.combine(at(1), [at(2)], [10])["x"].tolist() == [2.0]
    assert {name: one["x"].tolist() for name, one in scaffold.corrections(at(1)).items()} == {"a": [-9.0], "b": [3.0]}


def test_scaffold_keeps_arrays_apart():
    scaffold = Scaffold(1.0, {"a": 5, "b": 5})
    before = {"weight": np.zeros((1, 2)), "bias": np.ones(1)}
    models = [
        {"weight": np.array([[2.0, 4.0]]), "bias": np.ones(1)},
        {"weight": np.array([[4.0, 0.0]]), "bias": np.zeros(1)},
    ]
    scaffold.controls = {
        "a": {"weight": np.array([[1.0, 0.0]]), "bias": np.ones(1)},
        "b": {"weight": np.array([[3.0, 2.0]]), "bias": np.ones(1)},
    }
    after = scaffold.combine(before, models, [5, 5])
    assert (after["weight"].tolist(), after["bias"].tolist()) == ([[3.0, 2.0]], [0.5])
    found = scaffold.corrections(before)
    assert (found["a"]["weight"].tolist(), found["a"]["bias"].tolist()) == ([[1.0, 1.0]], [0.0])
    assert (found["b"]["weight"].tolist(), found["b"]["bias"].tolist()) == ([[-1.0, -1.0]], [0.0])


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
def test_scaffold_s_model_is_that_of_fedavg(told, start):
    models, examples = [at(value) for value, _ in told], [n for _, n in told]
    after = Scaffold(1.0, {}).combine(at(start), models, examples)
    assert after["x"][0] == pytest.approx(sum(value * n for value, n in told) / sum(examples), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(numbers, st.integers(1, 1000)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_the_corrections_of_all_members_cancel(told):
    """Weighted by examples they add up to nothing: together the hospitals step as without them."""
    scaffold = Scaffold(1.0, {str(k): n for k, (_, n) in enumerate(told)})
    scaffold.controls = {str(k): at(value) for k, (value, _) in enumerate(told)}
    found = scaffold.corrections(at(0))
    total = sum(n * found[str(k)]["x"][0] for k, (_, n) in enumerate(told))
    assert total == pytest.approx(0.0, abs=1e-6 * sum(n for _, n in told))


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


def sent_to(aggregator, current):
    """The one number in each hospital's corrections."""
    found = {hospital: numbers_in(arrays) for hospital, arrays in aggregator.corrections(current).items()}
    assert all(len(one) == 1 for one in found.values())
    return {hospital: one.pop() for hospital, one in found.items()}


def test_corrections_are_sent_along_and_only_by_scaffold():
    """From 1 to 2 in one step of 0.5: a gradient of -2; to 4 in two: -3; c = -1/2 - 9/4 = -2.75."""
    aggregator = Aggregator(Method(name="scaffold", lr=0.5), {"a": 10, "b": 30})
    sent = aggregator.corrections(model(0.0))
    assert list(sent) == ["a", "b"]
    for arrays in sent.values():
        assert {name: array.shape for name, array in arrays.items()} == {
            "weight": (2, 3),
            "bias": (2,),
            "tuned.a": (4,),
        }
        assert not any(array.any() for array in arrays.values())
    after = aggregator.combine(1, model(1.0), [update("a", 2.0, 10, steps=1), update("b", 4.0, 30, steps=2)])
    assert numbers_in(after.arrays()) == {3.5}
    assert sent_to(aggregator, after) == {"a": -0.75, "b": 0.25}
    found = aggregator.corrections(after)
    assert all(array.dtype == np.float32 for arrays in found.values() for array in arrays.values())
    for name in ("fednova", "fedavgm", "fedavg"):
        assert Aggregator(Method(name=name), {"a": 10, "b": 30}).corrections(after) == {}


def test_two_rounds_of_scaffold_by_hand():
    """10 and 30 examples; steps of 0.5; half of the mean change is taken.

    From 1 to 2 in 2 steps, a gradient of -1, and to 4 in 3 steps, -2: 1 + 0.5 (1/4 + 9/4) = 2.25; c = -1/4 - 6/4 = -1.75;
    so a is sent -0.75 and b 0.25.
    From 2.25 to 3.25 in 1 step, -2 + 0.75 = -1.25, and to -0.75 in 4 steps, 1.5 - 0.25 = 1.25: 2.25 + 0.5 (1/4 - 9/4) = 1.25;
    c = -1.25/4 + 3.75/4 = 0.625; so a is sent 1.875 and b -0.625.
    """
    aggregator = Aggregator(Method(name="scaffold", server_lr=0.5, lr=0.5), {"a": 10, "b": 30})
    after = aggregator.combine(1, model(1.0), [update("a", 2.0, 10, steps=2), update("b", 4.0, 30, steps=3)])
    assert numbers_in(after.arrays()) == {2.25}
    assert sent_to(aggregator, after) == {"a": -0.75, "b": 0.25}
    after = aggregator.combine(2, after, [update("b", -0.75, 30, steps=4), update("a", 3.25, 10, steps=1)])
    assert numbers_in(after.arrays()) == {1.25}
    assert sent_to(aggregator, after) == {"a": 1.875, "b": -0.625}


def test_a_round_without_a_hospital_leaves_its_control_as_it_was():
    """b is away in round 2: its gradient stays -2. a goes from 3.5 to 5.5 in 1 step, -4 with a correction of -0.75: -3.25."""
    aggregator = Aggregator(Method(name="scaffold", lr=0.5), {"a": 10, "b": 30})
    after = aggregator.combine(1, model(1.0), [update("a", 2.0, 10, steps=2), update("b", 4.0, 30, steps=3)])
    after = aggregator.combine(2, after, [update("a", 5.5, 10, steps=1)])
    assert numbers_in(after.arrays()) == {5.5}
    # c = -3.25/4 - 6/4 = -2.3125
    assert sent_to(aggregator, after) == {"a": 0.9375, "b": -0.3125}


def test_the_control_variate_knows_the_rate_of_each_array_in_each_round():
    """1 to 0 in 2 steps: rates of 0.5 and 0.25 for head and backbone, and in the second round half of that.

    Gradients of 1 and 2, then of 2 and 4: of the only hospital, so nothing is to be corrected.
    """
    aggregator = Aggregator(
        Method(name="scaffold"),
        {"a": 10},
        lambda number: lambda name: (0.25 if name.startswith("tuned.") else 0.5) / number,
    )
    for number in (1, 2):
        aggregator.combine(number, model(1.0), [update("a", 0.0, 10, steps=2)])
        assert {name: numbers_in({name: array}) for name, array in aggregator.state().items()} == {
            "control/a/weight": {1.0 * number},
            "control/a/bias": {1.0 * number},
            "control/a/tuned.a": {2.0 * number},
        }
        assert sent_to(aggregator, model(0.0)) == {"a": 0.0}


class Quadratic:
    """A hospital that minimises a (x - best)^2 / 2 in every coordinate, by `steps` plain steps a round."""

    def __init__(self, best, curvature, examples, steps, lr=0.05):
        self.best, self.curvature, self.examples, self.steps, self.lr = best, curvature, examples, steps, lr

    def update(self, name, start, correction):
        found = {}
        for array, numbers in start.arrays().items():
            x = numbers.astype(np.float64)
            for _ in range(self.steps):
                x = x - self.lr * (self.curvature * (x - self.best) + (correction[array] if correction else 0.0))
            found[array] = x.astype(np.float32)
        return Update(name, Model.from_arrays(found), self.examples, self.steps)


QUADRATICS = {"a": Quadratic(1.0, 2.0, 30, steps=3), "b": Quadratic(-5.0, 0.5, 10, steps=9)}
OPTIMUM = (30 * 2.0 * 1.0 - 10 * 0.5 * 5.0) / (30 * 2.0 + 10 * 0.5)
"""Where the gradients of all 40 examples add up to nothing."""


def after_rounds(method, rounds, absent=()):
    """Where the two come to; absent: a hospital and a round in which its reply was dropped, after it was asked."""
    aggregator = Aggregator(
        Method(name=method, lr=0.05), {name: hospital.examples for name, hospital in QUADRATICS.items()}
    )
    current = model(3.0)
    for number in range(1, rounds + 1):
        sent = aggregator.corrections(current)
        updates = [one.update(name, current, sent.get(name)) for name, one in QUADRATICS.items()]
        current = aggregator.combine(number, current, [one for one in updates if (one.hospital, number) not in absent])
    return numbers_in(current.arrays()).pop()


@pytest.mark.parametrize(
    "absent",
    [
        (),
        (("b", 1),),
        (("a", 1),),
        (("b", 2),),
        (("a", 7),),
        (("b", 7),),
        (("a", 3), ("b", 4), ("b", 5), ("a", 20)),
    ],
)
def test_a_reply_dropped_now_and_then_does_not_move_where_scaffold_comes_to(absent):
    """What only the hospital remembers of such a round would shift it for ever; fedavg is far away in any case."""
    assert after_rounds("scaffold", 150, absent) == pytest.approx(OPTIMUM, abs=1e-4)
    assert abs(after_rounds("fedavg", 150, absent) - OPTIMUM) > 0.3


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
def test_the_control_of_each_hospital_is_the_mean_of_its_gradients_in_its_last_round(seed, rounds):
    """Hospitals that step along any gradients, with what they are sent added; some rounds are without one of them."""
    rng = np.random.default_rng(seed)
    examples, steps = rng.integers(1, 100, 3).tolist(), rng.integers(1, 20, 3).tolist()
    members = {f"h{k}": n for k, n in enumerate(examples)}
    aggregator, current, last = Aggregator(Method(name="scaffold", lr=0.1), members), model(0.5), {}
    for number in range(1, rounds + 1):
        sent, updates = aggregator.corrections(current), []
        for k, name in enumerate(members):
            if k and rng.random() < 0.3:
                continue
            gradients = {name: rng.normal(size=array.shape) for name, array in current.arrays().items()}
            arrays = {
                array: (start - 0.1 * steps[k] * (gradients[array] + sent[name][array])).astype(np.float32)
                for array, start in current.arrays().items()
            }
            last[name] = gradients
            updates.append(Update(name, Model.from_arrays(arrays), examples[k], steps[k]))
        current = aggregator.combine(number, current, updates)
    found = aggregator.state()
    assert set(found) == {f"control/{name}/{array}" for name in last for array in current.arrays()}
    for name, gradients in last.items():
        for array, gradient in gradients.items():
            np.testing.assert_allclose(found[f"control/{name}/{array}"], gradient, rtol=1e-3, atol=1e-3)
    zeros = {array: np.zeros(numbers.shape) for array, numbers in current.arrays().items()}
    kept = {name: last.get(name, zeros) for name in members}
    for name, arrays in aggregator.corrections(current).items():
        for array, correction in arrays.items():
            mean = sum(members[one] * kept[one][array] for one in members) / sum(examples)
            np.testing.assert_allclose(correction, mean - kept[name][array], rtol=1e-3, atol=1e-3)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e6), st.integers(1, 50), st.floats(1e-4, 1.0), st.floats(0, 1e4))
@settings(max_examples=50, deadline=None)
def test_the_norm_of_an_update_bounds_the_control_variate(seed, bound, steps, lr, size):
    """|c_k| <= |y - x| / (steps lr) + |c - c_k|: with the norm that the guard allows, no steps make it explode."""
    rng = np.random.default_rng(seed)
    start = model(0.0).arrays()
    moved = {name: rng.normal(size=array.shape) for name, array in start.items()}
    control = {name: size * rng.normal(size=array.shape) for name, array in start.items()}
    length = norm_of(moved)
    y = Model.from_arrays({name: (array * bound / length).astype(np.float32) for name, array in moved.items()})
    assert y.distance(model(0.0)) == pytest.approx(bound, rel=1e-5)
    aggregator = Aggregator(Method(name="scaffold", lr=lr), {"a": 10, "b": 10})
    aggregator.restore({f"control/b/{name}": array for name, array in control.items()})
    # Of a nothing is known, so it is sent half of b's.
    aggregator.combine(1, model(0.0), [Update("a", y, 10, steps)])
    found = {name: aggregator.state()[f"control/a/{name}"] for name in start}
    assert norm_of(found) <= (bound / (steps * lr) + norm_of(control) / 2) * (1 + 1e-5)
    assert all(np.array_equal(aggregator.state()[f"control/b/{name}"], array) for name, array in control.items())


def norm_of(arrays):
    return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays.values())))


@pytest.mark.parametrize(
    "names", [("a", "b"), ("st-marys", "st-marys-2"), ("st.marys", "st"), ("a/b.c", "a"), ("Ä 1", "")]
)
def test_the_control_variates_survive_a_restart_under_any_names(names):
    """A hospital is registered under a name of its operator's, with any sign in it."""
    one, other = names
    members = {one: 1, other: 2}
    first, second = (Aggregator(Method(name="scaffold"), members) for _ in range(2))
    after = first.combine(1, model(0.0), [update(one, 1.0, 1, steps=3), update(other, -3.0, 2, steps=1)])
    second.restore(dict(sorted(first.state().items())))
    bits = [
        {
            (name, key): array.tobytes()
            for name, arrays in found.corrections(after).items()
            for key, array in arrays.items()
        }
        for found in (first, second)
    ]
    assert bits[0] == bits[1]
    assert {name for name, _ in bits[0]} == set(members)
    assert all(array.any() for arrays in first.corrections(after).values() for array in arrays.values())
    assert (
        set(first.state())
        == set(second.state())
        == {f"control/{name}/{array}" for name in members for array in ("weight", "bias", "tuned.a")}
    )
    for method in ("scaffold", "fednova"):
        assert Aggregator(Method(name=method), members).state() == {}
