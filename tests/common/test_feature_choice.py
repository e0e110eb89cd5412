"""What a job takes from the backbone: what is filled in, accepted and refused."""

from typing import Any

import pytest

from common.errors import ConfigError
from common.job import Job, parse_job

MINIMAL: dict[str, Any] = {
    "name": "pneumonia-xray",
    "classes": ["normal", "pneumonia"],
    "backbone": {"name": "resnet18", "weights": "IMAGENET1K_V1"},
}


def job(**changes: Any) -> Job:
    return parse_job({**MINIMAL, **changes})


def problem(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        job(**changes)
    [only] = str(caught.value).splitlines()[1:]
    return only.removeprefix("  - ")


def stages(found: Job) -> list[str]:
    return list(dict.fromkeys(block.stage for block in found.feature_blocks))


def test_the_closed_form_reads_all_stages_and_the_others_the_last() -> None:
    """resnet18 has stages of 64, 128, 256 and 512 channels; each gives its mean."""
    several = job()
    assert (several.features.stages, several.features.pool, several.features.mirror) == ("all", ["mean"], False)
    assert stages(several) == ["layer1.1", "layer2.1", "layer3.1", "output"]
    assert several.num_features == 64 + 128 + 256 + 512
    last = job(method="fedavg")
    assert (last.features.stages, last.features.pool, last.features.mirror) == ("last", ["mean"], False)
    assert last.num_features == 512
    assert job(method={"name": "fedavg", "warm_start": "analytic"}).features == several.features


@pytest.mark.parametrize(
    ("method", "features", "pool", "width"),
    [
        ("analytic", {"stages": "last"}, ["mean"], 512),
        ("analytic", {"pool": ["max"]}, ["max"], 960),
        ("analytic", {"pool": ["mean", "max"]}, ["mean", "max"], 1920),
        ("analytic", {"stages": ["layer1.1"]}, ["mean"], 64),
        ("analytic", {"stages": "layer1.1"}, ["mean"], 64),
        ("analytic", {"stages": "layer1.1", "pool": ["mean", "max"]}, ["mean", "max"], 128),
        ("fedavg", {"stages": "all"}, ["mean"], 960),
        ("fedavg", {"stages": ["output", "layer1.1"], "pool": ["max"]}, ["max"], 576),
        ("fedavg", {"pool": ["max", "mean"]}, ["max", "mean"], 1024),
    ],
)
def test_what_a_job_says_of_its_features_stands(
    method: str, features: dict[str, Any], pool: list[str], width: int
) -> None:
    found = job(method=method, features=features)
    assert (found.features.pool, found.num_features) == (pool, width)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"stages": ["layer9"]}, "features.stages: unknown stage of resnet18: 'layer9'; did you mean 'layer"),
        (
            {"stages": "first"},
            "features.stages: unknown stage of resnet18: 'first'; choose one of: all, last, layer1.1,",
        ),
        ({"stages": 3}, "features.stages: expected all, last, or a list of stages of the backbone, got a int"),
        ({"stages": []}, "features.stages: expected all, last, or a list of stages of the backbone, got an empty list"),
        ({"stages": ["layer1.1", "layer1.1"]}, "features.stages: each once, got layer1.1, layer1.1"),
        ({"pool": ["mean", "mean"]}, "features.pool: each once, got mean, mean"),
        ({"pool": ["sum"]}, "features.pool[0]: input should be 'mean' or 'max', got 'sum'"),
        ({"pool": "mean"}, "features.pool: input should be a valid list, got 'mean'"),
        ({"mirror": 1}, "features.mirror: expected true or false, got 1"),
        ({"stage": "all"}, "features.stage: unknown key; did you mean 'stages'?; the keys here are: mirror, pool, "),
    ],
)
def test_features_that_are_refused(features: dict[str, Any], expected: str) -> None:
    assert problem(features=features).startswith(expected)


def test_mirrored_views_are_examples_too() -> None:
    assert job(modality="chest-xray").examples_per_image == 2
    assert job(modality="chest-xray", features={"views": 3}).examples_per_image == 6
    assert job(modality="chest-xray", features={"mirror": False, "views": 3}).examples_per_image == 3
    assert job().examples_per_image == 1
