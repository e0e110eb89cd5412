"""The choice of a backbone and its weights: what is accepted, and what is refused."""

from typing import Any

import pytest

from common.backbone_choice import Backbone
from common.config_file import parse
from common.errors import ConfigError

DIGEST = "ab" * 32


def choice(weights: Any) -> Backbone:
    return parse(Backbone, {"name": "resnet18", "weights": weights}, "backbone")


def test_the_forms_of_weights() -> None:
    assert choice("random") == choice({"name": "random", "seed": 0})
    assert choice("random").weights.random
    assert choice("IMAGENET1K_V1") == choice({"name": "IMAGENET1K_V1"})
    assert not choice("IMAGENET1K_V1").weights.random
    assert choice({"file": "a.safetensors", "sha256": DIGEST}).weights.file == "a.safetensors"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "expected a torchvision weights name"),
        ({"name": "X", "file": "a.safetensors", "sha256": DIGEST}, "expected a torchvision weights name"),
        ({"file": "a.safetensors"}, "a weights file needs its sha256"),
        ({"file": "a.safetensors", "sha256": DIGEST.upper()}, "a weights file needs its sha256"),
        ({"file": "a.safetensors", "sha256": DIGEST + "\n"}, "a weights file needs its sha256"),
        ({"file": "a.pth", "sha256": DIGEST}, "file: expected the bare name of a .safetensors file"),
        ({"file": "../a.safetensors", "sha256": DIGEST}, "file: expected the bare name of a .safetensors file"),
        ({"file": "/etc/a.safetensors", "sha256": DIGEST}, "file: expected the bare name of a .safetensors file"),
        ({"file": "a\x00.safetensors", "sha256": DIGEST}, "file: expected the bare name of a .safetensors file"),
        ({"name": "IMAGENET1K_V1", "sha256": DIGEST}, "sha256 goes with file"),
        ({"name": "IMAGENET1K_V1", "seed": 1}, "seed goes with {name: random} only"),
        ({"name": "random"}, "{name: random} needs a seed"),
        (3, "expected a mapping of keys to values, got 3"),
    ],
)
def test_weights_that_are_refused(value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choice(value)
    [problem] = str(caught.value).splitlines()[1:]
    assert problem.startswith(f"  - weights: {expected}")
