"""What of the network a job trains: the head alone, its last blocks too, or everything."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from common.config_file import Section
from common.methods import Count, LearningRate

Part = Literal["head", "last-blocks", "full"]
PARTS_TUNED: tuple[Part, ...] = get_args(Part)

_OPTIONS: Mapping[str, object] = MappingProxyType(
    {"lr": 1e-3, "schedule": "cosine", "views": 4, "accumulate": 1, "batch_norm": "frozen"}
)
OPTIONS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"head": {}, "last-blocks": {"blocks": 4, **_OPTIONS}, "full": dict(_OPTIONS)}
)
"""The options each part takes, with their defaults."""


class Tune(Section):
    """What is trained, and how the part of the backbone that is.

    part: `head` leaves the backbone frozen; `last-blocks` trains its last `blocks` too; `full` all of it.
    lr: learning rate of the backbone's part (the head's is `method.lr`). schedule: over the rounds, `constant` or `cosine`
    (down to nothing). views: augmented views of each training image that the epochs draw from; 1 is the image alone.
    accumulate: batches added up for one step. batch_norm: `frozen` keeps scale, shift and statistics as pretrained; `local`
    trains them and keeps them in the hospital (FedBN: Li et al. 2021, arXiv 2102.07623).
    """

    part: Part = "head"
    blocks: Annotated[int, Field(ge=1, le=100)] | None = None
    lr: LearningRate | None = None
    schedule: Literal["constant", "cosine"] | None = None
    views: Annotated[int, Field(ge=1, le=1000)] | None = None
    accumulate: Count | None = None
    batch_norm: Literal["frozen", "local"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"part": value}
        if not isinstance(value, dict):
            return value
        part = value.get("part", "head")
        return {**OPTIONS[part], **value} if isinstance(part, str) and part in OPTIONS else value

    @field_validator("blocks", "lr", "schedule", "views", "accumulate", "batch_norm", mode="before")
    @classmethod
    def _of_this_part(cls, value: Any, info: ValidationInfo) -> Any:
        """Null stands for an option of other parts, as in the canonical JSON."""
        part, option = info.data.get("part"), str(info.field_name)
        if part is None:
            return value
        if option not in OPTIONS[part] and value is not None:
            choices = ", ".join(OPTIONS[part]) or "none"
            raise ValueError(f"not an option of tune: {part}; the options of {part} are: {choices}")
        if option in OPTIONS[part] and value is None:
            raise ValueError(f"expected a value, got null; leave the key out for the default, {OPTIONS[part][option]}")
        return value

    @property
    def deep(self) -> bool:
        """Whether any of the backbone is trained."""
        return self.part != "head"

    @property
    def local_batch_norm(self) -> bool:
        """Whether batch normalisation is trained and stays in each hospital (FedBN)."""
        return self.batch_norm == "local"
