from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from client.backbone import NETWORKS, Backbone, NetworkRow, digest_of
from client.extractor import Extractor
from client.training import Examples, train_head
from client.weights import load_backbone
from common.backbones import BACKBONES, FeatureBlock, feature_blocks
from common.head import Head
from common.job import Method, Weights

SMALLEST_PX = {"inception_v3": 75, "vit_b_16": 224}
WIDTH_AXIS = {"nchw": 1, "nhwc": 3, "tokens": 2}
BATCH_NORMALISED = "mobilenet_v3_small"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

UNUSED = {
    "resnet18": ("fc",),
    "resnet34": ("fc",),
    "resnet50": ("fc",),
    "vgg16": ("classifier.6",),
    "inception_v3": ("fc", "AuxLogits"),
    "densenet121": ("classifier",),
    "mobilenet_v2": ("classifier.1",),
    "mobilenet_v3_small": ("classifier",),
    "mobilenet_v3_large": ("classifier",),
    "efficientnet_b0": ("classifier",),
    "convnext_tiny": ("classifier.2",),
    "squeezenet1_0": ("classifier",),
    "squeezenet1_1": ("classifier",),
    "vit_b_16": ("heads",),
    "swin_t": ("head",),
}
"""What of each network gives no features; the first is its classifier or the last layer of it."""


def random_backbone(name: str, seed: int = 0):
    return load_backbone(name, Weights(name="random", seed=seed))


@cache
def on_meta(name: str) -> Backbone:
    """On torch's meta device, which computes shapes only: no memory, no time."""
    with torch.device("meta"):
        return Backbone(NETWORKS[name], NETWORKS[name].build(), "")


def meta_images(name: str):
    size = SMALLEST_PX.get(name, 32)
    return torch.zeros(2, 3, size, size, device="meta")


LARGE = ("vit_b_16", "vgg16")
"""Seconds for each test; the other tests look at a table row, or at meta tensors, of these as well."""


