"""A model file of a drawn head on a random backbone: what it says means nothing."""

from pathlib import Path

import numpy as np

from client.feature_space import fingerprint_of
from client.weights import load_backbone
from common.artifact import Manifest, save_model
from common.head import Head
from common.job import Job
from common.model import Model


def drawn_model(job: Job, path: Path) -> Path:
    backbone = load_backbone(job.backbone.name, job.backbone.weights)
    weight = np.random.default_rng(0).normal(0, 0.1, (job.num_classes, job.num_features)).astype(np.float32)
    metrics = {"n": 12, "auroc": 0.9, "sensitivity": 0.8, "intervals": {"auroc": [0.8, 0.95], "sensitivity": None}}
    manifest = Manifest(
        job=job,
        job_id=job.job_id,
        fingerprint=fingerprint_of(job, backbone.digest),
        backbone_digest=backbone.digest,
        rounds=1,
        hospitals=2,
        metrics=metrics,
        versions={},
    )
    save_model(path, Model(Head(weight, np.zeros(job.num_classes, np.float32)), {}), manifest)
    return path
