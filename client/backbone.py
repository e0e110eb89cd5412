"""The frozen network as a chain of blocks: the features of its stages, and a cut before any block.

`NETWORKS` has one row for each backbone of `common/backbones.py`; adding a backbone is one row in each table. Its weights
come from `client/weights.py`, the chains from `client/chains.py`.

Letters: N images, D features, (3, H, W) images.
"""

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from client import chains
from client.chains import IMAGENET_MEAN, IMAGENET_STD, OUTPUT
from common.backbones import FeatureBlock


@dataclass(frozen=True)
class NetworkRow:
    """How a backbone is built and taken apart.

    chain: its blocks in order; the last is `output`, which gives the features (N, D) of the last stage.
    layout: of the activations at the earlier stages: `nchw`, `nhwc`, or `tokens` (N, T, D) with the class token first.
        What enters `output` is `nchw` unless that stage is a vector only.
    """

    build: Callable[[], nn.Module]
    chain: Callable[[nn.Module], chains.Chain]
    layout: str = "nchw"


_models = torchvision.models
_inception = partial(_models.inception_v3, init_weights=False, transform_input=True)

NETWORKS: Mapping[str, NetworkRow] = MappingProxyType(
    {
        "resnet18": NetworkRow(_models.resnet18, chains.resnet),
        "resnet34": NetworkRow(_models.resnet34, chains.resnet),
        "resnet50": NetworkRow(_models.resnet50, chains.resnet),
        "vgg16": NetworkRow(_models.vgg16, chains.vgg),
        "inception_v3": NetworkRow(_inception, chains.inception),
        "densenet121": NetworkRow(_models.densenet121, chains.densenet),
        "mobilenet_v2": NetworkRow(_models.mobilenet_v2, chains.convolutional),
        "mobilenet_v3_small": NetworkRow(_models.mobilenet_v3_small, chains.convolutional),
        "mobilenet_v3_large": NetworkRow(_models.mobilenet_v3_large, chains.convolutional),
        "efficientnet_b0": NetworkRow(_models.efficientnet_b0, chains.convolutional),
        "convnext_tiny": NetworkRow(_models.convnext_tiny, chains.convnext),
        "squeezenet1_0": NetworkRow(_models.squeezenet1_0, chains.convolutional),
        "squeezenet1_1": NetworkRow(_models.squeezenet1_1, chains.convolutional),
        "vit_b_16": NetworkRow(_models.vit_b_16, chains.vit, layout="tokens"),
        "swin_t": NetworkRow(_models.swin_t, chains.swin, layout="nhwc"),
    }
)

