"""Where a score comes from: exact for pooled features, and in the right place for the rest."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from client import chains
from client.activation_maps import CAM, GRAD_CAM, ROLLOUT, activation_maps, kind_of
from client.backbone import Backbone, NetworkRow
from common.backbones import FeatureBlock, feature_blocks
from common.head import Head


def head_of(features, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.2, (classes, features)).astype(np.float32)
    return Head(weight, rng.normal(size=classes).astype(np.float32))


def images(size=64, number=4):
    return torch.from_numpy(np.random.default_rng(1).random((number, 3, size, size), np.float32))


def maps(backbone, blocks, head, size=64, classes=(0, 1, 2, 0)):
    ones = np.ones((4, len(blocks)), np.float32)
    return activation_maps(backbone, images(size), head, blocks, np.array(classes), ones)


@pytest.mark.parametrize(
    ("stages", "pool"), [(("last",), ("mean",)), (("all",), ("mean", "max")), (("features.4", "features.7"), ("mean",))]
)
def test_a_class_activation_map_adds_up_to_the_score(squeezenet, stages, pool, one_thread):
    blocks = feature_blocks("squeezenet1_1", stages, pool)
    head = head_of(blocks[-1].stop)
    assert kind_of(squeezenet, blocks) == CAM
    found = maps(squeezenet, blocks, head)
    with torch.inference_mode():
        logits = head.logits(squeezenet.features(images(), blocks).numpy()) - head.bias
    scores = (logits - logits.mean(axis=1, keepdims=True))[np.arange(4), [0, 1, 2, 0]]
    np.testing.assert_allclose(found.sum((1, 2)), scores, rtol=1e-4, atol=1e-4)
    assert found.shape[1:] == ((7, 7) if stages == ("features.4", "features.7") else (3, 3))


def test_the_map_of_one_stage_is_that_of_zhou(squeezenet, one_thread):
    blocks = feature_blocks("squeezenet1_1", ("last",), ("mean",))
    head = head_of(512)
    with torch.inference_mode():
        activation = squeezenet.maps(images(), {"output"})["output"]
    weight = torch.from_numpy(head.weight - head.weight.mean(axis=0))[[0, 1, 2, 0]]
    expected = (activation * weight[:, :, None, None]).sum(1) / activation[0, 0].numel()
    np.testing.assert_allclose(maps(squeezenet, blocks, head), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_scales_of_blocks_are_scales_of_what_they_add(squeezenet, one_thread):
    blocks = feature_blocks("squeezenet1_1", ("features.4", "output"), ("mean",))
    head = head_of(blocks[-1].stop)
    ones = np.ones((4, 2), np.float32)

    def of(scales):
        return activation_maps(squeezenet, images(), head, blocks, np.zeros(4, int), scales)

    first, second = of(ones * [1, 0]), of(ones * [0, 1])
    np.testing.assert_allclose(of(ones * [2, 3]), 2 * first + 3 * second, rtol=1e-3, atol=1e-5)
    assert np.abs(first).max() > 0


@pytest.fixture(scope="module")
def convnext():
    torch.manual_seed(0)
    network = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=2)
    return Backbone(NetworkRow(lambda: network, chains.convnext), network, "d" * 64)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    return Backbone(NetworkRow(lambda: network, chains.vit, layout="tokens"), network, "d" * 64)


def test_what_passes_a_normalisation_after_pooling_gets_grad_cam(convnext):
    blocks = [FeatureBlock("output", "mean", 0, 16)]
    assert kind_of(convnext, blocks) == GRAD_CAM
    head = head_of(16)
    found = maps(convnext, blocks, head)
    assert found.shape == (4, 8, 8)
    assert (found >= 0).all()
    # By hand: weights are mean gradients of the score with respect to what enters the output.
    activation = convnext.front(images(), len(convnext.blocks) - 1, blocks)[0].requires_grad_(True)
    weight = torch.from_numpy((head.weight - head.weight.mean(axis=0))[[0, 1, 2, 0]])
    (gradient,) = torch.autograd.grad(
        (convnext.rest(activation, len(convnext.blocks) - 1, blocks) * weight).sum(), activation
    )
    expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).clamp(min=0)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in convnext.network.parameters())


def test_a_class_token_gets_rollout_and_patches_an_exact_map(vit):
    token = [FeatureBlock("output", "vector", 0, 16)]
    assert kind_of(vit, token) == ROLLOUT
    found = maps(vit, token, head_of(16), 32)
    assert found.shape == (4, 4, 4)
    # With what the class token keeps of itself, all that reaches it is 1.
    assert ((found > 0) & (found < 1)).all()
    assert (found.sum((1, 2)) < 1).all()
    layers = [module for module in vit.network.modules() if isinstance(module, nn.MultiheadAttention)]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    patches = [FeatureBlock("encoder.layers.encoder_layer_0", "mean", 0, 16)]
    head = head_of(16)
    assert kind_of(vit, patches) == CAM
    with torch.inference_mode():
        logits = head.logits(vit.features(images(32), patches).numpy()) - head.bias
    scores = (logits - logits.mean(axis=1, keepdims=True))[np.arange(4), [0, 1, 2, 0]]
    np.testing.assert_allclose(maps(vit, patches, head, 32).sum((1, 2)), scores, rtol=1e-4, atol=1e-4)


def test_rollout_by_hand(vit):
    """Of one image through two layers."""
    attentions = []
    with torch.inference_mode():
        x = vit.front(images(32)[:1], 1, [])[0]
        for block in [*vit.network.encoder.layers]:
            y = block.ln_1(x)
            attentions.append(block.self_attention(y, y, y, need_weights=True)[1][0])
            x = block(x)
    first, second = [(one + torch.eye(17)) / 2 for one in attentions]
    expected = (second @ first)[0, 1:].reshape(4, 4)
    found = maps(vit, [FeatureBlock("output", "vector", 0, 16)], head_of(16), 32)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)
