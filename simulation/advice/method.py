"""Rules for the method: closed form or rounds, which rounds, its settings, and what to keep away from.

Letters: N training images, D features.
"""

from collections.abc import Iterator

from simulation.advice import sources as source
from simulation.advice.recommendation import Plan, Recommendation
from simulation.advice.situation import UNLIKE_LABELS, UNLIKE_SIZES, Situation
from simulation.advice.speed import epoch_seconds, shown_megabytes, shown_seconds
from simulation.advice.tuning import DEEP_ROUNDS, HEAD_LR

STRONG_RIDGE = (0.1, 0.3, 1.0, 3.0)
ONE_RIDGE = (1.0,)
FEW_FOR_CHOICE = 20
"""Validation patients below which choosing among ridge strengths is chance."""

FEATURES_PER_IMAGE = 4
"""More features than this for each training image leave weak ridges no chance."""

IMBALANCED = 3.0
ROBUST = ("krum", "multikrum", "bulyan", "fedmedian", "trimmed-mean")
"""Methods that leave out what is unlike the rest."""


def method(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """The closed form for the head; for more, rounds that start from it."""
    data = situation.data
    if not plan.deep:
        sent = f"one round of {shown_megabytes(plan.bytes(situation.job.num_classes))} a hospital"
        yield Recommendation("method.name", "analytic", f"{_split(situation)}; {sent}", source.FED3R)
        return
    skew, ratio = data.mean_label_skew, data.size_ratio
    if skew >= UNLIKE_LABELS or data.one_class:
        why = f"labels differ between hospitals (mean distance {skew:.2f} of 1): control variates take out their drift"
        yield Recommendation("method.name", "scaffold", f"{why}, for twice the bytes", source.SCAFFOLD)
    elif ratio >= UNLIKE_SIZES:
        why = f"the largest hospital has {ratio:.0f} times the images of the smallest, and makes as many more steps"
        yield Recommendation("method.name", "fednova", why, source.FEDNOVA)
    else:
        why = f"hospitals are alike: mean label distance {skew:.2f}, largest {ratio:.1f} times the smallest"
        yield Recommendation("method.name", "fedavg", why, source.FEDAVG)


def settings(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Of rounds: their start and number. Of the closed form: how strong the ridge, by how much there is to choose with."""
    if plan.deep:
        start = "the closed-form head is there after one round, whatever the split; rounds from zero would first have to find it"
        yield Recommendation("method.warm_start", "analytic", start, f"{source.FED3R}; {source.LINEAR_FIRST}")
        epoch = shown_seconds(epoch_seconds(situation, plan.backbone, plan.size_px))
        each = f"from that start few rounds are needed; each takes the slowest hospital about {epoch}"
        yield Recommendation("method.rounds", DEEP_ROUNDS, each, source.LINEAR_FIRST)
        follows = (
            "the head begins at its optimum: it should follow the blocks, not run ahead and fit the training images"
        )
        yield Recommendation("method.lr", HEAD_LR, follows, source.DEEP_GAIN)
        return
    n, validation = situation.data.n, situation.data.patients("validation")
    if validation < FEW_FOR_CHOICE:
        chance = f"{validation} validation patients: choosing among many heads with them is chance, so one strong ridge"
        yield Recommendation("method.ridge", ONE_RIDGE, f"{chance} for {n} images", source.RIDGE)
        if plan.projection is None:
            yield Recommendation("method.stage_subsets", False, "nor can subsets of stages be told apart", source.RIDGE)
    elif n * FEATURES_PER_IMAGE < plan.features:
        reason = f"{n:,} training images for {plan.features:,} features: only a strong ridge holds them"
        yield Recommendation("method.ridge", STRONG_RIDGE, reason, source.RIDGE)


def class_weights(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Both ways tried where that can be judged, balanced where classes differ much, else none."""
    ratio = situation.data.imbalance
    counted = f"the largest class has {ratio:.1f} times the images of the smallest"
    if plan.deep:
        yield _weights("balanced" if ratio >= IMBALANCED else "none", counted)
    elif situation.data.patients("validation") >= FEW_FOR_CHOICE:
        yield _weights("choose", f"{counted}; both ways are tried on validation patients, for no further round")
    else:
        yield _weights(
            "balanced" if ratio >= IMBALANCED else "none", f"{counted}; too few validation patients to try both"
        )


def against(situation: Situation, _: Plan) -> Iterator[Recommendation]:
    """What hurts with hospitals like these."""
    data, asked = situation.data, situation.job.method.name
    if data.unlike:
        named = asked if asked in ROBUST else "krum"
        reason = f"{_difference(situation)}: it takes a hospital that differs for a wrong one and leaves it out"
        yield Recommendation("method.name", named, reason, source.KRUM, "avoid")
    if data.one_class:
        reason = (
            f"hospitals of one class ({', '.join(data.one_class)}) would pull every round towards it: a method of rounds only "
            "from warm_start: analytic"
        )
        yield Recommendation("method.warm_start", "none", reason, source.NON_IID, "avoid")


def _split(situation: Situation) -> str:
    if situation.data.unlike:
        return f"{_difference(situation)}; the closed form is the head of all images together, whatever the split"
    return f"{situation.data.n:,} training images: the closed form is the head of all of them together, without rounds"


def _difference(situation: Situation) -> str:
    data = situation.data
    parts = []
    if data.one_class:
        parts.append(f"{', '.join(data.one_class)} {'has' if len(data.one_class) == 1 else 'have'} one class only")
    if data.mean_label_skew >= UNLIKE_LABELS:
        parts.append(f"labels differ (mean distance {data.mean_label_skew:.2f} of 1)")
    if data.size_ratio >= UNLIKE_SIZES:
        parts.append(f"the largest hospital has {data.size_ratio:.0f} times the images of the smallest")
    return "hospitals are unlike: " + ", ".join(parts)


def _weights(value: str, reason: str) -> Recommendation:
    return Recommendation("method.class_weights", value, reason, source.BALANCE)
