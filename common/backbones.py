"""The backbones a job may name, as the coordinator needs to know them: names and facts, no network.

`client/backbone.py` holds how each is built and taken apart; a test keeps the two tables in step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from common.config_file import unknown
from common.errors import ConfigError

POOLS = ("mean", "max")
"""How the activations of a stage become a vector: over its positions."""


class StageRow(NamedTuple):
    """A stage whose activations can be features.

    name: the block of the network's chain after which it is tapped. width: its channels D. spatial: False for a plain
    vector without positions, of which there is nothing to pool.
    """

    name: str
    width: int
    spatial: bool = True


class FeatureBlock(NamedTuple):
    """One pooled stage as the slice [start, stop) of a feature vector; pool: `mean`, `max`, or `vector` as it is."""

    stage: str
    pool: str
    start: int
    stop: int


@dataclass(frozen=True)
class BackboneRow:
    """Facts of one torchvision network.

    stages: shallow to deep; the last is named `output`. size_px: side of its usual input; least_px and most_px: of what it
    can take. parameters: number of all its weights. last_inputs: of its own last layer, where these are not its features (0).
    """

    stages: tuple[StageRow, ...]
    size_px: int
    parameters: int
    source: str
    least_px: int = 32
    most_px: int = 1024
    last_inputs: int = 0

    @property
    def features(self) -> int:
        """Width D of its last features."""
        return self.stages[-1].width

    def parameters_with(self, classes: int) -> int:
        """Number of all weights with a last layer for so many classes in place of ImageNet's 1,000."""
        return self.parameters + (classes - 1000) * ((self.last_inputs or self.features) + 1)

    @property
    def megabytes(self) -> float:
        """Size of all weights as float32, in MB (1e6 bytes)."""
        return self.parameters * 4 / 1e6


def _stages(early: Mapping[str, int], output: int, vector: bool = False) -> tuple[StageRow, ...]:
    """Stages from their widths; vector: the last, `output`, has no positions."""
    return (*(StageRow(name, width) for name, width in early.items()), StageRow("output", output, not vector))


