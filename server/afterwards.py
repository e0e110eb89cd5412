"""What is asked once the model is there: each hospital's own head at every hospital, and personalised models.

Both come back as counts. The heads of `cross_site` are new updates that leave the hospitals, so the job must ask for them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.head import Float32
from common.messages import unpack_counts, unpack_model
from common.metrics import ClassificationCounts
from common.model import Model
from common.wire import PERSONALISED
from server.questions import Questions

log = logging.getLogger(__name__)

GLOBAL = "all hospitals"
"""Who trained the global model, in the rows of the cross-site matrix."""

CrossSite = Mapping[str, Mapping[str, ClassificationCounts]]
"""Who trained the head -> where it was counted -> counts of the test patients there."""

Personal = Mapping[str, Mapping[str, Mapping[str, ClassificationCounts]]]
"""Hospital -> part (validation, test) -> model (`common.wire.PERSONALISED`) -> counts of its own patients."""


@dataclass(frozen=True)
class Afterwards:
    """Empty where the job does not ask for it. dropped: hospitals missing from a part of it, with the reason."""

    cross_site: CrossSite = field(default_factory=dict)
    personal: Personal = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


def afterwards(
    questions: Questions,
    model: Model,
    number: int,
    pretrained: Mapping[str, Float32],
    test: Mapping[str, ClassificationCounts],
) -> Afterwards:
    """What the job asks for besides the model, which reads standardised features and was made by round `number`.

    pretrained: the arrays that the job tunes as they were before; the hospitals' own heads read them. test: counts of the
    model on the test patients of each hospital.
    """
    job = questions.job
    cross: CrossSite = {}
    personal: Personal = {}
    dropped: dict[str, str] = {}
    if job.evaluation.cross_site:
        with questions.meter.phase("cross-site"):
            cross = {GLOBAL: test, **_own_heads(questions, pretrained, dropped)}
    if job.personalisation is not None:
        with questions.meter.phase("personalise"):
            personal = _personal(questions, model, number, dropped)
    for name, reason in dropped.items():
        log.warning("%s is missing from a part of the figures: %s", name, reason)
    return Afterwards(cross, personal, dropped)


def _own_heads(questions: Questions, pretrained: Mapping[str, Float32], dropped: dict[str, str]) -> CrossSite:
    told = questions.ask("own")
    heads = {name: unpack_model(reply.arrays).head for name, reply in told.good.items()}
    every, phase = list(heads.values()), "cross-site"
    counted, uncounted = questions.count_heads(every, "test", tuned=pretrained, phase=phase) if heads else ({}, {})
    dropped |= {name: f"cross-site: {reason}" for name, reason in {**told.dropped, **uncounted}.items()}
    return {name: {where: counts[index] for where, counts in counted.items()} for index, name in enumerate(heads)}


def _personal(questions: Questions, model: Model, number: int, dropped: dict[str, str]) -> Personal:
    found: dict[str, dict[str, dict[str, ClassificationCounts]]] = {}
    for part in ("validation", "test"):
        told = questions.ask(
            "personalise", model.arrays(), {"part": part, "round": number}, part=part, heads=len(PERSONALISED)
        )
        dropped |= {name: f"personalisation: {reason}" for name, reason in told.dropped.items()}
        for name, reply in told.good.items():
            counts = unpack_counts(reply.arrays)
            found.setdefault(name, {})[part] = dict(zip(PERSONALISED, counts, strict=True))
    return {name: parts for name, parts in found.items() if len(parts) == 2}
