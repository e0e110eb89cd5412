"""Backbones tried with the closed-form head, on training and validation patients only; test patients are left alone.

Letters: N examples, D features, C classes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from client.capacity import images_per_s
from client.device import choose_device
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, views_of
from client.features import extract
from client.records import assign, read_rows
from client.statistics import sums_of
from client.training import Examples
from client.weights import load_backbone
from common.backbones import backbone_row
from common.candidates import best_of, candidates
from common.job import Backbone as BackboneChoice
from common.job import Features, Job, Weights
from common.metrics import ClassificationCounts, count, derive, intervals
from common.modalities import MODALITIES
from simulation.advice.situation import Measured, WeightsFile
from simulation.advice.speed import sums_bytes

log = logging.getLogger(__name__)
STAGES = ("last", "all")


def jobs_to_try(job: Job, weights: Sequence[WeightsFile]) -> list[Job]:
    """The job with the closed-form head, once for its own backbone and once for each whose weights are at hand.

    Random weights are never tried.
    """
    own = {} if job.backbone.weights.random else {job.backbone.name: job.backbone}
    files = {one.backbone: _choice(one) for one in weights}
    return [_closed_form(job, choice) for choice in {**files, **own}.values()]


def measure(
    jobs: Sequence[Job], hospitals: Mapping[str, Path], weights_dir: Path | None, cache_dir: Path, device: str
) -> Iterator[Measured]:
    """Each job's backbone with its last stage and with all, as it was measured.

    Raises:
        DataError, WeightsError, ConfigError, MemoryError: as the steps it takes.
    """
    for job in jobs:
        extractor = Extractor(
            load_backbone(job.backbone.name, job.backbone.weights, weights_dir), choose_device(device), job.size_px
        )
        log.info("%s: images through the backbone, then heads in closed form", job.backbone.name)
        found = [_examples(job, folder, extractor, cache_dir) for folder in hospitals.values()]
        seconds = 1000 / images_per_s(job.backbone.name, job.size_px, device)
        for stages in STAGES:
            yield _judged(job, stages, found, seconds)


def _choice(file: WeightsFile) -> BackboneChoice:
    return BackboneChoice(name=file.backbone, weights=Weights(file=file.file, sha256=file.sha256))


def _closed_form(job: Job, choice: BackboneChoice) -> Job:
    """A job for this backbone, all stages, in a size it can take; the author's method and tuning do not matter here."""
    row = backbone_row(choice.name)
    size = min(max(job.image.size or row.size_px, row.least_px), row.most_px)
    content = {
        **job.model_dump(mode="json", include={"name", "classes", "modality", "other_labels", "evaluation", "seed"}),
        "backbone": choice.model_dump(mode="json"),
        "image": {"size": size, "fit": job.image.fit},
        "features": {"stages": "all", "pool": ["mean"], "mirror": MODALITIES[job.modality].mirror},
        "method": {"name": "analytic"},
    }
    return Job.model_validate(content)


def _examples(job: Job, folder: Path, extractor: Extractor, cache_dir: Path) -> dict[str, Examples]:
    """The examples (N, D) of a hospital's training and validation patients, unreadable images left out."""
    records = assign(read_rows(folder, cache_dir), job)
    space = f"{extraction_space(job, extractor.backbone.digest)}-{extractor.precision}"
    found = {}
    for part in ("train", "validation"):
        some = records.of(part)
        images = [(record.path, views_of(job, part)) for record in some]
        with FeatureCache(cache_dir, space, all_blocks(job.backbone.name)[-1].stop) as cache:
            vectors = extract(images, extractor, cache, job, skip_unreadable=True).vectors
        pairs = [(rows, one.label) for rows, one in zip(vectors, some, strict=True) if rows is not None]
        features = [rows if part == "train" else rows.mean(axis=0, keepdims=True) for rows, _ in pairs]
        labels = [label for (_, label), rows in zip(pairs, features, strict=True) for _ in rows]
        empty = np.zeros((0, job.num_features), np.float32)
        found[part] = Examples(np.concatenate([empty, *features]), np.array(labels, np.int64))
    return found


def _judged(job: Job, stages: str, hospitals: Sequence[Mapping[str, Examples]], seconds: float) -> Measured:
    """The best head of the closed form for these stages on all validation patients."""
    columns = slice(None)
    if stages == "last":
        block = next(one for one in job.feature_blocks if one.stage == job.feature_blocks[-1].stage)
        columns = slice(block.start, block.stop)
        job = job.model_copy(update={"features": Features(stages="last", pool=["mean"], mirror=job.features.mirror)})
    taken = [
        {part: Examples(examples.features[:, columns], examples.labels) for part, examples in one.items()}
        for one in hospitals
    ]
    sums = [sums_of(one["train"], job) for one in taken]
    counted = []
    for candidate in candidates(job, sum(sums[1:], sums[0])):
        counts = ClassificationCounts.zeros(job.num_classes)
        for one in taken:
            examples = one["validation"]
            if len(examples):
                counts = counts + count(candidate.head.probabilities(examples.features), examples.labels)
        counted.append(counts)
    metrics = [derive(counts) for counts in counted]
    best = best_of(metrics, job.evaluation.select_by)
    score, interval = None, None
    if counted[best].n:
        score = getattr(metrics[best], job.evaluation.select_by)
        found = intervals(counted[best])["auroc"] if job.evaluation.select_by == "auroc" else None
        interval = (found.low, found.high) if found else None
    size = sums_bytes(job.num_features, job.num_classes)
    return Measured(job.backbone.name, stages, score, interval, seconds, size)
