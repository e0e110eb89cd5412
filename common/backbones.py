"""The backbones a job may name, as the coordinator needs to know them: names and facts, no network.

`client/backbone.py` holds how each is built and tapped; a test keeps the two tables in step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from common.config_file import unknown
from common.errors import ConfigError


@dataclass(frozen=True)
class BackboneRow:
    """Facts of one torchvision network.

    features: width D of its last features. size_px: side of its usual input; least_px and most_px: of what it can take.
    parameters: number of all its weights.
    """

    features: int
    size_px: int
    parameters: int
    source: str
    least_px: int = 32
    most_px: int = 1024

    @property
    def megabytes(self) -> float:
        """Size of all weights as float32, in MB (1e6 bytes)."""
        return self.parameters * 4 / 1e6


BACKBONES: Mapping[str, BackboneRow] = MappingProxyType(
    {
        "resnet18": BackboneRow(512, 224, 11_689_512, "He et al. 2016, arXiv 1512.03385"),
        "resnet34": BackboneRow(512, 224, 21_797_672, "He et al. 2016, arXiv 1512.03385"),
        "resnet50": BackboneRow(2048, 224, 25_557_032, "He et al. 2016, arXiv 1512.03385"),
        "vgg16": BackboneRow(4096, 224, 138_357_544, "Simonyan and Zisserman 2015, arXiv 1409.1556"),
        "inception_v3": BackboneRow(2048, 299, 27_161_264, "Szegedy et al. 2016, arXiv 1512.00567", least_px=75),
        "densenet121": BackboneRow(1024, 224, 7_978_856, "Huang et al. 2017, arXiv 1608.06993"),
        "mobilenet_v2": BackboneRow(1280, 224, 3_504_872, "Sandler et al. 2018, arXiv 1801.04381"),
        "mobilenet_v3_small": BackboneRow(576, 224, 2_542_856, "Howard et al. 2019, arXiv 1905.02244"),
        "mobilenet_v3_large": BackboneRow(960, 224, 5_483_032, "Howard et al. 2019, arXiv 1905.02244"),
        "efficientnet_b0": BackboneRow(1280, 224, 5_288_548, "Tan and Le 2019, arXiv 1905.11946"),
        "convnext_tiny": BackboneRow(768, 224, 28_589_128, "Liu et al. 2022, arXiv 2201.03545"),
        "squeezenet1_0": BackboneRow(512, 224, 1_248_424, "Iandola et al. 2016, arXiv 1602.07360"),
        "squeezenet1_1": BackboneRow(512, 224, 1_235_496, "Iandola et al. 2016, arXiv 1602.07360"),
        "vit_b_16": BackboneRow(768, 224, 86_567_656, "Dosovitskiy et al. 2021, arXiv 2010.11929", 224, 224),
        "swin_t": BackboneRow(768, 224, 28_288_354, "Liu et al. 2021, arXiv 2103.14030"),
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
