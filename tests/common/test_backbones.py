"""The table of backbones."""

import pytest
import torch
import torchvision

from common.backbones import BACKBONES, BackboneRow, FeatureBlock, StageRow, backbone_row, feature_blocks
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
    assert BackboneRow((StageRow("output", 1),), 224, 2_500_000, "").megabytes == 10.0
    assert round(backbone_row("resnet18").megabytes) == 47


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_the_weights_with_another_last_layer_are_those_of_the_network(name: str) -> None:
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **options)
    last = [
        layer
        for where, layer in network.named_modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) and "aux" not in where.lower()
    ][-1]
    classes, inputs = last.weight.shape[:2]
    assert classes == 1000
    others = sum(one.numel() for one in network.parameters()) - classes * (inputs + 1)
    assert backbone_row(name).parameters_with(3) == others + 3 * (inputs + 1)


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


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_some_stages_and_the_last_is_its_output(name: str) -> None:
    *early, last = BACKBONES[name].stages
    names = [stage.name for stage in BACKBONES[name].stages]
    assert 3 <= len(early) <= 5
    assert len(set(names)) == len(names)
    assert last.name == "output"
    assert last.width == BACKBONES[name].features
    assert all(stage.spatial for stage in early)


def test_only_two_outputs_have_no_positions() -> None:
    assert [name for name, row in BACKBONES.items() if not row.stages[-1].spatial] == ["vgg16", "vit_b_16"]


def test_all_stages_of_mobilenet_v2_by_hand() -> None:
    blocks = feature_blocks("mobilenet_v2", ("all",), ("mean",))
    assert [tuple(block) for block in blocks] == [
        ("features.3", "mean", 0, 24),
        ("features.6", "mean", 24, 56),
        ("features.10", "mean", 56, 120),
        ("features.13", "mean", 120, 216),
        ("features.17", "mean", 216, 536),
        ("output", "mean", 536, 1816),
    ]


@pytest.mark.parametrize("pool", [("mean", "max"), ("max", "mean")])
def test_stages_and_pools_have_one_order(pool: tuple[str, str]) -> None:
    assert feature_blocks("vgg16", ("output", "features.16", "features.9"), pool) == (
        FeatureBlock("features.9", "mean", 0, 128),
        FeatureBlock("features.9", "max", 128, 256),
        FeatureBlock("features.16", "mean", 256, 512),
        FeatureBlock("features.16", "max", 512, 768),
        FeatureBlock("output", "vector", 768, 4864),
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_stage_is_one_block_as_wide_as_the_features(name: str) -> None:
    [block] = feature_blocks(name, ("last",), ("mean",))
    assert block.pool == ("mean" if BACKBONES[name].stages[-1].spatial else "vector")
    assert (block.stage, block.start, block.stop) == ("output", 0, BACKBONES[name].features)
    assert feature_blocks(name, ("output", "last"), ("mean",)) == (block,)


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_follow_one_another_without_a_gap(name: str) -> None:
    blocks = feature_blocks(name, ("all",), ("mean", "max"))
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    widths = {stage.name: stage.width for stage in BACKBONES[name].stages}
    assert all(block.stop - block.start == widths[block.stage] for block in blocks)
    assert {block.stage for block in blocks} == set(widths)


def test_an_unknown_stage_or_pooling_gets_the_choices() -> None:
    with pytest.raises(ConfigError) as caught:
        feature_blocks("resnet18", ("last", "layer1.2"), ("mean",))
    assert str(caught.value) == (
        "unknown stage of resnet18: 'layer1.2'; did you mean 'layer1.1'?; "
        "choose one of: all, last, layer1.1, layer2.1, layer3.1, output"
    )
    with pytest.raises(ConfigError, match=r"unknown pooling 'median'.*choose one of: mean, max"):
        feature_blocks("resnet18", ("last",), ("median",))
    with pytest.raises(ConfigError, match="unknown backbone 'resnet19'"):
        feature_blocks("resnet19", ("last",), ("mean",))
