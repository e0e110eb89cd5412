"""What a piece of advice is, and what is decided so far while the rules are gone through."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from common.backbones import feature_blocks
from simulation.advice.situation import Situation, WeightsFile
from simulation.advice.speed import sums_bytes

Value = str | int | float | bool | tuple[str, ...] | tuple[float, ...] | WeightsFile | None
Kind = Literal["recommended", "avoid", "note"]


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice.

    key: the place in a job file, `method.name`; of a note also in a hospital's file. value: what belongs there.
    reason: a sentence with the numbers it rests on. source: a paper, or where it was measured.
    kind: `avoid` advises against the value; a `note` sets nothing.
    """

    key: str
    value: Value
    reason: str
    source: str
    kind: Kind = "recommended"


@dataclass(frozen=True)
class Plan:
    """The decisions that later rules build on; it begins with what the job says."""

    backbone: str
    random: bool
    size_px: int
    tune: str
    stages: str | tuple[str, ...]
    pool: tuple[str, ...]
    mirror: bool
    method: str
    projection: int | None
    validation_fraction: float

    def after(self, decided: Recommendation) -> "Plan":
        """The plan with one more decision."""
        field = _FIELDS.get(decided.key)
        if decided.kind != "recommended" or field is None:
            return self
        random = self.random and (field != "backbone" or decided.value == self.backbone)
        return replace(self, **{field: decided.value, "random": random})  # type: ignore[arg-type]  # the key's own type

    @property
    def deep(self) -> bool:
        """Whether more than the head is trained."""
        return self.tune != "head"

    @property
    def features(self) -> int:
        """D."""
        stages = (self.stages,) if isinstance(self.stages, str) else self.stages
        return feature_blocks(self.backbone, stages, self.pool)[-1].stop

    @property
    def views(self) -> int:
        """Passes of one image: with its mirror image, or alone."""
        return 2 if self.mirror else 1

    def bytes(self, classes: int) -> int:
        """Bytes of the sums that each hospital sends once."""
        return sums_bytes(self.projection or self.features, classes)


_FIELDS = {
    "backbone.name": "backbone",
    "image.size": "size_px",
    "tune.part": "tune",
    "features.stages": "stages",
    "features.pool": "pool",
    "features.mirror": "mirror",
    "method.name": "method",
    "method.projection": "projection",
    "evaluation.validation_fraction": "validation_fraction",
}

Rule = Callable[[Situation, Plan], Iterable[Recommendation]]
"""A rule says something about a situation and the plan so far, or nothing."""


def plan_of(situation: Situation) -> Plan:
    """The plan before any rule: the job as it is."""
    job = situation.job
    stages = job.features.stages
    return Plan(
        backbone=job.backbone.name,
        random=job.backbone.weights.random,
        size_px=job.size_px,
        tune=job.tune.part,
        stages=stages if isinstance(stages, str) else tuple(stages),
        pool=tuple(job.features.pool),
        mirror=job.features.mirror,
        method=job.method.name,
        projection=job.method.projection,
        validation_fraction=job.evaluation.validation_fraction,
    )
