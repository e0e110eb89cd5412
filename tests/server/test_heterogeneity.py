"""SCAFFOLD and FedNova against two hospitals' arithmetic by hand."""

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FederationError
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
    after = scaffold.combine(at(1), [at(2), at(4)], [10, 30], [at(8), at(-4)])
    assert after["x"].tolist() == [2.25]
    assert scaffold.control["x"].tolist() == [-1.0]
    # 2.25 + 0.5 (1/4 x 1 + 3/4 x -3) = 1.25
    after = scaffold.combine(after, [at(3.25), at(-0.75)], [10, 30], [at(4), at(4)])
    assert after["x"].tolist() == [1.25]
    assert scaffold.control["x"].tolist() == [3.0]


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
    after = scaffold.combine(before, models, [5, 5], controls)
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
    after = scaffold.combine(at(start), models, examples, [at(0)] * len(told))
    assert after["x"][0] == pytest.approx(sum(value * n for value, n in told) / sum(examples), rel=1e-9, abs=1e-9)
    assert scaffold.control["x"].tolist() == [0.0]


@pytest.mark.parametrize("controls", [[None, at(1)], [at(1), None], [None, None]])
def test_scaffold_refuses_an_update_without_its_control_variate(controls):
    with pytest.raises(FederationError, match="without its control variate"):
        Scaffold(1.0).combine(at(0), [at(1), at(1)], [1, 1], controls)


@pytest.mark.parametrize("norms", [[1.0, None], [1.0, 0.0], [-1.0, 1.0], [float("nan"), 1.0]])
def test_fednova_refuses_an_update_without_the_weight_of_its_steps(norms):
    with pytest.raises(FederationError, match="without the weight of its steps"):
        FedNova().combine(at(0), [at(1), at(1)], [1, 1], norms)


def model(value):
    return Model(
        Head(np.full((2, 3), value, np.float32), np.full(2, value, np.float32)), {"a": np.full(4, value, np.float32)}
    )


def update(name, value, examples, **more):
    return Update(name, model(value), examples, **more)


@pytest.fixture(autouse=True)
def _in_a_run():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def test_the_control_variate_is_sent_along_and_only_by_scaffold():
    aggregator = Aggregator(Method(name="scaffold"))
    sent = aggregator.sent_along(model(0.0))
    assert {name: array.shape for name, array in sent.items()} == {"weight": (2, 3), "bias": (2,), "tuned.a": (4,)}
    assert not any(array.any() for array in sent.values())
    controls = [{name: np.full_like(array, value) for name, array in sent.items()} for value in (8.0, -4.0)]
    updates = [update("a", 2.0, 10, control=controls[0]), update("b", 4.0, 30, control=controls[1])]
    after = aggregator.combine(1, model(1.0), updates)
    assert {number for array in after.arrays().values() for number in array.ravel().tolist()} == {3.5}
    sent = aggregator.sent_along(after)
    assert all(array.dtype == np.float32 and set(array.ravel().tolist()) == {-1.0} for array in sent.values())
    assert Aggregator(Method(name="fednova")).sent_along(after) == {}
    assert Aggregator(Method(name="fedavgm")).sent_along(after) == {}


def test_the_control_variate_survives_a_restart():
    first, second = Aggregator(Method(name="scaffold")), Aggregator(Method(name="scaffold"))
    control = {name: np.full_like(array, 0.5) for name, array in model(0.0).arrays().items()}
    after = first.combine(1, model(0.0), [update("a", 1.0, 1, control=control)])
    second.restore(dict(sorted(first.state().items())))
    one, other = first.sent_along(after), second.sent_along(after)
    assert {name: array.tobytes() for name, array in one.items()} == {k: v.tobytes() for k, v in other.items()}
    assert set(first.state()) == {"control.weight", "control.bias", "control.tuned.a"}
    assert Aggregator(Method(name="scaffold")).state() == Aggregator(Method(name="fednova")).state() == {}
