"""Each method against hand arithmetic, and the laws all of them keep."""

import gc

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, FederationError
from common.head import Head
from common.job import Method
from common.methods import METHODS
from common.model import Model
from server.strategies import STRATEGIES, Aggregator, Update, hospitals_needed

ZERO = Model(Head.zeros(2, 3))
ITERATIVE = [name for name, row in METHODS.items() if row.iterative]


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch):
    # Flower's Bulyan collects garbage after each choice: a tenth of a second each in a process of as many objects as this.
    monkeypatch.setattr(gc, "collect", lambda: 0)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def model(value):
    return Model(Head(np.full((2, 3), value, np.float32), np.full(2, value, np.float32)))


def drawn(rng, name, examples):
    """An update of random numbers, with the steps that scaffold and fednova want; a tuned array of the backbone too."""
    model = Model(
        Head(rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=2).astype(np.float32)),
        {
            "features.0.weight": rng.normal(size=(4, 1, 2)).astype(np.float32),
            "a": rng.normal(size=3).astype(np.float32),
        },
    )
    return Update(name, model, examples, int(rng.integers(1, 9)))


def bits(model):
    return {name: array.tobytes() for name, array in model.arrays().items()}


DEEP = Model(ZERO.head, {"features.0.weight": np.zeros((4, 1, 2), np.float32), "a": np.zeros(3, np.float32)})


def combined(method, updates, current=ZERO, rounds=1):
    members = {update.hospital: update.examples for update in sorted(updates, key=lambda one: one.hospital)}
    aggregator = Aggregator(Method(**method) if isinstance(method, dict) else Method(name=method), members)
    for number in range(1, rounds + 1):
        current = aggregator.combine(number, current, updates)
    return current


def of(*values_and_examples):
    """Updates of one value each, all made in one step."""
    return [Update(f"h{i}", model(value), examples) for i, (value, examples) in enumerate(values_and_examples)]


def value(found):
    """The one number all entries of a model have."""
    arrays = found.arrays().values()
    assert all(array.dtype == np.float32 for array in arrays)
    assert len({number for array in arrays for number in array.ravel().tolist()}) == 1
    return float(found.head.bias[0])


def test_every_method_has_its_arithmetic():
    assert set(STRATEGIES) == set(ITERATIVE) == set(METHODS) - {"analytic", "dp-gd"}


def test_the_closed_form_method_combines_nothing():
    with pytest.raises(ConfigError, match="unknown method 'analytic'"):
        Aggregator(Method())


@pytest.mark.parametrize(
    ("method", "updates", "expected"),
    [
        ("fedavg", of((1, 10), (4, 20)), 3.0),  # (10 + 80) / 30
        ("fedprox", of((1, 10), (4, 20)), 3.0),
        ("scaffold", of((1, 10), (4, 20)), 3.0),  # nothing known of the drift yet
        ({"name": "scaffold", "server_lr": 0.5}, of((1, 10), (4, 20)), 1.5),
        ("fednova", of((1, 10), (4, 20)), 3.0),  # one step each
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


@pytest.mark.parametrize("method", ITERATIVE)
@given(order=st.permutations(range(5)), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_the_order_of_arrival_changes_no_bit(method, order, seed):
    rng = np.random.default_rng(seed)
    updates = [drawn(rng, f"h{i}", 7 + i) for i in range(5)]
    first = combined(method, updates, DEEP, rounds=2)
    assert bits(first) == bits(combined(method, [updates[i] for i in order], DEEP, rounds=2))


@given(order=st.permutations(range(5)), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_the_order_of_arrival_changes_no_bit_of_what_scaffold_sends(order, seed):
    rng = np.random.default_rng(seed)
    updates = [drawn(rng, f"h{i}", 7 + i) for i in range(5)]
    members = {update.hospital: update.examples for update in updates}
    found = []
    for some in (updates, [updates[i] for i in order]):
        aggregator = Aggregator(Method(name="scaffold"), members)
        after = aggregator.combine(1, DEEP, some)
        sent = aggregator.corrections(after)
        found.append({(name, key): array.tobytes() for name, arrays in sent.items() for key, array in arrays.items()})
    assert found[0] == found[1]
    # Each is sent its own.
    assert len({found[0][name, "weight"] for name in members}) == 5


@pytest.mark.parametrize("method", sorted(set(ITERATIVE) - {"scaffold"}))
def test_who_takes_part_matters_to_scaffold_alone(method):
    updates = of((1, 10), (4, 20), (2, 30), (3, 5), (2.5, 5))
    one, other = (Aggregator(Method(name=method), members) for members in (None, {f"h{i}": 1 for i in range(5)}))
    assert bits(one.combine(1, ZERO, updates)) == bits(other.combine(1, ZERO, updates))


@pytest.mark.parametrize(
    "method",
    ["fedavg", "fedprox", "scaffold", "fednova", "fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan"],
)
def test_equal_updates_give_that_update(method):
    assert value(combined(method, of(*[(1.25, 9)] * 4))) == 1.25


@pytest.mark.parametrize("method", ITERATIVE)
def test_a_restored_aggregator_goes_on_to_the_same_bits(method):
    rng = np.random.default_rng(1)
    rounds = [[drawn(rng, f"h{i}", 9) for i in range(4)] for _ in range(4)]

    def go(aggregator, current, some, first):
        for number, updates in enumerate(some, start=first):
            current = aggregator.combine(number, current, updates)
        return current

    members = {f"h{i}": 9 for i in range(4)}
    through = go(Aggregator(Method(name=method), members), DEEP, rounds, 1)
    before = Aggregator(Method(name=method), members)
    middle = go(before, DEEP, rounds[:2], 1)
    after = Aggregator(Method(name=method), members)
    # A file keeps the arrays in the order of their names.
    after.restore(dict(sorted(before.state().items())))
    assert bits(go(after, middle, rounds[2:], 3)) == bits(through)


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
    attacked = [*honest, Update("z", model(1e4), 10)]
    assert abs(value(combined("fedmedian", attacked)) - 1.0) < 0.1
    assert value(combined("fedavg", attacked)) > 1000
