"""Rules for the features: which stages, how they are pooled, mirror images, and how wide their sums may be.

Letters: N training images, D features.
"""

from collections.abc import Iterator
from dataclasses import replace

from common.modalities import MODALITIES, OTHER
from simulation.advice import sources as source
from simulation.advice.network import best_measured
from simulation.advice.recommendation import Plan, Recommendation
from simulation.advice.situation import Situation
from simulation.advice.speed import shown_megabytes, sums_bytes

FEW_IMAGES = 200
"""Training images of all hospitals below which several stages only add ways to fit noise."""

MOST_BYTES = 50e6
"""Of the sums that a hospital sends once, where no network is stated."""

NETWORK_S = 60.0
"""How long they may take where it is."""

PROJECTIONS = (4096, 2048, 1024, 512, 256)


def mirror(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """As the modality allows; what is not known is not mirrored."""
    modality = situation.job.modality
    row = MODALITIES[modality]
    if row.mirror:
        reason = f"{modality}: {row.why}; {2 * situation.data.n:,} training examples of {situation.data.n:,} images"
        yield Recommendation("features.mirror", True, reason, "common/modalities.py")
    elif modality == OTHER:
        names = ", ".join(name for name in MODALITIES if name != OTHER)
        reason = f"the job names no modality, and what is not known is not mirrored; write modality: one of {names}"
        yield Recommendation("features.mirror", False, reason, "common/modalities.py")
    else:
        yield Recommendation("features.mirror", False, f"{modality}: {row.why}", "common/modalities.py")


def stages(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """The means of all stages; the last stage with few images."""
    n, last = situation.data.n, replace(plan, stages="last", pool=("mean",)).features
    best = best_measured(situation)
    if best:
        score = f"{situation.job.evaluation.select_by} {best.score:.3f} on validation patients"
        yield from _taken(best.stages, f"measured here: {score} with {plan.backbone}", source.HERE)
    elif n < FEW_IMAGES:
        reason = f"{n} training images against {last:,} features of the last stage alone; more would fit their noise"
        yield from _taken("last", reason, source.RIDGE)
    else:
        means = replace(plan, stages="all", pool=("mean",)).features
        size = f"{shown_megabytes(sums_bytes(means, situation.job.num_classes))} of sums a hospital, once"
        reason = f"{means:,} features instead of {last:,} for {n:,} training images; {size}"
        yield from _taken("all", reason, source.MULTILEVEL)


def projection(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """A random projection where even so the sums would be too many bytes; rounds start from the last stage instead."""
    classes, most = situation.job.num_classes, most_bytes(situation)
    now = sums_bytes(plan.features, classes)
    if now <= most:
        return
    if plan.deep:
        last = replace(plan, stages="last", pool=("mean",)).features
        reason = (
            f"{shown_megabytes(now)} of sums a hospital are too many, and only the method analytic can project them"
        )
        yield from _taken("last", f"{reason}; the last stage has {last:,} features", source.PROJECTION)
        return
    width = next((width for width in PROJECTIONS if sums_bytes(width, classes) <= most), PROJECTIONS[-1])
    if width >= plan.features:
        return
    mbit = situation.least_network
    network = f"{mbit:g} Mbit/s allow in {NETWORK_S:.0f} s" if mbit else "is the bound without a stated network"
    reason = (
        f"{plan.features:,} features make {shown_megabytes(now)} of sums a hospital, {shown_megabytes(most)} {network}; "
        f"projected to {width:,} they are {shown_megabytes(sums_bytes(width, classes))}"
    )
    yield Recommendation("method.projection", width, reason, source.PROJECTION)
    alone = "a projection mixes the stages, so no subset of them can be tried"
    yield Recommendation("method.stage_subsets", False, alone, source.PROJECTION)


def most_bytes(situation: Situation) -> float:
    """Bytes that the sums of a hospital may have."""
    mbit = situation.least_network
    return min(MOST_BYTES, mbit * 1e6 / 8 * NETWORK_S) if mbit else MOST_BYTES


def _taken(stage: str, reason: str, where: str) -> Iterator[Recommendation]:
    yield Recommendation("features.stages", stage, reason, where)
    pooled = "the mean over the positions of a stage; the maxima as well are twice the width and four times the bytes"
    yield Recommendation("features.pool", ("mean",), pooled, source.POOLING)
