"""The sums that a hospital sends for the closed-form head."""

import numpy as np

from client.training import Examples
from common.job import Job
from common.projection import projection_of
from common.sums import Sums


def sums_of(examples: Examples, job: Job) -> Sums:
    """The sums of standardised examples (N, D), projected first where the job says so."""
    features = examples.features
    if job.method.projection is not None:
        features = np.asarray(features @ projection_of(job), np.float32)
    return Sums.of(features, examples.labels, job.num_classes)
