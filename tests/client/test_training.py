import numpy as np
import pytest
import torch

from client import training
from client.training import Examples, seed_of, train_head
from common.head import Head
from common.job import Method
from common.model import Model
from server.strategies import Aggregator, Update
from simulation.grid import InProcessGrid

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def fedavg(**options) -> Method:
    return Method(name="fedavg", **options)


def trained(start: Head, data: Examples, method: Method, seed: int, **more) -> tuple[Head, float]:
    found = train_head(start, data, method.local, seed, **more)
    return found.head, found.loss_sum


METHODS = [
    fedavg(local_epochs=2, batch_size=16, lr=0.05),
    Method(name="fedprox", proximal_mu=0.5, local_epochs=2, batch_size=16, lr=0.05),
    fedavg(optimizer="adam", local_epochs=2, batch_size=16),
    fedavg(class_weights="balanced", batch_size=16, lr=0.05),
]


def examples(n: int = 100, features: int = 300, classes: int = 3) -> Examples:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    return Examples((rng.normal(size=(n, features)) + labels[:, None] * 0.3).astype(np.float32), labels)


def start(features: int = 300, classes: int = 3) -> Head:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.01, (classes, features)).astype(np.float32)
    return Head(weight, rng.normal(0, 0.01, classes).astype(np.float32))


def same_bits(one: Head, other: Head) -> bool:
    return one.weight.tobytes() == other.weight.tobytes() and one.bias.tobytes() == other.bias.tobytes()


def mean_loss(head: Head, data: Examples) -> float:
    return float(-np.log(head.probabilities(data.features)[np.arange(len(data)), data.labels]).mean())


