"""Rules for judging and for the run: validation patients, the metric, intervals, quorum, deadline, disk."""

import math
from collections.abc import Iterator

from simulation.advice import sources as source
from simulation.advice.method import FEW_FOR_CHOICE, IMBALANCED
from simulation.advice.recommendation import Plan, Recommendation
from simulation.advice.situation import Situation
from simulation.advice.speed import epoch_seconds, pass_seconds, shown_seconds

FEW_TESTED = 100
"""Test patients below which intervals are too wide to compare models."""

RARE = 10.0
ACTIVATIONS_GB = 8.0


def validation(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """Enough validation patients to choose with; more of them where the job's fraction gives too few."""
    data, now = situation.data, situation.job.evaluation.validation_fraction
    found = data.patients("validation")
    if found >= FEW_FOR_CHOICE:
        return
    everyone = sum(data.patients(part) for part in ("train", "validation", "test"))
    if data.hospitals and all(one.split_given for one in data.hospitals):
        reason = f"the manifests give {found} validation patients; write split: validation for {FEW_FOR_CHOICE} or more"
        yield Recommendation("evaluation.validation_fraction", now, reason, source.COUNTED, "note")
        return
    room = 0.95 - situation.job.evaluation.test_fraction
    wanted = round(min(0.25, room, FEW_FOR_CHOICE / max(everyone, 1)), 2)
    if wanted > now:
        reason = f"{found} of {everyone} patients are for validation at {now:g}: too few to choose a head with"
        yield Recommendation("evaluation.validation_fraction", wanted, reason, source.INTERVALS)


def intervals(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """A word of warning where the test patients say little."""
    tested = situation.data.patients("test")
    if tested < FEW_TESTED:
        half = 0.98 / math.sqrt(tested) if tested else 1.0
        reason = f"{tested} test patients: an accuracy is known to within {min(half, 0.5):.2f} only; read the intervals"
        yield Recommendation(
            "evaluation.test_fraction", situation.job.evaluation.test_fraction, reason, source.INTERVALS, "note"
        )


def select_by(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """A metric that a common class cannot carry alone."""
    ratio, now, train = situation.data.imbalance, situation.job.evaluation.select_by, situation.data.train
    if ratio < IMBALANCED:
        return
    reason = f"the largest class has {ratio:.1f} times the images of the smallest"
    if ratio >= RARE and len(train) == 2 and train[1] < train[0]:
        rare = f"{reason}: AUROC looks good even where most alarms are false"
        yield Recommendation("evaluation.select_by", "average_precision", rare, source.PRECISION_RECALL)
    elif now in ("accuracy", "f1", "log_loss"):
        yield Recommendation("evaluation.select_by", "auroc", f"{reason}, which carries {now} alone", source.BALANCE)


def quorum(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """Two thirds of the hospitals, two at least: a round stands though one is missing, and no sum is of one alone."""
    number = len(situation.data.training)
    wanted = max(min(2, number), math.ceil(number * 2 / 3))
    reason = f"{number} hospitals have training images: a round stands with two thirds of them, and with 2 at the least"
    yield Recommendation("quorum.min_hospitals", wanted, reason, source.COUNTED)


def deadline(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Three times what the slowest hospital is estimated to need for the longest answer."""
    once = pass_seconds(situation, plan.backbone, plan.size_px, plan.views)
    epoch = epoch_seconds(situation, plan.backbone, plan.size_px) if plan.deep else None
    longest = max(filter(None, (once, epoch)), default=None)
    now = situation.job.quorum.deadline_s
    if longest is not None and 3 * longest > now:
        wanted = math.ceil(3 * longest / 60) * 60
        reason = (
            f"the slowest hospital needs about {shown_seconds(longest)} for its longest answer, {now:g} s are allowed"
        )
        yield Recommendation("quorum.deadline_s", wanted, reason, "three times the estimate")


def disk(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Room for cached activations, where there are any."""
    if plan.tune != "last-blocks":
        return
    free = {name: machine.disk_free_gb for name, machine in situation.machines.items()}
    full = [f"{name} {gb:.0f} GB" for name, gb in free.items() if gb is not None and gb < ACTIVATIONS_GB]
    if full:
        reason = (
            f"free disk is short ({', '.join(full)}): with less than {ACTIVATIONS_GB:.0f} GB set activation_cache_gb lower in "
            "the hospital file; activations that do not fit are computed again in every round"
        )
        yield Recommendation("activation_cache_gb", None, reason, source.COUNTED, "note")
