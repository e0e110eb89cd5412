"""Steps of the optimizer: their arithmetic, and what they do where memory or float16 is too small."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from client.backbone import digest_of
from client.training import Examples, train_head
from client.weights import load_backbone
from common.job import Weights
from common.model import Model


def close(one: Model, other: Model, **tolerance) -> None:
    a, b = one.arrays(), other.arrays()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("part", ["last-blocks", "full"])
def test_one_plain_step_is_that_of_autograd_on_the_whole_network(case, part):
    one = case("mobilenet_v2", part, lr=0.01, method={"batch_size": 20})
    fitted = one.fit()
    assert fitted.steps == 1
    reference = load_backbone("mobilenet_v2", Weights(name="random", seed=1))
    tuned = {name: reference.network.get_parameter(name).requires_grad_(True) for name in one.tuned}
    weight, bias = (torch.tensor(array, requires_grad=True) for array in (one.start.head.weight, one.start.head.bias))
    x = reference.features(one.extractor.to_images(one.pixels()), one.job.feature_blocks)
    scaled = (x - torch.tensor(one.standardisation.mean.astype(np.float32))) / torch.tensor(
        one.standardisation.scale.astype(np.float32)
    )
    loss = cross_entropy(scaled @ weight.T + bias, torch.tensor(one.labels()))
    loss.backward()
    assert fitted.loss_sum == pytest.approx(20 * float(loss.detach()), rel=1e-2)
    tolerance = 0.05 if part == "last-blocks" else 2e-3
    gradients = {"weight": weight.grad, "bias": bias.grad, **{f"tuned.{n}": p.grad for n, p in tuned.items()}}
    for name, before in one.start.arrays().items():
        made = (before.astype(float) - fitted.model.arrays()[name]) / 0.01
        expected = gradients[name].numpy()
        distance = np.linalg.norm(made - expected) / (np.linalg.norm(expected) + 1e-3)
        assert distance < tolerance, name


def test_with_the_backbone_at_rest_it_is_the_training_of_the_head(case):
    one = case(
        "squeezenet1_1",
        lr=1e-9,
        images=17,
        method={"momentum": 0.9, "weight_decay": 0.01, "class_weights": "balanced"},
    )
    fitted = one.fit(seed=11)
    x = one.standardisation.apply(one.training.features(one.tuned, "train", {}))
    head = train_head(one.start.head, Examples(x, one.labels()), one.job.method.local, 11)
    assert fitted.steps == head.steps == 3
    assert fitted.loss_sum == pytest.approx(head.loss_sum, rel=1e-4)
    np.testing.assert_allclose(fitted.model.head.weight, head.head.weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fitted.model.head.bias, head.head.bias, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_batches_added_up_are_one_large_batch(case, class_weights):
    how = {"class_weights": class_weights, "momentum": 0.9}
    large = case(images=17, method={**how, "batch_size": 12}).fit()
    added = case(images=17, method={**how, "batch_size": 4}, accumulate=3).fit()
    assert large.steps == added.steps == 2
    assert added.loss_sum == pytest.approx(large.loss_sum, rel=1e-5)
    close(added.model, large.model, rtol=1e-4, atol=1e-6)
    assert case(images=17, method={**how, "batch_size": 4}).fit().model.distance(large.model) > 1e-4


def test_a_large_proximal_weight_keeps_the_model_near_its_start(case):
    how = {"local_epochs": 5, "batch_size": 4, "lr": 1e-4}
    free = case(method=how).fit().model
    one = case(method={"name": "fedprox", "proximal_mu": 9000.0, **how})
    held = one.fit().model
    start = one.start
    assert 0 < Model(held.head).distance(Model(start.head)) < 0.5 * Model(free.head).distance(Model(start.head))
    moved, moved_freely = (Model(start.head, model.tuned).distance(start) for model in (held, free))
    assert 0 < moved < 0.5 * moved_freely


@pytest.mark.parametrize("network", ["squeezenet1_1", "mobilenet_v3_small"])
def test_a_correction_shifts_a_plain_step_by_rate_times_correction(case, network):
    one = case(network, method={"batch_size": 20})
    rng = np.random.default_rng(1)
    correction = {name: rng.normal(size=a.shape).astype(np.float32) for name, a in one.start.arrays().items()}
    plain, corrected = one.fit(server_round=2), one.fit(server_round=2, correction=correction)
    for name, array in plain.model.arrays().items():
        rate = 0.01 if name in ("weight", "bias") else 1e-4 * 0.5 * (1 + math.cos(math.pi / 4))
        expected = array - rate * correction[name]
        np.testing.assert_allclose(corrected.model.arrays()[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_out_of_memory_halves_what_is_computed_at_once_and_changes_no_step(case, monkeypatch):
    one = case(method={"batch_size": 16})
    expected, expected_features = one.fit(), one.training.features(one.tuned, "train", {})
    raw, tried = one.training._steps._raw, []

    def small_memory(entering):
        tried.append(len(entering))
        found = raw(entering)
        if len(entering) > 5:
            raise RuntimeError("CUDA out of memory")
        return found

    monkeypatch.setattr(one.training._steps, "_raw", small_memory)
    fitted = one.fit()
    assert tried[:4] == [16, 8, 4, 4]
    assert fitted.steps == expected.steps
    close(fitted.model, expected.model, rtol=1e-4, atol=1e-6)
    assert fitted.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
    found = one.training.features(one.tuned, "train", {})
    np.testing.assert_allclose(found, expected_features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_norm", ["frozen", "local"])
def test_not_even_the_least_in_memory_is_a_memory_error(case, monkeypatch, batch_norm):
    one = case("mobilenet_v3_small", batch_norm=batch_norm)
    before = digest_of(one.backbone.network)
    one.standardisation  # noqa: B018  computed while there is memory

    def no_memory(entering):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(one.training._steps, "_raw", no_memory)
    with pytest.raises(MemoryError, match="not even"):
        one.fit()
    assert digest_of(one.backbone.network) == before


def test_a_step_whose_gradients_overflow_is_made_again_with_a_smaller_scale(case, monkeypatch):
    one = case()
    expected = one.fit()
    scaler = torch.amp.GradScaler
    scalers = []

    def scaling(device, enabled):
        scalers.append(scaler("cpu", init_scale=2.0**127, growth_interval=10**6))
        return scalers[-1]

    monkeypatch.setattr("client.deep_step.torch.amp.GradScaler", scaling)
    fitted = one.fit()
    assert scalers[0].get_scale() < 2.0**127
    assert fitted.steps == expected.steps
    close(fitted.model, expected.model, rtol=1e-3, atol=1e-5)
