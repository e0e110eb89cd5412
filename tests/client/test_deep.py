"""Local training of the tuned blocks with the head, on real images of phantom hospitals."""

import math

import numpy as np
import pytest
import torch

from client.backbone import digest_of
from client.deep import _sizes
from client.feature_space import columns_of
from client.tuned import cut_of
from common.backbones import BACKBONES, feature_blocks
from common.errors import ConfigError, WeightsError
from common.model import Model
from common.wire import Packed
from server.guard import Expected, _steps


def same(one: Model, other: Model) -> bool:
    a, b = one.arrays(), other.arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


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


def test_equal_arguments_give_equal_bits_and_others_do_not(case):
    one = case(
        "mobilenet_v3_small",
        views=3,
        lr=1e-6,
        features={"stages": "all", "mirror": True},
        method={"local_epochs": 2, "lr": 1e-3},
    )
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
    one = case("mobilenet_v2", batch_norm="local", lr=1e3, method={"local_epochs": 8})
    before = digest_of(one.backbone.network)
    with pytest.raises(ConfigError, match=r"diverged.*method\.lr.*tune\.lr"):
        one.fit()
    assert digest_of(one.backbone.network) == before
    assert not any(parameter.requires_grad for parameter in one.backbone.parameters())
    assert not any(module.training for module in one.backbone.modules())


def test_arrays_of_another_job_are_refused(case):
    one = case("mobilenet_v3_small")
    fewer = dict(list(one.tuned.items())[1:])
    name = next(iter(one.tuned))
    for tuned in (fewer, {}, {**one.tuned, name: one.tuned[name][:1]}):
        with pytest.raises(WeightsError, match=r"another job|does not fit"):
            one.training.features(tuned, "test", {})
    with pytest.raises(WeightsError, match="another job"):
        one.training.features(one.tuned, "test", {"features.12.1.running_mean": np.zeros(576, np.float32)})


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 64])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_batches_that_a_hospital_makes_are_as_many_as_the_guard_expects(job, batch_size, accumulate):
    """Of at least 2 images in a network with batch normalisations, where the job trains them."""
    tuning = job(
        method={"name": "scaffold", "local_epochs": 3, "batch_size": batch_size},
        tune={"part": "last-blocks", "accumulate": accumulate, "batch_norm": "local"},
    )
    for images in (1, 2, 3, 9, 50):
        fewest, most = _steps(Packed({}, {"examples": images}), Expected("fit", tuning))
        for least in (1, 2):
            assert fewest <= 3 * len(_sizes(images, batch_size * accumulate, least)) <= most
