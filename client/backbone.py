"""The frozen network: how it is built, where it is cut, which layers can be tapped.

`NETWORKS` has one row for each backbone of `common/backbones.py`; adding a backbone is one row in each table. Its weights
come from `client/weights.py`.

Letters: N images, D features, (3, H, W) images.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torchvision
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Every torchvision classifier here takes RGB in [0, 1] normalised by these."""


@dataclass(frozen=True)
class Stage:
    """A layer whose pooled activations can be features: its path in the network and its width D."""

    layer: str
    features: int


@dataclass(frozen=True)
class NetworkRow:
    """How a backbone is built and tapped.

    cut: from the classifier to the network that maps images (N, 3, H, W) to the features (N, D) of the last stage.
    layout: of the activations of the earlier stages: `nchw`, `nhwc`, or `tokens` (N, T, D) with the class token first.
    stages: shallow to deep; the last is the output of the cut network.
    """

    build: Callable[[], nn.Module]
    cut: Callable[[nn.Module], nn.Module]
    stages: tuple[Stage, ...]
    layout: str = "nchw"


def _without(path: str) -> Callable[[nn.Module], nn.Module]:
    """Replace one layer (the classifier's last) by the identity."""

    def cut(network: nn.Module) -> nn.Module:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
        return network

    return cut


def _pooled_squeezenet(network: nn.Module) -> nn.Module:
    """SqueezeNet classifies with a 1x1 convolution before pooling: pool its 512 maps instead."""
    network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network


def _stages(**features: int) -> tuple[Stage, ...]:
    """Stages from layer=features, with `__` for a dot; the last is named `output`."""
    return tuple(Stage(layer.replace("__", "."), width) for layer, width in features.items())


def _resnet_stages(width: int) -> tuple[Stage, ...]:
    return _stages(layer1=width, layer2=2 * width, layer3=4 * width, output=8 * width)


_models = torchvision.models
_inception = partial(_models.inception_v3, init_weights=False, transform_input=True)
_SQUEEZENET_1_0 = _stages(features__5=256, features__10=512, output=512)
_SQUEEZENET_1_1 = _stages(features__4=128, features__7=256, output=512)

NETWORKS: Mapping[str, NetworkRow] = MappingProxyType(
    {
        "resnet18": NetworkRow(_models.resnet18, _without("fc"), _resnet_stages(64)),
        "resnet34": NetworkRow(_models.resnet34, _without("fc"), _resnet_stages(64)),
        "resnet50": NetworkRow(_models.resnet50, _without("fc"), _resnet_stages(256)),
        "vgg16": NetworkRow(
            _models.vgg16,
            _without("classifier.6"),
            _stages(features__9=128, features__16=256, features__23=512, features__30=512, output=4096),
        ),
        "inception_v3": NetworkRow(
            _inception, _without("fc"), _stages(Mixed_5d=288, Mixed_6e=768, Mixed_7a=1280, output=2048)
        ),
        "densenet121": NetworkRow(
            _models.densenet121,
            _without("classifier"),
            _stages(features__denseblock1=256, features__denseblock2=512, features__denseblock3=1024, output=1024),
        ),
        "mobilenet_v2": NetworkRow(
            _models.mobilenet_v2,
            _without("classifier.1"),
            _stages(features__3=24, features__6=32, features__13=96, output=1280),
        ),
        "mobilenet_v3_small": NetworkRow(
            _models.mobilenet_v3_small,
            _without("classifier"),
            _stages(features__3=24, features__8=48, features__11=96, output=576),
        ),
        "mobilenet_v3_large": NetworkRow(
            _models.mobilenet_v3_large,
            _without("classifier"),
            _stages(features__6=40, features__12=112, features__15=160, output=960),
        ),
        "efficientnet_b0": NetworkRow(
            _models.efficientnet_b0,
            _without("classifier"),
            _stages(features__3=40, features__5=112, features__7=320, output=1280),
        ),
        "convnext_tiny": NetworkRow(
            _models.convnext_tiny,
            _without("classifier.2"),
            _stages(features__1=96, features__3=192, features__5=384, output=768),
        ),
        "squeezenet1_0": NetworkRow(_models.squeezenet1_0, _pooled_squeezenet, _SQUEEZENET_1_0),
        "squeezenet1_1": NetworkRow(_models.squeezenet1_1, _pooled_squeezenet, _SQUEEZENET_1_1),
        "vit_b_16": NetworkRow(
            _models.vit_b_16,
            _without("heads"),
            _stages(
                encoder__layers__encoder_layer_2=768,
                encoder__layers__encoder_layer_5=768,
                encoder__layers__encoder_layer_8=768,
                output=768,
            ),
            layout="tokens",
        ),
        "swin_t": NetworkRow(
            _models.swin_t,
            _without("head"),
            _stages(features__1=96, features__3=192, features__5=384, output=768),
            layout="nhwc",
        ),
    }
)


class Backbone(nn.Module):
    """A frozen network, always in eval(): images (N, 3, H, W) float32 in [0, 1] to features (N, D) of its last stage.

    digest: `digest_of` the whole network as its weights were loaded: one digest, one network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, digest: str) -> None:
        super().__init__()
        self.network = network
        self.digest = digest
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002
        """Stay in eval(): batch statistics of a frozen network must not move."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D)."""
        features: Tensor = self.network((images - self.mean) / self.std)
        return features.flatten(1)


def digest_of(network: nn.Module) -> str:
    """sha256 (64 hex digits) over the names, dtypes, shapes and values of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
