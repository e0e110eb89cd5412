"""The part of a job that says what is taken from the backbone, and what it is if the job leaves it open."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from common.config_file import Section
from common.methods import DEFAULT as DEFAULT_METHOD
from common.methods import METHODS
from common.modalities import MODALITIES


class Features(Section):
    """What is taken from the backbone; what is left out is filled in by the job (`fill_features`).

    stages: `all`, `last`, or a list of stages of the backbone. pool: how a stage becomes a vector. mirror: each image is
    seen with its mirror image (both are examples in training, their scores are averaged in diagnosis). views > 1: that
    many augmented copies of each training image.
    """

    stages: Literal["all", "last"] | Annotated[list[str], Field(min_length=1)]
    pool: Annotated[list[Literal["mean", "max"]], Field(min_length=1, max_length=2)]
    mirror: bool
    views: Annotated[int, Field(ge=1, le=32)] = 1

    @field_validator("stages", mode="before")
    @classmethod
    def _named(cls, stages: Any) -> Any:
        """A bare name is a list of one."""
        if isinstance(stages, str):
            return stages if stages in ("all", "last") else [stages]
        if not isinstance(stages, list) or not stages:
            got = "an empty list" if stages == [] else f"a {type(stages).__name__}"
            raise ValueError(f"expected all, last, or a list of stages of the backbone, got {got}")
        return stages

    @field_validator("stages", "pool")
    @classmethod
    def _each_once(cls, names: Any) -> Any:
        if isinstance(names, list) and len(set(names)) < len(names):
            raise ValueError(f"each once, got {', '.join(names)}")
        return names


def fill_features(given: Any, method: Any, modality: Any) -> Any:
    """The features a job leaves open: several levels for the closed-form head, the last one for the others."""
    if not isinstance(given, dict):
        return given
    name = method.get("name", DEFAULT_METHOD) if isinstance(method, dict) else method
    row = METHODS.get(name) if isinstance(name, str) else None
    closed = row is not None and not row.iterative
    closed = closed or (isinstance(method, dict) and method.get("warm_start") == "analytic")
    mirror = closed and isinstance(modality, str) and modality in MODALITIES and MODALITIES[modality].mirror
    return {"stages": "all" if closed else "last", "pool": ["mean"], "mirror": mirror, **given}
