"""Rules for the network: which backbone, and at which image size."""

from collections.abc import Iterator

from common.backbones import backbone_row
from simulation.advice import sources as source
from simulation.advice.recommendation import Plan, Recommendation
from simulation.advice.situation import Measured, Situation
from simulation.advice.speed import operations, pass_seconds, shown_seconds

FOR_CPU = ("mobilenet_v2", "efficientnet_b0", "mobilenet_v3_large", "resnet18", "squeezenet1_1", "squeezenet1_0")
FOR_GPU = ("densenet121", "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenet_v2", "resnet18")
"""Backbones to prefer, best first: small ones without a GPU, wider ones with one."""

LONG_PASS_S = 3600.0
"""Longer than this over all images of a hospital, a backbone is too slow for its machine."""

LARGER_FROM = 1000
"""Training images of the rarest class from which larger images are worth their time."""

TIED = 0.005
"""Scores this close count as equal, and the cheaper backbone wins."""


def backbone(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """The best one measured; else the job's own, unless it is random or too slow and a better one is at hand."""
    best, own = best_measured(situation), plan.backbone
    if best:
        yield Recommendation("backbone.name", best.backbone, _measured(situation, best), source.HERE)
        yield from _weights(situation, plan, best.backbone)
        return
    wanted = FOR_GPU if situation.gpus else FOR_CPU
    hand = {file.backbone for file in situation.weights} | (set() if plan.random else {own})
    better = next((name for name in wanted if name in hand), own)
    chosen, reason = _chosen(situation, plan, better, better in hand, own in wanted)
    lost = [name for name in wanted[:4] if name not in hand]
    others = (
        f"weights of {', '.join(lost)} are not at hand (no network was asked)" if lost else "others are at hand too"
    )
    yield Recommendation("backbone.name", chosen, f"{reason}; {others}", source.TRANSFER)
    yield from _weights(situation, plan, chosen)


def _chosen(situation: Situation, plan: Plan, better: str, at_hand: bool, fitting: bool) -> tuple[str, str]:
    """The job's backbone or the `better` one, and why; fitting: the job's suits the machines too."""
    own, seconds = plan.backbone, pass_seconds(situation, plan.backbone, plan.size_px)
    where = "every hospital has a GPU, so width costs little" if situation.gpus else "the slowest hospital has no GPU"
    took = f"all its images pass it in about {shown_seconds(seconds)} at the slowest hospital"
    slow = seconds is not None and seconds > LONG_PASS_S
    if plan.random and at_hand:
        return better, f"random weights know nothing of images, and those of {better} are at hand; {where}"
    if plan.random:
        return own, f"its weights are random: a demonstration, never a diagnosis; {where}; {took}"
    if better != own and (slow or not fitting or situation.gpus):
        times = operations(own, plan.size_px) / operations(better, plan.size_px)
        cost = f"{times:.1f} times less to compute" if times > 1 else f"{1 / times:.1f} times more to compute"
        return better, f"{where}; with {own} {took}; {better} is at hand and {cost}"
    return own, f"the job's own; {where}; {took}"


def _weights(situation: Situation, plan: Plan, chosen: str) -> Iterator[Recommendation]:
    """The file at hand, where the job has another network or other weights."""
    file = next((one for one in situation.weights if one.backbone == chosen), None)
    if file is None:
        return
    if chosen != plan.backbone or plan.random:
        reason = "the file at hand; its sha256, computed here, pins it for every hospital"
        yield Recommendation("backbone.weights", file, reason, source.HERE)
    elif situation.job.backbone.weights.file == file.file and situation.job.backbone.weights.sha256 != file.sha256:
        reason = f"{file.file} at hand has sha256 {file.sha256}, not the one in the job: another file, or a damaged one"
        yield Recommendation("backbone.weights", file, reason, source.HERE, "note")


def best_measured(situation: Situation) -> Measured | None:
    """The cheapest of the backbones that are as good as the best on validation patients; None if nothing was measured."""
    scored = [(one.score, one) for one in situation.measured if one.score is not None]
    if not scored:
        return None
    sign = -1.0 if situation.job.evaluation.select_by == "log_loss" else 1.0
    top = max(sign * score for score, _ in scored)
    near = [one for score, one in scored if sign * score >= top - TIED]
    return min(near, key=lambda one: (one.seconds_per_1000, one.sums_bytes))


def image_size(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Never larger than the images are; larger than usual only where details, images and a GPU are there."""
    row = backbone_row(plan.backbone)
    now = min(max(situation.job.image.size or row.size_px, row.least_px), row.most_px)
    smallest = min((one.side_px for one in situation.data.hospitals if one.side_px), default=None)
    if smallest is None or situation.measured:
        why = "measured at this size" if situation.measured else "no image was looked at"
        yield Recommendation("image.size", now, why, source.HERE)
        return
    fits = max(row.least_px, smallest // 32 * 32)
    if smallest < 0.75 * now and fits < now:
        seen = f"half of the images of one hospital are {smallest} pixels or less"
        reason = f"{seen}: {now} adds no detail and takes {(now / fits) ** 2:.1f} times the time"
        yield Recommendation("image.size", fits, reason, source.RESOLUTION)
    elif situation.gpus and smallest >= 512 and now < 320 <= row.most_px and min(situation.data.train) >= LARGER_FROM:
        reason = (
            f"images are {smallest} pixels across or more and every hospital has a GPU: small findings show at 320, for "
            f"{(320 / now) ** 2:.1f} times the time of {now}"
        )
        yield Recommendation("image.size", 320, reason, source.RESOLUTION)
    else:
        reason = f"the images of every hospital are {smallest} pixels across or more (median)"
        yield Recommendation("image.size", now, reason, source.RESOLUTION)


def _measured(situation: Situation, best: Measured) -> str:
    tried = len({one.backbone for one in situation.measured})
    of = f"the best of {tried} backbones" if tried > 1 else "the only backbone at hand"
    bounds = f" (95 % {best.interval[0]:.3f} to {best.interval[1]:.3f})" if best.interval else ""
    return (
        f"measured here: {of} on {situation.data.patients('validation')} validation patients, "
        f"{situation.job.evaluation.select_by} {best.score:.3f}{bounds} with stages: {best.stages}, "
        f"{best.seconds_per_1000:.0f} s per 1,000 images"
    )