@pytest.fixture(
    scope="module", params=[pytest.param(one, marks=[pytest.mark.slow] if one in LARGE else []) for one in NETWORKS]
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def drawn(name):
    """A backbone as it is built, its batch statistics drawn too.

    On one thread: where others want the processors too, layers as small as these wait ten times longer on several.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = NETWORKS[name].build()
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.3)
    yield Backbone(NETWORKS[name], network, "")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(name):
    size = SMALLEST_PX.get(name, 64)
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def everything(name: str) -> tuple[FeatureBlock, ...]:
    return feature_blocks(name, ("all",), ("mean", "max"))


def test_both_tables_name_the_same_backbones_with_the_same_widths():
    assert list(NETWORKS) == list(BACKBONES)
    widths = {name: on_meta(name)(meta_images(name)).shape[1] for name in NETWORKS}
    assert widths == {name: row.features for name, row in BACKBONES.items()}


def test_every_stage_is_a_layer_of_the_stated_width(name):
    backbone, layout = on_meta(name), NETWORKS[name].layout
    *early, output = BACKBONES[name].stages
    assert backbone.blocks[-1] == output.name == "output"
    for stage in early:
        activation, _ = backbone.front(meta_images(name), backbone.blocks.index(stage.name) + 1, ())
        assert len(activation) == 2
        assert activation.ndim == (3 if layout == "tokens" else 4)
        assert activation.shape[WIDTH_AXIS[layout]] == stage.width
        assert stage.spatial
    entering, _ = backbone.front(meta_images(name), len(backbone.blocks) - 1, ())
    assert backbone(meta_images(name)).shape == (2, output.width)
    assert (entering.ndim == 4 and entering.shape[1] == output.width) == output.spatial


def test_the_stages_are_in_the_order_of_the_network(name):
    numbers = [on_meta(name).blocks.index(stage.name) for stage in BACKBONES[name].stages]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts_are_those_of_the_built_network(name):
    with torch.device("meta"):
        network = NETWORKS[name].build()
    assert sum(parameter.numel() for parameter in network.parameters()) == BACKBONES[name].parameters


def test_the_parameters_are_the_networks_own_without_its_classifier(name):
    backbone = on_meta(name)
    found = backbone.parameters_from(0, batch_norm=True)
    unused = tuple(f"{path}." for path in UNUSED[name])
    assert set(found) == {key for key, _ in backbone.network.named_parameters() if not key.startswith(unused)}
    assert set(found) <= set(backbone.network.state_dict())
    assert all(found[key] is backbone.network.get_parameter(key) for key in found)


def test_each_block_adds_its_own_parameters(name):
    """Among them those that the network has under the name of the block."""
    backbone = on_meta(name)
    later = backbone.parameters_from(len(backbone.blocks), batch_norm=True)
    assert later == {}
    for cut in reversed(range(len(backbone.blocks))):
        block = backbone.blocks[cut]
        from_here = backbone.parameters_from(cut, batch_norm=True)
        added = from_here.keys() - later.keys()
        assert later.keys() <= from_here.keys()
        assert (block in backbone.tunable_blocks) == bool(added)
        assert added >= {key for key in from_here if key.startswith(f"{block}.")}
        later = from_here


def test_batch_normalisations_are_left_out_by_name(name):
    backbone = on_meta(name)
    norms = {
        key: module
        for key, module in backbone.network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not key.startswith("AuxLogits.")
    }
    assert backbone.batch_norms_from(0) == norms
    assert backbone.batch_norms_from(len(backbone.blocks)) == {}
    without = backbone.parameters_from(0, batch_norm=False)
    left_out = backbone.parameters_from(0, batch_norm=True).keys() - without.keys()
    assert left_out == {f"{key}.{kind}" for key in norms for kind in ("weight", "bias")}


def test_the_last_blocks_with_parameters_are_counted(name):
    backbone = on_meta(name)
    for last in range(1, len(backbone.tunable_blocks) + 1):
        after = backbone.blocks[backbone.cut_before(last) :]
        assert after[0] == backbone.tunable_blocks[-last]
    assert backbone.cut_before(len(backbone.tunable_blocks)) == backbone.cut_before(1000) == 0
    assert backbone.cut_before(0) == len(backbone.blocks)


def test_a_cut_by_hand():
    backbone = on_meta("squeezenet1_1")
    assert backbone.tunable_blocks[-3:] == ("features.10", "features.11", "features.12")
    assert backbone.blocks[-3:] == ("features.11", "features.12", "output")
    assert backbone.cut_before(2) == len(backbone.blocks) - 3
    assert backbone.blocks[7:9] == ("features.8", "features.9")
    assert backbone.cut_before(4) == 8


def test_the_vision_transformer_s_own_parameters_belong_to_its_first_block():
    own = {"class_token", "encoder.pos_embedding"}
    backbone = on_meta("vit_b_16")
    assert own <= backbone.parameters_from(0, batch_norm=True).keys()
    assert not own & backbone.parameters_from(1, batch_norm=True).keys()


def cut_network(name: str, backbone: Backbone) -> nn.Module:
    """torchvision's network with the same weights and nothing where its classifier was."""
    with torch.device("meta"):
        network = NETWORKS[name].build()
    network.load_state_dict(backbone.network.state_dict(), assign=True)
    parent, _, layer = UNUSED[name][0].rpartition(".")
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    setattr(network.get_submodule(parent), layer, pool if name.startswith("squeezenet") else nn.Identity())
    return network.eval()


def test_the_chain_gives_the_features_of_the_network(name, drawn, images):
    with torch.no_grad():
        features = drawn(images)
        expected = cut_network(name, drawn)((images - MEAN) / STD).flatten(1)
    assert features.shape == (2, BACKBONES[name].features)
    assert features.std() > 0
    assert torch.equal(features, expected)


def test_all_stages_in_one_vector(name, drawn, images):
    wanted = everything(name)
    with torch.no_grad():
        found = drawn.features(images, wanted)
        last = drawn(images)
        entering, _ = drawn.front(images, len(drawn.blocks) - 1, ())
    parts = {(block.stage, block.pool): found[:, block.start : block.stop] for block in wanted}
    assert found.shape == (2, wanted[-1].stop)
    assert torch.isfinite(found).all()
    assert all(part.std() > 0 for part in parts.values())
    if BACKBONES[name].stages[-1].spatial:
        assert torch.equal(parts["output", "mean"], last)
        assert torch.equal(parts["output", "max"], entering.amax((2, 3)))
        if name != "convnext_tiny":  # it normalises after pooling
            torch.testing.assert_close(entering.mean((2, 3)), last)
    else:
        assert torch.equal(parts["output", "vector"], last)
    for stage in BACKBONES[name].stages[:-1]:
        assert (parts[stage.name, "max"] >= parts[stage.name, "mean"]).all()


def test_front_and_rest_are_the_features(name, drawn, images):
    wanted = everything(name)
    with torch.no_grad():
        expected = drawn.features(images, wanted)
        for cut in (0, len(drawn.blocks) // 2, drawn.cut_before(2), drawn.cut_before(1), len(drawn.blocks)):
            activation, early = drawn.front(images, cut, wanted)
            kept = activation.clone()
            late = drawn.rest(activation, cut, wanted)
            before = [block.stop for block in wanted if drawn.blocks.index(block.stage) < cut]
            assert early.shape[1] == max(before, default=0)
            assert torch.equal(torch.cat([early, late], 1), expected)
            assert torch.equal(activation, kept)
        assert torch.equal(drawn.front(images, 0, wanted)[0], images)


def test_no_block_overwrites_what_it_is_given(drawn, images):
    x = images
    with torch.no_grad():
        for number in range(len(drawn.blocks)):
            kept = x.clone()
            after, _ = drawn._run(x, number, number + 1, ())
            assert torch.equal(x, kept), drawn.blocks[number]
            x = after


def test_the_last_blocks_can_be_tuned(drawn, name, images):
    """Every parameter after the cut takes part in the features, and no other gets a gradient."""
    wanted = feature_blocks(name, ("last",), ("mean",))
    cut = drawn.cut_before(2)
    chosen = drawn.parameters_from(cut, batch_norm=True)
    with torch.no_grad():
        activation, _ = drawn.front(images, cut, wanted)
    try:
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        drawn.rest(activation, cut, wanted).sum().backward()
        assert {key for key, one in drawn.network.named_parameters() if one.grad is not None} == set(chosen)
    finally:
        for parameter in chosen.values():
            parameter.requires_grad_(False).grad = None


MAP = torch.tensor([[[[1.0, 2], [3, 6]], [[0, 0], [4, 0]]]])
ARRANGED = {
    "nchw": MAP,
    "nhwc": MAP.permute(0, 2, 3, 1),
    "tokens": torch.cat([torch.full((1, 1, 2), 100.0), MAP.flatten(2).transpose(1, 2)], 1),
}


class Refuses(nn.Module):
    def forward(self, x):
        raise AssertionError("this block should not have run")


def of_two_blocks(output: nn.Module, layout: str = "nchw") -> Backbone:
    network = nn.Sequential()
    for block, layer in (("image", Refuses()), ("middle", nn.Identity()), ("output", output)):
        network.add_module(block, layer)
    return Backbone(NetworkRow(lambda: network, lambda chain: list(chain.named_children()), layout), network, "")


@pytest.mark.parametrize("layout", ARRANGED)
def test_pooling_by_hand(layout):
    backbone = of_two_blocks(Refuses(), layout)
    mean, largest = FeatureBlock("middle", "mean", 0, 2), FeatureBlock("middle", "max", 2, 4)
    assert backbone.rest(ARRANGED[layout], 1, (mean, largest)).tolist() == [[3, 1, 6, 4]]
    assert backbone.rest(ARRANGED[layout], 1, (largest, mean)).tolist() == [[6, 4, 3, 1]]
    assert backbone.rest(ARRANGED[layout], 1, ()).shape == (1, 0)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_maximum_of_the_output_is_that_of_the_map_that_enters_it(layout):
    backbone = of_two_blocks(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), layout)
    wanted = FeatureBlock("output", "mean", 0, 2), FeatureBlock("output", "max", 2, 4)
    assert backbone.rest(MAP, 1, wanted).tolist() == backbone.rest(MAP, 2, wanted).tolist() == [[3, 1, 6, 4]]


@pytest.mark.parametrize("name", ["squeezenet1_1", BATCH_NORMALISED])
def test_random_features_are_finite_and_tell_images_apart(name):
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = images * torch.tensor([0.1, 0.4, 0.7, 1.0]).view(4, 1, 1, 1)
    with torch.no_grad():
        features = random_backbone(name)(images)
    assert features.shape == (4, BACKBONES[name].features)
    assert torch.isfinite(features).all()
    assert features.std(0).mean() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_random_backbone_gives_features(name):
    size = SMALLEST_PX.get(name, 64)
    with torch.no_grad():
        features = random_backbone(name)(torch.rand(2, 3, size, size))
    assert features.shape == (2, BACKBONES[name].features)
    assert torch.isfinite(features).all()


def test_images_are_normalised_with_the_statistics_of_imagenet(squeezenet):
    grey = MEAN.expand(1, 3, 64, 64)
    with torch.no_grad():
        expected = squeezenet.network.features(torch.zeros(1, 3, 64, 64)).mean((2, 3))
        assert torch.allclose(squeezenet(grey), expected, atol=1e-5)


def test_a_backbone_stays_in_evaluation_mode_whatever_is_called():
    backbone = random_backbone(BATCH_NORMALISED)
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    for mode in (True, False):
        assert backbone.train(mode) is backbone
        assert not any(module.training for module in backbone.modules())
    nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())


