import numpy as np
import pytest
import torch
from torch import nn

from client.backbone import NETWORKS, digest_of
from client.features import Extractor
from client.training import Examples, train_head
from client.weights import load_backbone
from common.backbones import BACKBONES
from common.head import Head
from common.job import Method, Weights

SMALLEST_PX = {"inception_v3": 75, "vit_b_16": 224}
WIDTH_AXIS = {"nchw": 1, "nhwc": 3, "tokens": 2}
BATCH_NORMALISED = "mobilenet_v3_small"


def random_backbone(name: str, seed: int = 0):
    return load_backbone(name, Weights(name="random", seed=seed))


def test_both_tables_name_the_same_backbones_with_the_same_widths():
    assert {name: row.stages[-1].features for name, row in NETWORKS.items()} == {
        name: row.features for name, row in BACKBONES.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_is_a_layer_of_the_stated_width(name):
    """On torch's meta device, which computes shapes only: no memory, no time."""
    row, widths = NETWORKS[name], {}
    with torch.device("meta"):
        network = row.cut(row.build()).eval()
        for stage in row.stages[:-1]:
            network.get_submodule(stage.layer).register_forward_hook(
                lambda module, given, output, layer=stage.layer: widths.update({layer: tuple(output.shape)})
            )
        size = SMALLEST_PX.get(name, 32)
        output = network(torch.zeros(2, 3, size, size))
    assert tuple(output.flatten(1).shape) == (2, row.stages[-1].features)
    assert {layer: shape[WIDTH_AXIS[row.layout]] for layer, shape in widths.items()} == {
        stage.layer: stage.features for stage in row.stages[:-1]
    }
    assert all(len(shape) == (3 if row.layout == "tokens" else 4) and shape[0] == 2 for shape in widths.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts_are_those_of_the_built_network(name):
    with torch.device("meta"):
        network = NETWORKS[name].build()
    assert sum(parameter.numel() for parameter in network.parameters()) == BACKBONES[name].parameters


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
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(squeezenet(grey), squeezenet.network(torch.zeros(1, 3, 64, 64)), atol=1e-5)


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
    train_head(Head.zeros(2, features.shape[1]), examples, Method(local_epochs=3), seed=1)
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
