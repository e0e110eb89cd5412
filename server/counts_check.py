"""How counts contradict themselves or what their hospital declared; the guard asks, and so does a secure sum's end."""

import numpy as np

from common.groups import group_names
from common.job import Job
from common.metrics import FIXED_POINT, ClassificationCounts, Int64
from common.wire import AnyArray


def counts_problem(counts: ClassificationCounts, support: Int64) -> str | None:
    """How counts contradict themselves or the declared number of examples of each class (C,), or None.

    Of M heads at once where each array of the counts has a first axis for them; the support may have it too.
    """
    n = support.sum(axis=-1)
    number, correct, confidence = np.moveaxis(counts.calibration, -2, 0)
    sides = np.stack([n[..., None] - support, support], axis=-1)
    if (counts.confusion.sum(axis=-1) != support).any():
        return "the confusion matrix does not have the declared number of examples of each class"
    if (counts.histograms.sum(axis=-1) != sides).any():
        return "the score histograms do not have the declared number of examples"
    if (
        (number > n[..., None]).any()
        or (number.sum(axis=-1) != n).any()
        or (correct.sum(axis=-1) != np.trace(counts.confusion, axis1=-2, axis2=-1)).any()
        or (correct > number).any()
    ):
        return "the calibration bins do not add up"
    most = np.stack([2 * n * FIXED_POINT, 50 * n * FIXED_POINT], axis=-1)
    if (confidence > number * FIXED_POINT).any() or (counts.losses > most).any():
        return "the sums of confidence or loss are larger than possible"
    return None


def groups_problem(confusion: AnyArray, job: Job, support: Int64) -> str | None:
    """How confusion matrices by group (G, C, C) contradict the test images of each class (C,), or None."""
    attributes = [attribute for attribute, _ in group_names(job.evaluation.groups)]
    for attribute in job.evaluation.groups:
        rows = [place for place, name in enumerate(attributes) if name == attribute]
        if (confusion[rows].astype(np.int64).sum(axis=(0, 2)) > support).any():
            return f"the groups of {attribute} have more images than the test patients"
    return None
