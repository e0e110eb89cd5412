"""Names of feature spaces, and which columns of a cached vector and which views of an image are a job's.

Letters: D features.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from client.augmentation import mirrored
from client.slices import reading_of
from common.backbones import FeatureBlock, feature_blocks
from common.job import Job

READING_VERSION = 2
"""Raise it when `client/images.py`, or a reader in its table, gives other pixels than before: what is cached then misses."""


def extraction_space(job: Job, backbone_digest: str) -> str:
    """Name (64 hex digits) of what a cached vector depends on besides the image: network and preprocessing.

    All stages of the backbone are cached, so jobs that take other stages of the same network share the cache.
    """
    return _sha256_of(
        {
            "backbone": job.backbone.name,
            "digest": backbone_digest,
            "fit": job.image.fit,
            **_looked_at(job),
            "reading": READING_VERSION,
            "size_px": job.size_px,
        }
    )


def _looked_at(job: Job) -> dict[str, object]:
    """Window and slices where a job chooses them: the spaces of jobs that do not keep their names."""
    reading = reading_of(job)
    window = {"window": [float(number) for number in reading.window]} if reading.window else {}
    return {**window, **({"slices": reading.slices} if reading.slices != 1 else {})}


def fingerprint_of(job: Job, backbone_digest: str) -> str:
    """Name of the feature space (64 hex digits): equal exactly when network, preprocessing, stages, mirroring and scaling are.

    Augmented views are not part of it: they are more examples in the same space.
    """
    return _sha256_of(
        {
            "space": extraction_space(job, backbone_digest),
            "blocks": [[block.stage, block.pool] for block in job.feature_blocks],
            "mirror": job.features.mirror,
            **({"scaled": "stages to norm 1"} if job.private else {}),
        }
    )


def _sha256_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def all_blocks(name: str) -> tuple[FeatureBlock, ...]:
    """Every stage of a backbone in every pooling: what is cached of an image."""
    return feature_blocks(name, ("all",), ("mean", "max"))


def columns_of(job: Job) -> npt.NDArray[np.intp]:
    """Where the job's features (D,) are in a cached vector."""
    cached = {(block.stage, block.pool): block for block in all_blocks(job.backbone.name)}
    found = [cached[block.stage, block.pool] for block in job.feature_blocks]
    return np.concatenate([np.arange(block.start, block.stop) for block in found])


def views_of(job: Job, part: str) -> list[int]:
    """The views of an image of one part: its augmented copies in training, each with its mirror image if the job mirrors."""
    base = range(job.features.views if part == "train" else 1)
    return [view for number in base for view in ([number, mirrored(number)] if job.features.mirror else [number])]
