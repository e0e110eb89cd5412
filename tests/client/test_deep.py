import hashlib
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from client.backbone import digest_of
from client.deep import DeepTraining, Source
from client.features import Extractor, columns_of
from client.images import load_image, to_input
from client.records import read_rows
from client.training import Examples, train_head
from client.tuned import cut_of, installed, pretrained
from client.weights import load_backbone
from common.backbones import BACKBONES, feature_blocks
from common.errors import ConfigError, WeightsError
from common.head import Head, Standardisation
from common.job import Weights
from common.model import Model

CLASSES = ("normal", "opacity")
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.01, "batch_size": 8}


@pytest.fixture(autouse=True)
def _one_thread():
    """Where others want the processors too, layers as small as these wait ten times longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sources(phantoms):
    """Twenty images, one of either class after the other."""
    rows = [row for folder in phantoms.values() for row in read_rows(folder)]
    by_class = [[row for row in rows if row.label == name][:10] for name in CLASSES]
    return [
        Source(row.path, hashlib.sha256(row.path.read_bytes()).digest(), CLASSES.index(row.label))
        for pair in zip(*by_class, strict=True)
        for row in pair
    ]


class Case:
    """A job that tunes, its backbone, and a model to start from."""

    def __init__(self, job, network, sources, cache_dir, part, size=64, budget_bytes=10**9, images=20, **tune):
        self.backbone = load_backbone(network, Weights(name="random", seed=1))
        method = {"name": "fedavg", "rounds": 4, **PLAIN, **tune.pop("method", {})}
        features = tune.pop("features", {"stages": "all"})
        self.job = job(
            backbone={"name": network, "weights": {"name": "random", "seed": 1}},
            image={"size": size},
            modality="chest-xray",
            method=method,
            features=features,
            tune={"part": part, "views": 1, "lr": 1e-4, **tune},
        )
        self.sources = sources[:images]
        self.extractor = Extractor(self.backbone, torch.device("cpu"), size)
        parts = {"train": self.sources, "test": self.sources[:5], "validation": []}
        self.training = DeepTraining(self.job, self.extractor, parts, cache_dir, budget_bytes)
        self.tuned = pretrained(self.job, self.backbone)
        rng = np.random.default_rng(0)
        weight = rng.normal(0, 0.01, (2, self.job.num_features)).astype(np.float32)
        self.start = Model(Head(weight, np.array([0.1, -0.1], np.float32)), self.tuned)
        self._standardisation = None

    @property
    def standardisation(self):
        if self._standardisation is None:
            x = self.training.features(self.tuned, "train", {}).astype(float)
            self._standardisation = Standardisation.from_sums(len(x), x.sum(0), (x**2).sum(0))
        return self._standardisation

    def fit(self, start=None, seed=5, server_round=1, batch_norm=None, correction=None):
        return self.training.fit(
            start or self.start, self.standardisation, seed, server_round, batch_norm or {}, correction
        )

    def pixels(self, view=0):
        images = np.stack([to_input(load_image(source.path), self.job.size_px, "pad") for source in self.sources])
        return images if view == 0 else np.ascontiguousarray(images[..., ::-1])

    def labels(self):
        return np.array([source.label for source in self.sources], np.int64)


@pytest.fixture
def case(job, sources, tmp_path):
    def make(network="squeezenet1_1", part="last-blocks", cache_dir=tmp_path, **changes):
        return Case(job, network, sources, cache_dir, part, **changes)

    return make


def same(one: Model, other: Model) -> bool:
    a, b = one.arrays(), other.arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def close(one: Model, other: Model, **tolerance) -> None:
    a, b = one.arrays(), other.arrays()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("part", ["last-blocks", "full"])
@pytest.mark.parametrize("network", ["squeezenet1_1", "mobilenet_v2"])
def test_pretrained_arrays_give_the_features_of_the_extractor(case, network, part, mirror):
    one = case(network, part, features={"stages": "all", "mirror": mirror})
    found = one.training.features(one.tuned, "train", {})
    columns = columns_of(one.job)
    views = [one.extractor(one.pixels(view))[:, columns] for view in ([0, -1] if mirror else [0])]
    expected = np.mean(views, axis=0)
    tolerance = 1e-3 if part == "last-blocks" else 2e-5
    assert found.shape == (20, one.job.num_features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert one.training.features(one.tuned, "validation", {}).shape == (0, one.job.num_features)
    np.testing.assert_allclose(one.training.features(one.tuned, "test", {}), found[:5], rtol=1e-3, atol=1e-3)


def test_features_follow_the_arrays(case):
    one = case()
    name = max(one.tuned)
    changed = {**one.tuned, name: one.tuned[name] + 0.5}
    early = sum(block.stop - block.start for block in one.training._activations.early)
    before, after = (one.training.features(arrays, "train", {}) for arrays in (one.tuned, changed))
    assert np.array_equal(before[:, :early], after[:, :early])
    assert np.abs(before[:, early:] - after[:, early:]).max() > 0.1


@pytest.mark.parametrize("network", BACKBONES)
def test_features_before_any_cut_come_first(network):
    stages = [row.name for row in BACKBONES[network].stages]
    blocks = feature_blocks(network, stages[::-1], ["max", "mean"])
    positions = [stages.index(block.stage) for block in blocks]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("network", "part", "size", "images"),
    [
        ("squeezenet1_1", "last-blocks", 64, 20),
        ("squeezenet1_1", "full", 64, 20),
        ("mobilenet_v2", "last-blocks", 64, 20),
        ("mobilenet_v3_small", "full", 64, 20),
        ("inception_v3", "last-blocks", 75, 6),
    ],
)
def test_training_reduces_the_loss_and_leaves_the_backbone_as_it_was(case, network, part, size, images):
    one = case(network, part, size=size, images=images, lr=1e-6, method={"local_epochs": 4, "lr": 1e-4})
    before, names = digest_of(one.backbone.network), set(one.tuned)
    first = one.fit()
    second = one.fit(first.model)
    assert second.loss_sum < first.loss_sum
    assert first.loss_sum < 1.5 * images
    assert first.steps == 4 * math.ceil(images / 8)
    assert set(first.model.tuned) == names
    assert not any("AuxLogits" in name for name in names)
    moved = [name for name in names if not np.array_equal(first.model.tuned[name], one.tuned[name])]
    assert len(moved) > 0.5 * len(names)
    assert first.batch_norm == {}
    assert digest_of(one.backbone.network) == before
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in one.backbone.parameters())
    assert not any(module.training for module in one.backbone.modules())


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
        lr=1e-30,
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
    assert not same(case(images=17, method={**how, "batch_size": 4}).fit().model, large.model)


def test_equal_arguments_give_equal_bits_and_others_do_not(case):
    one = case("mobilenet_v3_small", views=3, features={"stages": "all", "mirror": True}, method={"local_epochs": 2})
    first = one.fit()
    assert same(one.fit().model, first.model)
    assert not same(one.fit(seed=6).model, first.model)
    assert one.fit().loss_sum == first.loss_sum


@pytest.mark.parametrize("network", ["squeezenet1_1", "mobilenet_v3_small"])
def test_no_room_on_the_disk_changes_no_bit(case, network, tmp_path):
    how = {"views": 2, "lr": 1e-6, "features": {"stages": "all", "mirror": True}, "method": {"local_epochs": 3}}
    large = case(network, cache_dir=tmp_path / "large", **how)
    none = case(network, cache_dir=tmp_path / "none", budget_bytes=0, **how)
    assert np.array_equal(
        large.training.features(large.tuned, "train", {}), none.training.features(none.tuned, "train", {})
    )
    assert same(large.fit().model, none.fit().model)
    sizes = {path.parent.name: path.stat().st_size for path in tmp_path.glob("*/activations-*.sqlite")}
    assert sizes["none"] < 20_000 < sizes["large"]


def test_views_and_mirror_images_are_all_drawn_and_no_others(case):
    one = case(views=3, features={"stages": "last", "mirror": True}, method={"local_epochs": 1})
    drawn = one.training._drawn(one.sources * 20, torch.Generator().manual_seed(0))
    views, counts = np.unique([view for (_, view), _ in drawn], return_counts=True)
    assert views.tolist() == [-3, -2, -1, 0, 1, 2]
    assert counts.min() > 0.6 * counts.max()
    assert [path for _, path in drawn] == [source.path for source in one.sources * 20]
    plain = case(views=3, features={"stages": "last", "mirror": False})
    assert {view for (_, view), _ in plain.training._drawn(one.sources * 9, torch.Generator())} == {0, 1, 2}


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


def test_frozen_batch_normalisation_does_not_move_and_does_not_travel(case):
    one = case("mobilenet_v2")
    norms = one.backbone.batch_norms_from(cut_of(one.job, one.backbone))
    seen = []
    hook = next(iter(norms.values())).register_forward_hook(lambda module, *_: seen.append(module.training))
    fitted = one.fit()
    hook.remove()
    assert norms
    assert seen
    assert not any(seen)
    assert fitted.batch_norm == {}
    assert not any(name.rpartition(".")[0] in norms for name in fitted.model.tuned)


def test_local_batch_normalisation_is_trained_returned_and_taken_up_again(case):
    one = case("mobilenet_v2", batch_norm="local", lr=1e-3)
    norms = one.backbone.batch_norms_from(cut_of(one.job, one.backbone))
    before = digest_of(one.backbone.network)
    state = {name: tensor.numpy().copy() for name, tensor in one.backbone.network.state_dict().items()}
    first = one.fit()
    kinds = ("weight", "bias", "running_mean", "running_var")
    assert set(first.batch_norm) == {f"{name}.{kind}" for name in norms for kind in kinds}
    assert all(array.dtype == np.float32 for array in first.batch_norm.values())
    assert not any(np.array_equal(array, state[name]) for name, array in first.batch_norm.items())
    assert not set(first.batch_norm) & set(first.model.tuned)
    assert digest_of(one.backbone.network) == before
    # The next call begins where the last one ended, and `empty` is where the pretrained network is.
    pretrained_ones = {name: state[name] for name in first.batch_norm}
    features = [one.training.features(one.tuned, "test", given) for given in ({}, pretrained_ones, first.batch_norm)]
    assert np.array_equal(features[0], features[1])
    assert np.abs(features[0] - features[2]).max() > 1e-3
    assert same(one.fit(batch_norm=pretrained_ones).model, first.model)
    assert not same(one.fit(batch_norm=first.batch_norm).model, first.model)


@pytest.mark.parametrize(("images", "batch_size"), [(9, 8), (3, 1), (1, 8)])
def test_batch_statistics_are_never_those_of_one_image(case, images, batch_size):
    # At 32 px the last maps have one position: torch refuses to normalise a single image.
    one = case("mobilenet_v2", size=32, images=images, batch_norm="local", method={"batch_size": batch_size})
    fitted = one.fit()
    assert fitted.steps == 1
    assert all(np.isfinite(array).all() for array in fitted.batch_norm.values())


def test_a_training_that_diverges_says_what_to_do_and_leaves_the_backbone_as_it_was(case):
    one = case("mobilenet_v2", batch_norm="local", lr=1e20, method={"local_epochs": 8})
    before = digest_of(one.backbone.network)
    with pytest.raises(ConfigError, match=r"diverged.*method\.lr.*tune\.lr"):
        one.fit()
    assert digest_of(one.backbone.network) == before
    assert not any(parameter.requires_grad for parameter in one.backbone.parameters())
    assert not any(module.training for module in one.backbone.modules())


def test_out_of_memory_halves_what_is_computed_at_once_and_changes_no_step(case, monkeypatch):
    one = case(method={"batch_size": 16})
    expected, expected_features = one.fit(), one.training.features(one.tuned, "train", {})
    raw, tried = one.training._raw, []

    def small_memory(entering):
        tried.append(len(entering))
        found = raw(entering)
        if len(entering) > 5:
            raise RuntimeError("CUDA out of memory")
        return found

    monkeypatch.setattr(one.training, "_raw", small_memory)
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

    monkeypatch.setattr(one.training, "_raw", no_memory)
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

    monkeypatch.setattr("client.deep.torch.amp.GradScaler", scaling)
    fitted = one.fit()
    assert scalers[0].get_scale() < 2.0**127
    assert fitted.steps == expected.steps
    close(fitted.model, expected.model, rtol=1e-3, atol=1e-5)


def test_arrays_of_another_job_are_refused(case):
    one = case("mobilenet_v3_small")
    fewer = dict(list(one.tuned.items())[1:])
    name = next(iter(one.tuned))
    for tuned in (fewer, {}, {**one.tuned, name: one.tuned[name][:1]}):
        with pytest.raises(WeightsError, match=r"another job|does not fit"):
            one.training.features(tuned, "test", {})
    with pytest.raises(WeightsError, match="another job"):
        one.training.features(one.tuned, "test", {"features.12.1.running_mean": np.zeros(576, np.float32)})


def test_installed_arrays_are_there_and_gone_again(case):
    one = case("mobilenet_v3_small")
    before = digest_of(one.backbone.network)
    name = next(iter(one.tuned))
    array = np.full_like(one.tuned[name], 0.25)
    array.flags.writeable = False
    seen = []

    def fail():
        seen.append(one.backbone.network.state_dict()[name].numpy().copy())
        raise KeyError

    with pytest.raises(KeyError), installed(one.backbone, {name: array}):
        fail()
    assert np.array_equal(seen[0], array)
    assert digest_of(one.backbone.network) == before
    with (
        pytest.raises(WeightsError, match=r"features\.99"),
        installed(one.backbone, {name: array, "features.99": array}),
    ):
        pass
    assert digest_of(one.backbone.network) == before


def test_nothing_of_the_backbone_travels_when_the_head_alone_is_trained(job):
    backbone = load_backbone("squeezenet1_1", Weights(name="random", seed=1))
    assert pretrained(job(), backbone) == {}
    assert cut_of(job(), backbone) == len(backbone.blocks)
    assert cut_of(job(tune="full"), backbone) == 0
    assert cut_of(job(tune={"part": "last-blocks", "blocks": 1}), backbone) == backbone.cut_before(1)


def test_pretrained_arrays_keep_their_numbers(case):
    one = case()
    name = next(iter(one.tuned))
    before = one.tuned[name].copy()
    with torch.no_grad():
        one.backbone.network.get_parameter(name).add_(1.0)
    assert np.array_equal(one.tuned[name], before)
    with torch.no_grad():
        one.backbone.network.get_parameter(name).sub_(1.0)
