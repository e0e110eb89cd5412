"""Rules for the network: which backbone, at which image size, and how much of it is trained."""

from collections.abc import Iterator

from common.backbones import backbone_row
from simulation import advice_sources as source
from simulation.advice import Plan, Recommendation
from simulation.situation import Measured, Situation
from simulation.speed import epoch_seconds, operations, pass_seconds, shown_megabytes, shown_seconds

FOR_CPU = ("mobilenet_v2", "efficientnet_b0", "mobilenet_v3_large", "resnet18", "squeezenet1_1", "squeezenet1_0")
FOR_GPU = ("densenet121", "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenet_v2", "resnet18")
"""Backbones to prefer, best first: small ones without a GPU, wider ones with one."""

NO_BATCH_NORM = ("vgg16", "squeezenet1_0", "squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t")
LONG_PASS_S = 3600.0
"""Longer than this over all images of a hospital, a backbone is too slow for its machine."""

TIED = 0.005
"""Scores this close count as equal, and the cheaper backbone wins."""

BLOCKS_FROM, FULL_FROM = 1000, 5000
"""Training images of the rarest class from which the last blocks, and the whole network, are worth training."""

LAST_BLOCKS_GB, FULL_GB = 4.0, 12.0
"""GPU memory they need with 64 images at once."""

LONG_ROUND_S = 1800.0
BATCH_NORM_FROM = 200
"""Training images of a hospital from which its batch normalisations have statistics of their own."""

DEEP_ROUNDS = 6


