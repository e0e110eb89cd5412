"""The part of a job that chooses the frozen network and its weights."""

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from common.backbones import BACKBONES
from common.config_file import Section, unknown

Seed = Annotated[int, Field(ge=0, lt=2**63)]
_WEIGHTS_FILE = re.compile(r"\w[\w.+-]{0,119}\.safetensors")


class Weights(Section):
    """Where the backbone's weights come from: a torchvision name, a digest-pinned file, or random (demonstrations)."""

    name: str | None = None
    file: str | None = None
    sha256: str | None = None
    seed: Seed | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if value == "random":
            return {"name": "random", "seed": 0}
        if isinstance(value, str):
            return {"name": value}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.file is None):
            raise ValueError(
                "expected a torchvision weights name (IMAGENET1K_V1), {file: ..., sha256: ...}, or random; "
                f"got {self.model_dump(exclude_none=True) or 'nothing'}"
            )
        if self.file is not None:
            if self.sha256 is None or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
                raise ValueError(
                    "a weights file needs its sha256 (64 lower-case hex digits), so that every hospital loads "
                    f"the same weights; got {self.sha256!r}; run: sha256sum {self.file}"
                )
            if not _WEIGHTS_FILE.fullmatch(self.file):
                raise ValueError(
                    f"file: expected the bare name of a .safetensors file in the weights directory, got {self.file!r}"
                )
        elif self.sha256 is not None:
            raise ValueError("sha256 goes with file; a torchvision weights name is checked by torchvision itself")
        if self.seed is not None and self.name != "random":
            raise ValueError("seed goes with {name: random} only")
        if self.name == "random" and self.seed is None:
            raise ValueError("{name: random} needs a seed, so that every hospital has the same network")
        return self

    @property
    def random(self) -> bool:
        """Whether the weights are random: for demonstrations only."""
        return self.name == "random"


class Backbone(Section):
    """The frozen network whose features the head reads."""

    name: str
    weights: Weights

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(unknown("backbone", name, list(BACKBONES)))
        return name
