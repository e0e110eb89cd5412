"""Each method against hand arithmetic, and the laws all of them keep."""

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FederationError
from common.head import Head
from common.job import Method
from common.methods import METHODS
from server.strategies import STRATEGIES, Aggregator, Update, hospitals_needed

ZERO = Head.zeros(2, 3)


@pytest.fixture(autouse=True)
def _in_a_run():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def head(value):
    return Head(np.full((2, 3), value, np.float32), np.full(2, value, np.float32))


def combined(method, updates, current=ZERO, rounds=1):
    aggregator = Aggregator(Method(**method) if isinstance(method, dict) else Method(name=method))
    for number in range(1, rounds + 1):
        current = aggregator.combine(number, current, updates)
    return current


def of(*values_and_examples):
    return [Update(f"h{i}", head(value), examples) for i, (value, examples) in enumerate(values_and_examples)]


def value(found):
    """The one number all entries of a head have."""
    assert found.weight.dtype == found.bias.dtype == np.float32
    assert len({*found.weight.ravel().tolist(), *found.bias.tolist()}) == 1
    return float(found.bias[0])


def test_every_method_has_its_arithmetic():
    assert set(STRATEGIES) == set(METHODS)


@pytest.mark.parametrize(
    ("method", "updates", "expected"),
    [
        ("fedavg", of((1, 10), (4, 20)), 3.0),  # (10 + 80) / 30
        ("fedprox", of((1, 10), (4, 20)), 3.0),
        ("fedmedian", of((1, 10), (2, 1000), (9, 10)), 2.0),
        ({"name": "trimmed-mean", "trim_fraction": 0.34}, of((-50, 1), (1, 1), (3, 1)), 1.0),  # one cut at each end
        ({"name": "trimmed-mean", "trim_fraction": 0.2}, of((-50, 1), (1, 1), (2, 1), (3, 1), (90, 1)), 2.0),
        # Squared distances to the 3 nearest: .35, .21, .17, .45, ...
        ("krum", of((1.0, 5), (1.1, 5), (1.3, 5), (1.5, 5), (30, 5)), 1.3),
        ({"name": "multikrum", "hospitals_kept": 2}, of((1, 5), (1, 5), (1, 5), (50, 5)), 1.0),
        (
            {"name": "bulyan", "malicious_hospitals": 1},
            of((1, 5), (1, 5), (1, 5), (1, 5), (1, 5), (1, 5), (90, 5)),
            1.0,
        ),
        ({"name": "fedavgm", "server_momentum": 0.5}, of((2, 1), (4, 1)), 3.0),  # first round: the mean
        ({"name": "fedavgm", "server_lr": 0.5, "server_momentum": 0.5}, of((2, 1), (4, 1)), 1.5),
    ],
)
def test_hand_arithmetic(method, updates, expected):
    assert value(combined(method, updates)) == pytest.approx(expected, rel=1e-6)


def test_momentum_carries_on():
    # Round 1: 0 -> 3, momentum -3. Round 2: gradient 3 - 3 = 0, momentum -1.5, so 3 -> 4.5.
    assert value(combined({"name": "fedavgm", "server_momentum": 0.5}, of((2, 1), (4, 1)), rounds=2)) == pytest.approx(
        4.5
    )


def test_adagrad_is_its_formula():
    # Reddi et al. 2021, algorithm 2, with beta_1 = 0: m = d = 3, v = 9, the step is lr m / (sqrt v + tau).
    found = combined({"name": "fedadagrad", "server_lr": 0.5, "tau": 1.0}, of((2, 1), (4, 1)))
    assert value(found) == pytest.approx(0.5 * 3 / (3 + 1))


@pytest.mark.parametrize("method", ["fedadam", "fedyogi", "fedadagrad"])
def test_the_adaptive_methods_move_towards_the_mean(method):
    one = value(combined(method, of((2, 1), (4, 1))))
    many = value(combined(method, of((2, 1), (4, 1)), rounds=5))
    assert 0 < one < many < 4


@pytest.mark.parametrize("method", METHODS)
@given(order=st.permutations(range(5)), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_the_order_of_arrival_changes_no_bit(method, order, seed):
    rng = np.random.default_rng(seed)
    updates = [
        Update(f"h{i}", Head(rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=2).astype(np.float32)), 7 + i)
        for i in range(5)
    ]
    first, second = combined(method, updates, rounds=2), combined(method, [updates[i] for i in order], rounds=2)
    assert first.weight.tobytes() + first.bias.tobytes() == second.weight.tobytes() + second.bias.tobytes()


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan"])
def test_equal_updates_give_that_update(method):
    assert value(combined(method, of(*[(1.25, 9)] * 4))) == 1.25


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_aggregator_goes_on_to_the_same_bits(method):
    rng = np.random.default_rng(1)
    rounds = [
        [
            Update(f"h{i}", Head(rng.normal(size=(2, 3)).astype(np.float32), np.zeros(2, np.float32)), 9)
            for i in range(4)
        ]
        for _ in range(4)
    ]

    def go(aggregator, current, some, first):
        for number, updates in enumerate(some, start=first):
            current = aggregator.combine(number, current, updates)
        return current

    through = go(Aggregator(Method(name=method)), ZERO, rounds, 1)
    before = Aggregator(Method(name=method))
    middle = go(before, ZERO, rounds[:2], 1)
    after = Aggregator(Method(name=method))
    after.restore(before.state())
    resumed = go(after, middle, rounds[2:], 3)
    assert resumed.weight.tobytes() == through.weight.tobytes()


@pytest.mark.parametrize(("method", "needed"), [("fedavg", 1), ("krum", 3), ("bulyan", 3)])
def test_too_few_updates_are_an_error(method, needed):
    assert hospitals_needed(Method(name=method)) == needed
    with pytest.raises(FederationError, match=f"needs the updates of {needed} hospitals, got {needed - 1}"):
        combined(method, of(*[(1, 1)] * (needed - 1)))


def test_what_malicious_hospitals_cost():
    assert hospitals_needed(Method(name="bulyan", malicious_hospitals=1)) == 7
    assert hospitals_needed(Method(name="krum", malicious_hospitals=1)) == 5


def test_a_minority_of_wrong_updates_does_not_move_the_median():
    honest = of((1.0, 10), (1.1, 10), (0.9, 10))
    attacked = [*honest, Update("z", head(1e4), 10)]
    assert abs(value(combined("fedmedian", attacked)) - 1.0) < 0.1
    assert value(combined("fedavg", attacked)) > 1000