def backbone(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """The best one measured; else the job's own, unless it is random or too slow and a better one is at hand."""
    best, own = best_measured(situation), plan.backbone
    if best:
        yield Recommendation("backbone.name", best.backbone, _measured(situation, best), source.HERE)
        yield from _weights(situation, plan, best.backbone)
        return
    wanted = FOR_GPU if situation.gpus else FOR_CPU
    hand = {file.backbone for file in situation.weights} | (set() if plan.random else {own})
    lost = [name for name in wanted[:4] if name not in hand]
    others = (
        f"weights of {', '.join(lost)} are not at hand (no network was asked)" if lost else "all weights are at hand"
    )
    where = "every hospital has a GPU, so width costs little" if situation.gpus else "the slowest hospital has no GPU"
    seconds = pass_seconds(situation, own, plan.size_px)
    took = f"all its images pass it in about {shown_seconds(seconds)} at the slowest hospital"
    better = next((name for name in wanted if name in hand), own)
    slow = seconds is not None and seconds > LONG_PASS_S and not situation.gpus
    chosen, reason = own, f"the job's own; {where}; {took}"
    if plan.random and better in hand:
        chosen, reason = better, f"random weights know nothing of images, and those of {better} are at hand; {where}"
    elif plan.random:
        reason = f"its weights are random: a demonstration, never a diagnosis; {where}; {took}"
    elif better != own and (slow or own not in wanted or situation.gpus):
        times = operations(own, plan.size_px) / operations(better, plan.size_px)
        cost = f"{times:.1f} times less to compute" if times > 1 else f"{1 / times:.1f} times more to compute"
        chosen, reason = better, f"{where}; with {own} {took}; {better} is at hand and {cost}"
    yield Recommendation("backbone.name", chosen, f"{reason}; {others}", source.TRANSFER)
    yield from _weights(situation, plan, chosen)


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
    fits, seen = (
        max(row.least_px, smallest // 32 * 32),
        f"half of the images of one hospital are {smallest} pixels or less",
    )
    if smallest < 0.75 * now and fits < now:
        reason = f"{seen}: {now} adds no detail and takes {(now / fits) ** 2:.1f} times the time"
        yield Recommendation("image.size", fits, reason, source.RESOLUTION)
    elif situation.gpus and smallest >= 512 and now < 320 <= row.most_px and min(situation.data.train) >= BLOCKS_FROM:
        reason = (
            f"images are {smallest} pixels across or more and every hospital has a GPU: small findings show at 320, for "
            f"{(320 / now) ** 2:.1f} times the time of {now}"
        )
        yield Recommendation("image.size", 320, reason, source.RESOLUTION)
    else:
        yield Recommendation(
            "image.size",
            now,
            f"the images of every hospital are {smallest} pixels across or more (median)",
            source.RESOLUTION,
        )


def tuning(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """The head alone without GPUs or with few images of a class; else the last blocks, or everything with very many."""
    rarest, epoch = min(situation.data.train), epoch_seconds(situation, plan.backbone, plan.size_px)
    images = f"{rarest:,} training images of the rarest class"
    memory = situation.least_gpu_gb
    takes = f"an epoch with all weights takes the slowest hospital about {shown_seconds(epoch)}"
    if plan.random:
        reason = "with random weights deeper training would be training from scratch"
        yield Recommendation("tune.part", "head", reason, source.MEDICAL_TRANSFER)
    elif rarest < BLOCKS_FROM:
        reason = f"{images}: under {BLOCKS_FROM:,} deeper training mostly fits their noise"
        yield Recommendation("tune.part", "head", reason, source.LINEAR_FIRST)
    elif not situation.gpus:
        reason = f"{images}, but a hospital has no GPU: {takes}, the head one pass over the images for all rounds"
        yield Recommendation("tune.part", "head", reason, source.DEEP_COST)
    elif (memory is not None and memory < LAST_BLOCKS_GB) or (epoch is not None and epoch > LONG_ROUND_S):
        size = "a memory not stated" if memory is None else f"{memory:.0f} GB"
        reason = f"{images}, but the smallest GPU has {size} and {takes}"
        yield Recommendation("tune.part", "head", reason, source.DEEP_COST)
    else:
        yield from _deep(situation, plan, f"{images} and a GPU at every hospital", takes)


def batch_norm(situation: Situation, plan: Plan) -> Iterator[Recommendation]:
    """Local where hospitals differ and each has enough images of several classes for statistics of its own."""
    data = situation.data
    if not plan.deep or plan.backbone in NO_BATCH_NORM:
        return
    smallest = min(sum(one.train) for one in data.training)
    if not data.unlike:
        yield _batch_norm("frozen", f"hospitals are alike: mean label distance {data.mean_label_skew:.2f}")
    elif data.one_class or smallest < BATCH_NORM_FROM:
        few = f"{', '.join(data.one_class)} has one class" if data.one_class else f"one has {smallest} training images"
        yield _batch_norm("frozen", f"hospitals differ, but {few}: too little for statistics of its own")
    elif situation.job.evaluation.cross_site:
        yield _batch_norm("frozen", "hospitals differ, but evaluation.cross_site needs one network for all")
    else:
        differ = f"mean label distance {data.mean_label_skew:.2f}, largest {data.size_ratio:.0f} times the smallest"
        yield _batch_norm("local", f"hospitals differ ({differ}) and each has {smallest:,} training images or more")


def _measured(situation: Situation, best: Measured) -> str:
    tried = len({one.backbone for one in situation.measured})
    of = f"the best of {tried} backbones" if tried > 1 else "the only backbone at hand"
    bounds = f" (95 % {best.interval[0]:.3f} to {best.interval[1]:.3f})" if best.interval else ""
    return (
        f"measured here: {of} on {situation.data.patients('validation')} validation patients, "
        f"{situation.job.evaluation.select_by} {best.score:.3f}{bounds} with stages: {best.stages}, "
        f"{best.seconds_per_1000:.0f} s per 1,000 images"
    )


def _deep(situation: Situation, plan: Plan, why: str, takes: str) -> Iterator[Recommendation]:
    memory, row = situation.least_gpu_gb, backbone_row(plan.backbone)
    whole = min(situation.data.train) >= FULL_FROM and memory is not None and memory >= FULL_GB
    size = "" if memory is None else f" of {memory:.0f} GB or more"
    sent = f"at most {shown_megabytes(row.megabytes * 1e6)} a round and hospital"
    part = "full" if whole else "last-blocks"
    yield Recommendation("tune.part", part, f"{why}{size}; {takes}; {sent}", source.LINEAR_FIRST)
    if not whole:
        yield Recommendation(
            "tune.blocks", 2, "the layers nearest to the head are the ones made for ImageNet", source.TRANSFER
        )
    allowed = f"hospitals allow the head only by default: each must write {part} into its own file"
    yield Recommendation("policy.allow_tuning", None, allowed, "client/hospital_file.py", "note")


def _batch_norm(value: str, reason: str) -> Recommendation:
    return Recommendation("tune.batch_norm", value, reason, source.FEDBN)
