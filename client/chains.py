"""Each network as a chain of named blocks, from the image to the features (N, D) of its last stage.

A block is what one would tune or tap as a whole: a residual block, an encoder layer, a dense block. It has the path that its
(first) layer has in the network; the last one is `output`, which turns the last map into a vector. What has no
parameters, and the normalisation that belongs to a block, is joined to it. No block overwrites what it is given, so that
activations between blocks can be kept.

The blocks are made of the network's own layers: what is done to the parameters of one is done to the other. They hold no
buffers of their own, because only the network is moved between devices.

Letters: N images, D features, T tokens.
"""

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import MBConv
from torchvision.models.swin_transformer import SwinTransformerBlock

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Every torchvision classifier here takes RGB in [0, 1] normalised by these."""

OUTPUT = "output"
Chain = list[tuple[str, nn.Module]]

_RESIDUAL = (CNBlock, MBConv, SwinTransformerBlock)


def resnet(network: nn.Module) -> Chain:
    """ResNet: a residual block each."""
    stem = _joined(network, "conv1", "bn1", "relu", "maxpool")
    blocks = [block for number in (1, 2, 3, 4) for block in _children(network, f"layer{number}")]
    return [stem, *blocks, (OUTPUT, _average())]


def vgg(network: nn.Module) -> Chain:
    """VGG: a convolution or a pooling each; the fully connected layers but the last are the output."""
    head = [network.get_submodule(f"classifier.{number}") for number in range(6)]
    return [*_features(network), (OUTPUT, nn.Sequential(network.get_submodule("avgpool"), nn.Flatten(), *head))]


def inception(network: nn.Module) -> Chain:
    """Inception v3: without the auxiliary classifier, which only its training from nothing used."""
    name, stem = _joined(network, "Conv2d_1a_3x3")
    return [
        (name, nn.Sequential(_InceptionRange(), stem)),
        _joined(network, "Conv2d_2a_3x3"),
        _joined(network, "Conv2d_2b_3x3", "maxpool1"),
        _joined(network, "Conv2d_3b_1x1"),
        _joined(network, "Conv2d_4a_3x3", "maxpool2"),
        *((name, layer) for name, layer in network.named_children() if name.startswith("Mixed_")),
        (OUTPUT, _average()),
    ]


def densenet(network: nn.Module) -> Chain:
    """DenseNet: a dense block or a transition each."""
    conv0, norm0, relu0, pool0, *blocks, (name, last), (_, norm5) = _children(network, "features")
    stem = nn.Sequential(conv0[1], norm0[1], relu0[1], pool0[1])
    normalised = nn.Sequential(last, norm5, nn.ReLU(inplace=True))
    return [(conv0[0], stem), *blocks, (name, normalised), (OUTPUT, _average())]


def convolutional(network: nn.Module) -> Chain:
    """MobileNets, EfficientNet, SqueezeNet: the mean of the last map is the output.

    SqueezeNet classifies with a 1x1 convolution before it pools; its 512 maps before that are pooled here.
    """
    return [*_features(network), (OUTPUT, _average())]


def convnext(network: nn.Module) -> Chain:
    """ConvNeXt: it normalises after pooling, so the output has parameters."""
    head = [network.get_submodule(path) for path in ("avgpool", "classifier.0", "classifier.1")]
    return [*_features(network), (OUTPUT, nn.Sequential(*head))]


def vit(network: nn.Module) -> Chain:
    """Vision transformer: an encoder layer each; the class token is the output."""
    *layers, (name, last) = _children(network, "encoder.layers")
    normalised = nn.Sequential(last, network.get_submodule("encoder.ln"))
    return [("conv_proj", _Tokens(network)), *layers, (name, normalised), (OUTPUT, _ClassToken())]


def swin(network: nn.Module) -> Chain:
    """Swin transformer: maps (N, H, W, D) up to the last, which is normalised and turned to (N, D, H, W)."""
    *layers, (name, last) = _features(network)
    normalised = nn.Sequential(last, network.get_submodule("norm"), network.get_submodule("permute"))
    return [*layers, (name, normalised), (OUTPUT, _average())]


class _InceptionRange(nn.Module):
    """From the normalisation of ImageNet to the range [-1, 1] that Inception's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Both are (N, 3, H, W)."""
        statistics = enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
        return torch.cat([x[:, c : c + 1] * (std / 0.5) + (mean - 0.5) / 0.5 for c, (mean, std) in statistics], 1)


class _Tokens(nn.Module):
    """Patches as tokens, the class token first, each with its position."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.conv_proj = network.get_submodule("conv_proj")
        self.class_token = network.get_parameter("class_token")
        self.pos_embedding = network.get_parameter("encoder.pos_embedding")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, T, D)."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], 1) + self.pos_embedding


class _ClassToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) to (N, D)."""
        return x[:, 0]


def _average() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _joined(network: nn.Module, *paths: str) -> tuple[str, nn.Module]:
    """Layers as one block with the name of the first."""
    return paths[0], nn.Sequential(*map(network.get_submodule, paths))


def _children(network: nn.Module, path: str) -> Chain:
    return [(f"{path}.{name}", layer) for name, layer in network.get_submodule(path).named_children()]


def _features(network: nn.Module) -> Chain:
    """The layers of `features`; a ReLU, which works in place, joins the layer before it."""
    chain: Chain = []
    for path, layer in _children(network, "features"):
        if isinstance(layer, nn.ReLU):
            before, module = chain.pop()
            chain.append((before, nn.Sequential(module, layer)))
        elif isinstance(next(layer.children(), None), _RESIDUAL):
            chain += _children(network, path)
        else:
            chain.append((path, layer))
    return chain
