"""Client-level privacy by hand, against Flower's own wrapper, and against independent accountants."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

from common.dp import accounting
from common.errors import ConfigError, FederationError
from common.head import Head
from common.model import Model
from server.central_dp import CentralDp
from server.strategies import Update

ZERO = Model(Head.zeros(2, 3), {"a": np.zeros(3, np.float32)})


def model(rng):
    arrays = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in ZERO.arrays().items()}
    return Model.from_arrays(arrays)


def updates(number, seed=1):
    rng = np.random.default_rng(seed)
    return [Update(f"h{k}", model(rng), int(rng.integers(1, 1000))) for k in range(number)]


def vector(one):
    return np.concatenate([array.ravel() for array in one.arrays().values()]).astype(np.float64)


START = model(np.random.default_rng(9))


def test_without_noise_and_clip_it_is_the_plain_mean():
    some = updates(5)
    found = CentralDp(0.0, math.inf, 5).combine(START, some)
    assert vector(found) == pytest.approx(np.mean([vector(one.model) for one in some], axis=0), abs=1e-6)
    assert list(found.arrays()) == list(START.arrays())


@pytest.mark.parametrize("clip", [0.5, 4.5, 100.0])
def test_without_noise_it_is_flower_s_own_wrapper(clip):
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    some = updates(6)
    wrapper = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, clip, 6)
    wrapper.current_arrays = ArrayRecord({name: Array(array) for name, array in START.arrays().items()})
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({name: Array(array) for name, array in one.model.arrays().items()}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }
            ),
            dst_node_id=1,
            message_type="train",
        )
        for one in some
    ]
    record, _ = wrapper.aggregate_train(1, replies)
    theirs = np.concatenate([record[name].numpy().ravel() for name in START.arrays()])
    assert vector(CentralDp(0.0, clip, 6).combine(START, some)) == pytest.approx(theirs, abs=1e-5)


def test_a_hospital_moves_the_sum_by_at_most_the_clip_whatever_its_size():
    some, private = updates(8), CentralDp(0.0, 0.7, 8)
    whole = vector(private.combine(START, some))
    for k in range(8):
        rest = vector(private.combine(START, some[:k] + some[k + 1 :]))
        # Divided by the hospitals expected, not by those that answered.
        assert np.linalg.norm(whole - rest) * 8 == pytest.approx(0.7, rel=1e-4)


def test_a_model_sent_back_unchanged_and_no_model_at_all_change_nothing():
    private = CentralDp(0.0, 0.7, 3)
    assert vector(private.combine(START, [Update("a", START, 10)])) == pytest.approx(vector(START))
    assert vector(private.combine(START, [])) == pytest.approx(vector(START))


def test_arrival_order_changes_nothing():
    private = CentralDp(1.0, 0.7, 5)
    found = [
        vector(private.combine(START, some, np.random.default_rng(3).bytes)) for some in (updates(5), updates(5)[::-1])
    ]
    assert (found[0] == found[1]).all()


def test_the_noise_has_the_variance_it_should():
    large = Model(Head.zeros(2, 2000))
    private, entropy = CentralDp(3.0, 0.5, 10, sampled=4), np.random.default_rng(5).bytes
    # Of the mean over the hospitals expected in a round.
    noise = vector(private.combine(large, [], entropy)) * 4 / (3.0 * 0.5)
    assert abs((noise**2).sum() - noise.size) < 3.5 * math.sqrt(2 * noise.size)
    assert abs(noise.mean()) * math.sqrt(noise.size) < 3.5


def test_noise_is_not_numpy_s():
    found = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - Flower's wrappers draw from it
        found.append(vector(CentralDp(1.0, 0.5, 3).combine(START, updates(3))))
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (3.0, 20), (20.0, 100)])
def test_epsilon_is_that_of_the_renyi_formula_and_bounds_the_exact_one(multiplier, rounds):
    pytest.importorskip("dp_accounting")
    orders = np.linspace(1.01, 400, 400_000)
    # Mironov 2017, proposition 7 and corollary 3; Canonne et al. 2020, arXiv 2004.00010, proposition 12, for the conversion.
    by_hand = orders * rounds / (2 * multiplier**2) + np.log1p(-1 / orders) - np.log(1e-5 * orders) / (orders - 1)
    spent = CentralDp(multiplier, 1.0, 100).spent(rounds, 1e-5)
    assert spent == pytest.approx(by_hand.min(), rel=0.01)
    assert accounting.spent(multiplier, rounds, 1e-5) < spent < 1.3 * accounting.spent(multiplier, rounds, 1e-5)


def test_sampled_hospitals_spend_what_dp_accounting_says():
    library = pytest.importorskip("dp_accounting")
    account = library.rdp.RdpAccountant()
    step = library.PoissonSampledDpEvent(0.1, library.GaussianDpEvent(1.2))
    account.compose(library.SelfComposedDpEvent(step, 50))
    spent = CentralDp(1.2, 1.0, 1000, sampled=100).spent(50, 1e-5)
    assert spent == pytest.approx(account.get_epsilon(1e-5), rel=0.01)
    assert accounting.poisson_spent(1.2, 50, 0.1, 1e-5) < spent < CentralDp(1.2, 1.0, 1000).spent(50, 1e-5) / 3
    assert CentralDp(0.0, 1.0, 10).spent(1, 1e-5) == math.inf


def test_what_protects_nobody_is_refused():
    for bad in ((-1.0, 1.0, 3), (1.0, 0.0, 3), (1.0, math.inf, 3), (1.0, 1.0, 0), (1.0, 1.0, 3, 4), (1.0, 1.0, 3, 0)):
        with pytest.raises(ConfigError, match="central privacy"):
            CentralDp(*bad)
    private = CentralDp(1.0, 1.0, 3)
    for wrong in (updates(4), updates(1) * 2):
        with pytest.raises(FederationError, match="at most one update"):
            private.combine(START, wrong)
    broken = Model(Head(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32)), ZERO.tuned)
    with pytest.raises(FederationError, match="not finite"):
        private.combine(START, [Update("a", broken, 1)])


def test_without_the_accountant_s_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"flwr\[dp\]"):
        CentralDp(1.0, 1.0, 3).spent(1, 1e-5)
