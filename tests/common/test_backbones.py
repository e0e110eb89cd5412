"""The table of backbones."""

import pytest

from common.backbones import BACKBONES, BackboneRow, backbone_row
from common.errors import ConfigError
from common.job import parse_job


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_a_source_and_possible_sizes(name: str) -> None:
    row = BACKBONES[name]
    assert "arXiv" in row.source
    assert row.features >= 64
    assert 32 <= row.size_px <= 1024
    assert row.parameters > row.features


def test_megabytes_count_four_bytes_for_each_parameter() -> None:
    assert BackboneRow(1, 224, 2_500_000, "").megabytes == 10.0
    assert round(backbone_row("resnet18").megabytes) == 47


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        BACKBONES["mine"] = BACKBONES["resnet18"]  # type: ignore[index]


def test_an_unknown_backbone_gets_the_nearest_and_the_choices() -> None:
    assert backbone_row("vgg16") is BACKBONES["vgg16"]
    with pytest.raises(ConfigError) as caught:
        backbone_row("resnet19")
    start = "unknown backbone 'resnet19'; did you mean 'resnet18'?; choose one of: "
    assert str(caught.value) == start + ", ".join(BACKBONES)


@pytest.mark.parametrize(("name", "size", "wanted"), [("vit_b_16", 128, "224"), ("inception_v3", 64, "75 to 1024")])
def test_an_input_size_the_backbone_cannot_take_is_refused(name: str, size: int, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"image\.size: {name} takes {wanted} pixels, got {size}"):
        parse_job(
            {
                "name": "x",
                "classes": ["a", "b"],
                "backbone": {"name": name, "weights": "random"},
                "image": {"size": size},
            }
        )