BACKBONES: Mapping[str, BackboneRow] = MappingProxyType(
    {
        "resnet18": BackboneRow(
            _stages({"layer1.1": 64, "layer2.1": 128, "layer3.1": 256}, 512),
            224,
            11_689_512,
            "He et al. 2016, arXiv 1512.03385",
        ),
        "resnet34": BackboneRow(
            _stages({"layer1.2": 64, "layer2.3": 128, "layer3.5": 256}, 512),
            224,
            21_797_672,
            "He et al. 2016, arXiv 1512.03385",
        ),
        "resnet50": BackboneRow(
            _stages({"layer1.2": 256, "layer2.3": 512, "layer3.5": 1024}, 2048),
            224,
            25_557_032,
            "He et al. 2016, arXiv 1512.03385",
        ),
        "vgg16": BackboneRow(
            _stages({"features.9": 128, "features.16": 256, "features.23": 512, "features.30": 512}, 4096, vector=True),
            224,
            138_357_544,
            "Simonyan and Zisserman 2015, arXiv 1409.1556",
        ),
        "inception_v3": BackboneRow(
            _stages({"Conv2d_4a_3x3": 192, "Mixed_5d": 288, "Mixed_6e": 768, "Mixed_7a": 1280}, 2048),
            299,
            27_161_264,
            "Szegedy et al. 2016, arXiv 1512.00567",
            least_px=75,
        ),
        "densenet121": BackboneRow(
            _stages({"features.denseblock1": 256, "features.denseblock2": 512, "features.denseblock3": 1024}, 1024),
            224,
            7_978_856,
            "Huang et al. 2017, arXiv 1608.06993",
        ),
        "mobilenet_v2": BackboneRow(
            _stages(
                {"features.3": 24, "features.6": 32, "features.10": 64, "features.13": 96, "features.17": 320}, 1280
            ),
            224,
            3_504_872,
            "Sandler et al. 2018, arXiv 1801.04381",
        ),
        "mobilenet_v3_small": BackboneRow(
            _stages({"features.3": 24, "features.6": 40, "features.8": 48, "features.11": 96}, 576),
            224,
            2_542_856,
            "Howard et al. 2019, arXiv 1905.02244",
            last_inputs=1024,
        ),
        "mobilenet_v3_large": BackboneRow(
            _stages(
                {"features.3": 24, "features.6": 40, "features.10": 80, "features.12": 112, "features.15": 160}, 960
            ),
            224,
            5_483_032,
            "Howard et al. 2019, arXiv 1905.02244",
            last_inputs=1280,
        ),
        "efficientnet_b0": BackboneRow(
            _stages(
                {"features.2.1": 24, "features.3.1": 40, "features.4.2": 80, "features.5.2": 112, "features.7.0": 320},
                1280,
            ),
            224,
            5_288_548,
            "Tan and Le 2019, arXiv 1905.11946",
        ),
        "convnext_tiny": BackboneRow(
            _stages({"features.1.2": 96, "features.3.2": 192, "features.5.8": 384}, 768),
            224,
            28_589_128,
            "Liu et al. 2022, arXiv 2201.03545",
        ),
        "squeezenet1_0": BackboneRow(
            _stages({"features.4": 128, "features.7": 256, "features.9": 384, "features.10": 512}, 512),
            224,
            1_248_424,
            "Iandola et al. 2016, arXiv 1602.07360",
        ),
        "squeezenet1_1": BackboneRow(
            _stages({"features.4": 128, "features.7": 256, "features.10": 384}, 512),
            224,
            1_235_496,
            "Iandola et al. 2016, arXiv 1602.07360",
        ),
        "vit_b_16": BackboneRow(
            _stages({f"encoder.layers.encoder_layer_{layer}": 768 for layer in (2, 5, 8, 11)}, 768, vector=True),
            224,
            86_567_656,
            "Dosovitskiy et al. 2021, arXiv 2010.11929",
            224,
            224,
        ),
        "swin_t": BackboneRow(
            _stages({"features.1.1": 96, "features.3.1": 192, "features.5.5": 384}, 768),
            224,
            28_288_354,
            "Liu et al. 2021, arXiv 2103.14030",
        ),
    }
)


def backbone_row(name: str) -> BackboneRow:
    """The row of one backbone.

    Raises:
        ConfigError: no such backbone; the message lists the choices.
    """
    if name not in BACKBONES:
        raise ConfigError(unknown("backbone", name, list(BACKBONES)))
    return BACKBONES[name]


def feature_blocks(name: str, stages: Sequence[str], pool: Sequence[str]) -> tuple[FeatureBlock, ...]:
    """What a feature vector is made of: stages shallow to deep, of each the mean before the maximum.

    The width D of the vector is the `stop` of the last block.

    Args:
        name: of the backbone.
        stages: names of some of its stages, in any order; `all` and `last` stand for all and for the last.
        pool: `mean`, `max` or both; a stage without positions gives one block `vector` whatever is chosen.

    Raises:
        ConfigError: no such backbone, stage or pooling; the message lists the choices.
    """
    rows = backbone_row(name).stages
    _require(f"stage of {name}:", stages, ["all", "last", *(row.name for row in rows)])
    _require("pooling", pool, list(POOLS))
    blocks: list[FeatureBlock] = []
    for row in rows:
        if row.name in stages or "all" in stages or ("last" in stages and row is rows[-1]):
            for one in [one for one in POOLS if one in pool] if row.spatial else ["vector"]:
                start = blocks[-1].stop if blocks else 0
                blocks.append(FeatureBlock(row.name, one, start, start + row.width))
    return tuple(blocks)


def _require(kind: str, words: Sequence[str], choices: list[str]) -> None:
    for word in words:
        if word not in choices:
            raise ConfigError(unknown(kind, word, choices))
