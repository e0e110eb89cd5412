"""Rules for tuning: how much of the backbone is trained, and where its batch normalisations stay."""

from collections.abc import Iterator

from common.backbones import backbone_row
from simulation.advice import sources as source
from simulation.advice.recommendation import Plan, Recommendation
from simulation.advice.situation import Situation
from simulation.advice.speed import epoch_seconds, shown_megabytes, shown_seconds

BLOCKS_FROM, FULL_FROM = 1000, 5000
"""Training images of the rarest class from which the last blocks, and the whole network, are worth training."""

LAST_BLOCKS_GB, FULL_GB = 4.0, 12.0
"""GPU memory they need with 64 images at once."""

LONG_ROUND_S = 1800.0
BATCH_NORM_FROM = 200
"""Training images of a hospital from which its batch normalisations have statistics of their own."""

DEEP_ROUNDS = 6
BLOCKS = 4
HEAD_LR = 1e-4
"""Of the head while blocks are tuned: it has its optimum already, and should follow them."""
NO_BATCH_NORM = ("vgg16", "squeezenet1_0", "squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t")


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


def _deep(situation: Situation, plan: Plan, why: str, takes: str) -> Iterator[Recommendation]:
    memory, row = situation.least_gpu_gb, backbone_row(plan.backbone)
    whole = min(situation.data.train) >= FULL_FROM and memory is not None and memory >= FULL_GB
    size = "" if memory is None else f" of {memory:.0f} GB or more"
    sent = f"at most {shown_megabytes(row.megabytes * 1e6)} a round and hospital"
    part = "full" if whole else "last-blocks"
    yield Recommendation("tune.part", part, f"{why}{size}; {takes}; {sent}", source.LINEAR_FIRST)
    if not whole:
        yield Recommendation(
            "tune.blocks", BLOCKS, "the layers nearest to the head are the ones made for ImageNet", source.TRANSFER
        )
    allowed = f"hospitals allow the head only by default: each must write {part} into its own file"
    yield Recommendation("policy.allow_tuning", None, allowed, "client/hospital_file.py", "note")


def _batch_norm(value: str, reason: str) -> Recommendation:
    return Recommendation("tune.batch_norm", value, reason, source.FEDBN)
