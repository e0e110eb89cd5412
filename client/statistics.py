"""The sums that a hospital sends for the closed-form head."""

import numpy as np

from client.training import Examples
from common.head import Float32
from common.job import Job
from common.projection import projection_of
from common.sums import Sums


def sums_of(examples: Examples, job: Job) -> Sums:
    """The sums of standardised examples (N, D), projected first where the job says so."""
    return Sums.of(projected(examples.features, job), examples.labels, job.num_classes)


def projected(features: Float32, job: Job) -> Float32:
    """Standardised features (N, D) as the closed form reads them: projected (N, R) where the job says so."""
    return features if job.method.projection is None else np.asarray(features @ projection_of(job), np.float32)
