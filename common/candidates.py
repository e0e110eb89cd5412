"""Closed-form heads to choose among: what the coordinator solves for the federation, and a hospital for itself.

Letters: C classes, D features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.backbones import FeatureBlock
from common.head import Head
from common.job import Job
from common.methods import RIDGE
from common.metrics import Metrics, better
from common.projection import projection_of
from common.ridge import Ridge
from common.sums import Sums
from common.wire import MAX_HEADS

TEMPERATURES = tuple(float(2.0**exponent) for exponent in np.arange(-4.0, 4.01, 0.25))
"""Factors by which the logits are divided when the best head is calibrated."""

_TEMPERATURE_COST = 2.0


@dataclass(frozen=True)
class Candidate:
    """A head and how it came about: the stages it reads, the ridge strength, and whether classes were balanced.

    error: what the sums alone say of examples left out (`Ridge.error_left_out`), for want of validation patients.
    """

    stages: str
    strength: float
    balanced: bool
    head: Head
    error: float


def candidates(job: Job, sums: Sums, whole: Ridge | None = None) -> list[Candidate]:
    """The heads that the job's options allow, on standardised features (C, D), at most `MAX_HEADS`.

    Subsets of stages are blocks of the same sums, so they cost no further exchange. whole: the ridge of all features, for
    whoever has solved it already.
    """
    strengths = job.method.ridge or RIDGE
    balancing = {"none": (False,), "balanced": (True,)}.get(job.method.class_weights, (False, True))
    subsets = list(subsets_of(job).items())[: max(1, MAX_HEADS // (len(strengths) * len(balancing)))]
    found = []
    for name, columns in subsets:
        ridge = whole if whole is not None and columns is None else Ridge(sums, columns)
        for strength in strengths:
            error = ridge.error_left_out(strength)
            for balanced in balancing:
                head = ridge.logits(strength, balanced)
                found.append(Candidate(name, strength, balanced, _unprojected(job, head), error))
    return found[:MAX_HEADS]


def subsets_of(job: Job) -> dict[str, npt.NDArray[np.intp] | None]:
    """The subsets of features that are tried, by name; the first, with all of them, is always there."""
    blocks = job.feature_blocks
    subsets: dict[str, npt.NDArray[np.intp] | None] = {"all": None}
    if job.method.stage_subsets:
        means = [block for block in blocks if block.pool != "max"]
        if 1 < len(means) < len(blocks):
            subsets["all by mean"] = _columns(means)
        if len(means) > 1:
            subsets[f"{means[-1].stage} alone"] = _columns(means[-1:])
    return subsets


def _columns(blocks: Sequence[FeatureBlock]) -> npt.NDArray[np.intp]:
    return np.concatenate([np.arange(block.start, block.stop) for block in blocks])


def _unprojected(job: Job, head: Head) -> Head:
    """A head of projected features as one of the features themselves."""
    if job.method.projection is None:
        return head
    matrix = projection_of(job).astype(np.float64)
    return Head((head.weight.astype(np.float64) @ matrix.T).astype(np.float32), head.bias)


def by_sums_alone(found: Sequence[Candidate]) -> Candidate:
    """The candidate to take where there are no validation patients: the least error left out, the first of equals."""
    return min(found, key=lambda candidate: candidate.error)


def improves(candidate: Metrics | None, incumbent: Metrics | None, select_by: str) -> bool:
    """Whether a head is better on validation patients: by the chosen metric, then by log loss (few patients tie often).

    Without any validation the later head is taken.
    """
    new, old = (getattr(metrics, select_by, None) for metrics in (candidate, incumbent))
    if new == old and candidate and incumbent and candidate.log_loss is not None:
        return better("log_loss", candidate.log_loss, incumbent.log_loss)
    return old is None or better(select_by, new, old)


def divided(head: Head, temperature: float) -> Head:
    """The head whose logits are those of `head` divided by a temperature."""
    return Head((head.weight / temperature).astype(np.float32), (head.bias / temperature).astype(np.float32))


def best_of(metrics: Sequence[Metrics], select_by: str) -> int:
    """Which of some heads is best on validation patients by `improves`; the first of equals."""
    best = 0
    for index, one in enumerate(metrics):
        if index and improves(one, metrics[best], select_by):
            best = index
    return best


def best_temperature(metrics: Sequence[Metrics]) -> int:
    """Which of `TEMPERATURES` fits validation patients best, from the metrics with each; few patients move it little from 1.

    The head is nearly calibrated by the sums, so a temperature costs: twice the square of its binary logarithm, in nats of
    log loss over all patients.
    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2; the cost is a normal prior on the logarithm.
    """
    costs = [
        (one.log_loss or 0.0) * one.n + _TEMPERATURE_COST * math.log2(temperature) ** 2
        for one, temperature in zip(metrics, TEMPERATURES, strict=True)
    ]
    return costs.index(min(costs))