def test_one_step_of_sgd_by_hand():
    """From zeros both probabilities are 1/2, so the gradient is (1/2 - y) x, averaged over the two examples."""
    data = Examples(np.array([[2.0, 0.0], [0.0, 4.0]], np.float32), np.array([0, 1]))
    head, loss = trained(Head.zeros(2, 2), data, fedavg(lr=0.1, batch_size=2, **PLAIN), seed=0)
    np.testing.assert_allclose(head.weight, [[0.05, -0.1], [-0.05, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(head.bias, [0.0, 0.0], atol=1e-9)
    assert loss == pytest.approx(2 * np.log(2))


def test_the_proximal_term_by_hand():
    """Two epochs of one batch on one example x = 1, y = 0: the pull of mu (w - start) sets in at the second step."""
    data = Examples(np.array([[1.0]], np.float32), np.array([0]))
    method = Method(name="fedprox", proximal_mu=2.0, lr=0.1, local_epochs=2, **PLAIN)
    head, _ = trained(Head.zeros(2, 1), data, method, seed=0)
    first = 0.05
    error = 1 - 1 / (1 + np.exp(-4 * first))
    assert head.weight[0, 0] == pytest.approx(first + 0.1 * error - 0.1 * 2.0 * first, rel=1e-5)
    assert head.bias[0] == pytest.approx(head.weight[0, 0], rel=1e-6)


def test_mu_zero_is_plain_sgd_bit_for_bit():
    options = {"local_epochs": 3, "batch_size": 16, "lr": 0.05}
    plain, loss = trained(start(), examples(), fedavg(**options), seed=5)
    proximal, same_loss = trained(start(), examples(), Method(name="fedprox", proximal_mu=0.0, **options), seed=5)
    assert same_bits(plain, proximal)
    assert loss == same_loss


def test_the_larger_mu_is_the_nearer_the_head_stays():
    options = {"local_epochs": 10, "batch_size": 16, "lr": 0.005, "momentum": 0.0}
    moved = [
        trained(start(), examples(), Method(name="fedprox", proximal_mu=mu, **options), seed=5)[0].distance(start())
        for mu in (0.0, 1.0, 10.0, 100.0)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.15 * moved[0]


@pytest.mark.parametrize("method", METHODS, ids=["sgd", "fedprox", "adam", "balanced"])
def test_equal_arguments_give_equal_bits(method):
    expected, loss = trained(start(), examples(), method, seed=5)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(number)
            np.random.seed(number)  # noqa: NPY002  the global state is what must not matter
            head, same_loss = trained(start(), examples(), method, seed=5)
            assert same_bits(head, expected)
            assert same_loss == loss
    finally:
        torch.set_num_threads(threads)
    assert not same_bits(trained(start(), examples(), method, seed=6)[0], expected)


@pytest.mark.parametrize("method", METHODS, ids=["sgd", "fedprox", "adam", "balanced"])
def test_training_lowers_the_loss_and_leaves_its_arguments(method):
    before, data = start(), examples()
    head, loss = trained(before, data, method, seed=5)
    assert np.isfinite(loss)
    assert head.weight.dtype == head.bias.dtype == np.float32
    assert mean_loss(head, data) < mean_loss(before, data)
    assert same_bits(before, start())
    assert np.array_equal(data.features, examples().features)


def test_the_process_s_random_numbers_and_threads_are_left_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    trained(start(), examples(), fedavg(), seed=5)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_restored_after_an_exception(monkeypatch):
    threads = torch.get_num_threads()
    seen = []

    def fail(*arguments, **options):
        seen.append(torch.get_num_threads())
        raise RuntimeError("stop")

    monkeypatch.setattr(training, "cross_entropy", fail)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            trained(start(), examples(), fedavg(), seed=5)
        assert torch.get_num_threads() == 2
        assert seen == [1]
    finally:
        torch.set_num_threads(threads)


def test_seeds_differ_by_job_round_and_hospital():
    seeds = {seed_of(job, number, name) for job in (0, 1) for number in (1, 2, 11) for name in ("a", "b", "1a")}
    assert len(seeds) == 18
    assert seed_of(3, 2, "st-marys") == seed_of(3, 2, "st-marys")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_balanced_class_weights_are_n_over_classes_times_count():
    """By hand: three examples of class 0, one of class 1, so weights 4/6 and 4/2 and a mean weighted by them."""
    data = Examples(np.array([[1.0], [1.0], [1.0], [1.0]], np.float32), np.array([0, 0, 0, 1]))
    method = fedavg(lr=1.0, batch_size=4, class_weights="balanced", **PLAIN)
    head, _ = trained(Head.zeros(2, 1), data, method, seed=0)
    np.testing.assert_allclose(head.weight, 0.0, atol=1e-7)
    unbalanced, _ = trained(Head.zeros(2, 1), data, fedavg(lr=1.0, batch_size=4, **PLAIN), seed=0)
    np.testing.assert_allclose(unbalanced.weight, [[0.25], [-0.25]], rtol=1e-6)


def test_a_class_without_examples_has_weight_zero_and_does_no_harm():
    labels = torch.tensor([0, 0, 0, 2])
    weights = training.class_weights(fedavg(class_weights="balanced").local, labels, 3)
    np.testing.assert_allclose(weights, [4 / (2 * 3), 0.0, 4 / (2 * 1)], rtol=1e-6)
    data = Examples(np.ones((4, 1), np.float32), labels.numpy())
    head, loss = trained(Head.zeros(3, 1), data, fedavg(class_weights="balanced"), seed=0)
    assert np.isfinite(head.weight).all()
    assert np.isfinite(loss)
    assert training.class_weights(fedavg().local, labels, 3) is None


def test_the_loss_is_that_of_the_last_epoch():
    data = examples()
    method = fedavg(lr=1e-9, batch_size=7, local_epochs=3, **PLAIN)
    _, loss = trained(start(), data, method, seed=5)
    assert loss == pytest.approx(len(data) * mean_loss(start(), data), rel=1e-5)


def test_one_hospital_with_fedavg_is_local_training():
    InProcessGrid(None, {})  # tells Flower which process this is, without which it makes no messages
    method, data = fedavg(batch_size=16), examples()
    aggregator, federated, alone = Aggregator(method), Model(start()), start()
    for number in (1, 2, 3):
        seed = seed_of(7, number, "st-marys")
        update = Update("st-marys", Model(trained(federated.head, data, method, seed)[0]), len(data))
        federated = aggregator.combine(number, federated, [update])
        alone, _ = trained(alone, data, method, seed)
    assert same_bits(federated.head, alone)


def test_a_correction_is_added_to_every_gradient():
    """Two plain steps on zero features: only the bias and the correction move, w <- w - 2 lr c."""
    data = Examples(np.zeros((2, 1), np.float32), np.array([0, 1]))
    correction = {"weight": np.array([[3.0], [-1.0]], np.float32), "bias": np.zeros(2, np.float32)}
    method = fedavg(lr=0.1, batch_size=1, **PLAIN)
    found = train_head(Head.zeros(2, 1), data, method.local, 0, correction)
    np.testing.assert_allclose(found.head.weight, [[-0.6], [0.2]], rtol=1e-6)
    assert found.steps == 2