_POSITIONS: Mapping[str, tuple[int, ...]] = MappingProxyType({"nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)})


class Backbone(nn.Module):
    """A frozen network, always in eval(): images (N, 3, H, W) float32 in [0, 1] to features (N, D) of its last stage.

    name: its row in the tables. network: the whole one, with the classifier that is not used; parameters have the names of
    its state_dict.
    digest: `digest_of` the whole network as its weights were loaded: one digest, one network.
    blocks: names of the blocks of its chain, in order; a cut is an index among them, before that block.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, row: NetworkRow, network: nn.Module, digest: str, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.digest = digest
        # A tuple hides the blocks from nn.Module: their layers are the network's and must not be listed twice.
        self._chain = tuple(row.chain(network))
        self._layout = row.layout
        self.blocks = tuple(name for name, _ in self._chain)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002
        """Stay in eval(): batch statistics of a frozen network must not move."""
        return self

    def with_blocks(self, made: Callable[[nn.Module], nn.Module]) -> "Backbone":
        """The same backbone with other blocks, each made of one of its own: for inference on the device where it is now.

        The network, its parameters and its digest are shared, and stay what they are; what is done to them afterwards need
        not be done to the blocks.
        """
        other = copy.copy(self)
        other._chain = tuple((name, made(block)) for name, block in self._chain)
        return other

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D) of the last stage."""
        return self._run(images, 0, len(self.blocks), ())[0]

    def features(self, images: Tensor, wanted: Sequence[FeatureBlock]) -> Tensor:
        """Pooled activations (N, D) of some stages, in the order of `wanted`; blocks after the last stage do not run.

        The mean and the maximum are over positions. Of the last stage they are the network's own features (the mean,
        and in ConvNeXt its normalisation) and the maximum over the map that they are the mean of.
        """
        return self.rest(images, 0, wanted)

    def front(self, images: Tensor, cut: int, wanted: Sequence[FeatureBlock]) -> tuple[Tensor, Tensor]:
        """The activation that enters block number `cut`, and the features (N, D) of the stages before it.

        With cut 0 the activation is the images. If `wanted` has its stages in the order of the network, these features
        and those of `rest` are, one after the other, those of `features`.
        """
        return self._run(images, 0, cut, wanted)

    def rest(self, activation: Tensor, cut: int, wanted: Sequence[FeatureBlock]) -> Tensor:
        """Features (N, D) of the stages from block number `cut` on, from the activation that enters it."""
        stop = max((self.blocks.index(block.stage) + 1 for block in wanted), default=cut)
        return self._run(activation, cut, stop, wanted)[1]

    @property
    def layout(self) -> str:
        """Of the activations at the earlier stages: `nchw`, `nhwc` or `tokens`."""
        return self._layout

    def is_sum_over_places(self, block: FeatureBlock) -> bool:
        """Whether a feature is the mean or the maximum over the places of its stage's map, and nothing after that."""
        if block.stage != OUTPUT:
            return True
        if self._layout == "tokens" or block.pool == "vector":
            return False
        layers = list(self._chain[-1][1].children())
        averages = (
            len(layers) == 2 and isinstance(layers[0], nn.AdaptiveAvgPool2d) and isinstance(layers[1], nn.Flatten)
        )
        return block.pool == "max" or averages

    def maps(self, images: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
        """The activations (N, D, h, w) that the features of some stages are pooled from; of `output` what enters it."""
        found: dict[str, Tensor] = {}
        x = images
        for number, (name, block) in enumerate(self._chain):
            entering = (x - self.mean) / self.std if number == 0 else x
            x = block(entering)
            if name in stages:
                found[name] = entering if name == OUTPUT else self._as_map(x)
            if found.keys() == set(stages):
                break
        return found

    def _as_map(self, activation: Tensor) -> Tensor:
        """(N, D, h, w) of an activation at an earlier stage; tokens without the class token, as the square they come from."""
        if self._layout == "nhwc":
            return activation.permute(0, 3, 1, 2)
        if self._layout == "tokens":
            side = round((activation.shape[1] - 1) ** 0.5)
            patches = activation[:, 1:].transpose(1, 2)
            return patches.reshape(*patches.shape[:2], side, side)
        return activation

    @property
    def tunable_blocks(self) -> tuple[str, ...]:
        """Names of the blocks that have parameters, in order."""
        return tuple(name for name, block in self._chain if next(block.parameters(), None) is not None)

    def cut_before(self, last_blocks: int) -> int:
        """Where to cut so that the last blocks with parameters, that many, come after: 0 for all, the end for none."""
        tunable = self.tunable_blocks
        if last_blocks >= len(tunable):
            return 0
        return self.blocks.index(tunable[-last_blocks]) if last_blocks > 0 else len(self.blocks)

    def parameters_from(self, cut: int, batch_norm: bool) -> dict[str, nn.Parameter]:
        """Parameters of the blocks from number `cut` on, by name; `batch_norm`: also those of batch normalisations."""
        inside = {id(parameter) for _, block in self._chain[cut:] for parameter in block.parameters()}
        left_out = {} if batch_norm else self.batch_norms_from(cut)
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if id(parameter) in inside and name.rpartition(".")[0] not in left_out
        }

    def batch_norms_from(self, cut: int) -> dict[str, _BatchNorm]:
        """Batch normalisations in the blocks from number `cut` on, by name."""
        inside = {id(module) for _, block in self._chain[cut:] for module in block.modules()}
        return {
            name: module
            for name, module in self.network.named_modules()
            if id(module) in inside and isinstance(module, _BatchNorm)
        }

    def _run(self, x: Tensor, start: int, stop: int, wanted: Sequence[FeatureBlock]) -> tuple[Tensor, Tensor]:
        """The activation after the blocks from `start` to before `stop`, and the features (N, D) of their stages."""
        pooled: dict[FeatureBlock, Tensor] = {}
        for number, (name, block) in enumerate(self._chain[start:stop], start):
            entering = (x - self.mean) / self.std if number == 0 else x
            x = block(entering)
            pooled.update({one: self._pooled(one, entering, x) for one in wanted if one.stage == name})
        parts = [pooled[one] for one in wanted if one in pooled]
        return x, torch.cat(parts, 1) if parts else x.new_empty(len(x), 0)

    def _pooled(self, wanted: FeatureBlock, entering: Tensor, leaving: Tensor) -> Tensor:
        """Features (N, D) of one stage from what enters and what leaves its block."""
        if wanted.stage == OUTPUT:
            return _greatest(entering, _POSITIONS["nchw"]) if wanted.pool == "max" else leaving
        values = leaving[:, 1:] if self._layout == "tokens" else leaving
        positions = _POSITIONS[self._layout]
        return _greatest(values, positions) if wanted.pool == "max" else values.mean(positions)


def _greatest(values: Tensor, positions: tuple[int, ...]) -> Tensor:
    """The maxima (N, D) over positions.

    Of channels-last maps a pooling finds them four times as fast; its gradient at ties is another, so not where one is taken.
    """
    if positions == _POSITIONS["nchw"] and torch.is_inference_mode_enabled():
        return functional.adaptive_max_pool2d(values, 1).flatten(1)
    return values.amax(positions)


def digest_of(network: nn.Module) -> str:
    """sha256 (64 hex digits) over the names, dtypes, shapes and values of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