def test_no_parameter_needs_a_gradient():
    assert not any(parameter.requires_grad for parameter in random_backbone(BATCH_NORMALISED).parameters())


def test_extraction_and_training_leave_every_number_of_the_backbone():
    backbone = random_backbone(BATCH_NORMALISED)
    before = digest_of(backbone.network)
    backbone.train()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 64, 64), np.uint8)
    features = Extractor(backbone, torch.device("cpu"), 64)(pixels)
    examples = Examples(features, np.arange(12) % 2)
    local = Method(name="fedavg", local_epochs=3).local
    trained = train_head(Head.zeros(2, features.shape[1]), examples, local, seed=1)
    assert trained.head.weight.any()
    assert digest_of(backbone.network) == before


def test_the_digest_notices_one_changed_batch_statistic():
    backbone = random_backbone(BATCH_NORMALISED)
    before = digest_of(backbone.network)
    next(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)).running_mean[0] += 1e-3
    assert digest_of(backbone.network) != before


def test_the_digest_does_not_depend_on_the_layout_in_memory(squeezenet):
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = digest_of(network)
    assert digest_of(network.to(memory_format=torch.channels_last)) == before


@pytest.mark.parametrize("name", ["squeezenet1_1", BATCH_NORMALISED])
def test_a_seed_is_one_random_network(name):
    one, same, other = (random_backbone(name, seed) for seed in (5, 5, 6))
    assert one.digest == same.digest != other.digest
    assert digest_of(one.network) == digest_of(same.network) != digest_of(other.network)


@pytest.mark.parametrize("name", ["squeezenet1_1", BATCH_NORMALISED])
def test_the_process_s_random_numbers_are_left_alone(name):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    random_backbone(name, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
