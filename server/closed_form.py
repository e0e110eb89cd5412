"""The closed-form head: one round of sums, candidates solved here, chosen and calibrated by counts of validation patients.

Three exchanges, only the first of which trains: sums; all candidates in one message; the best one at several temperatures.

Letters: C classes, D features.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.head import Head
from common.job import Job
from common.metrics import ClassificationCounts, Metrics, better, derive
from common.projection import projection_of
from common.ridge import Ridge
from common.sums import Sums
from common.wire import MAX_HEADS
from server.questions import Answers, Questions, pooled

log = logging.getLogger(__name__)

TEMPERATURES = tuple(float(2.0**exponent) for exponent in np.arange(-2.0, 5.01, 0.25))
"""Factors by which the logits are divided when the best head is calibrated."""


@dataclass(frozen=True)
class Candidate:
    """A head and how it came about: the stages it reads, the ridge strength, and whether classes were balanced."""

    stages: str
    strength: float
    balanced: bool
    head: Head


@dataclass(frozen=True)
class ClosedForm:
    """The head chosen, on standardised features, with its validation metrics, and what the round of sums was like.

    choice: what was chosen among, and what; plain values for the summary.
    """

    head: Head
    validation: Metrics | None
    answers: Answers
    choice: Mapping[str, object]
    seconds: float


def closed_form(questions: Questions, needed: int) -> ClosedForm | None:
    """The closed-form head of the federation; None if fewer than `needed` hospitals sent usable sums."""
    start = time.perf_counter()
    answers = questions.ask("statistics", number=1)
    for name, reason in answers.dropped.items():
        log.warning("the sums go on without %s: %s", name, reason)
    if len(answers.good) < needed:
        return None
    replies = [reply.arrays for reply in answers.good.values()]
    sums = [Sums.from_triangle(arrays["gram"], arrays["class-sums"]) for arrays in replies]
    found = candidates(questions.job, sum(sums[1:], sums[0]))
    best, metrics = _choose(questions, found)
    temperature, calibrated = _calibrate(questions, best.head)
    choice = {
        "candidates": len(found),
        "stages": best.stages,
        "ridge": best.strength,
        "class_weights": "balanced" if best.balanced else "none",
        "temperature": temperature,
    }
    head = _divided(best.head, temperature)
    return ClosedForm(head, calibrated or metrics, answers, choice, time.perf_counter() - start)


def candidates(job: Job, sums: Sums) -> list[Candidate]:
    """The heads that the job's options allow, on standardised features (C, D), at most `MAX_HEADS`.

    Subsets of stages are blocks of the same sums, so they cost no further exchange.
    """
    strengths = job.method.ridge or []
    balancing = {"none": (False,), "balanced": (True,)}.get(job.method.class_weights, (False, True))
    subsets = list(subsets_of(job).items())[: max(1, MAX_HEADS // (len(strengths) * len(balancing)))]
    found = []
    for name, columns in subsets:
        ridge = Ridge(sums, columns)
        for strength in strengths:
            for balanced in balancing:
                head = ridge.logits(strength, balanced)
                found.append(Candidate(name, strength, balanced, _unprojected(job, head)))
    return found[:MAX_HEADS]


def subsets_of(job: Job) -> dict[str, npt.NDArray[np.intp] | None]:
    """The subsets of features that are tried, by name; the first, with all of them, is always there."""
    blocks = job.feature_blocks
    subsets: dict[str, npt.NDArray[np.intp] | None] = {"all": None}
    if job.method.stage_subsets:
        means = [block for block in blocks if block.pool != "max"]
        if 1 < len(means) < len(blocks):
            subsets["all, means"] = _columns(means)
        if len(means) > 1:
            subsets[f"{means[-1].stage}, mean"] = _columns(means[-1:])
    return subsets


def _columns(blocks: Sequence[object]) -> npt.NDArray[np.intp]:
    return np.concatenate([np.arange(block.start, block.stop) for block in blocks])  # type: ignore[attr-defined]


def _unprojected(job: Job, head: Head) -> Head:
    """A head of projected features as one of the features themselves."""
    if job.method.projection is None:
        return head
    matrix = projection_of(job).astype(np.float64)
    return Head((head.weight.astype(np.float64) @ matrix.T).astype(np.float32), head.bias)


def _choose(questions: Questions, found: Sequence[Candidate]) -> tuple[Candidate, Metrics | None]:
    """The candidate that is best on the validation patients of all hospitals, by the job's metric, then by log loss."""
    counts = _validation(questions, [candidate.head for candidate in found])
    if counts is None:
        log.warning("no hospital has validation patients: the middle ridge strength is taken, uncalibrated")
        return found[len(found) // 2], None
    metrics = [derive(one) for one in counts]
    best = 0
    for index in range(1, len(found)):
        if improves(metrics[index], metrics[best], questions.job.evaluation.select_by):
            best = index
    return found[best], metrics[best]


def improves(candidate: Metrics | None, incumbent: Metrics | None, select_by: str) -> bool:
    """Whether a head is better on validation patients: by the chosen metric, then by log loss (few patients tie often).

    Without any validation the later head is taken.
    """
    new, old = (getattr(metrics, select_by, None) for metrics in (candidate, incumbent))
    if new == old and candidate and incumbent and candidate.log_loss is not None:
        return better("log_loss", candidate.log_loss, incumbent.log_loss)
    return old is None or better(select_by, new, old)


def _calibrate(questions: Questions, head: Head) -> tuple[float, Metrics | None]:
    """The temperature with the least log loss on the validation patients, and the metrics with it.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    counts = _validation(questions, [_divided(head, temperature) for temperature in TEMPERATURES])
    if counts is None or not counts[0].n:
        return 1.0, None
    metrics = [derive(one) for one in counts]
    best = min(range(len(metrics)), key=lambda index: metrics[index].log_loss or 0.0)
    return TEMPERATURES[best], metrics[best]


def _validation(questions: Questions, heads: list[Head]) -> list[ClassificationCounts] | None:
    found, _ = questions.count_heads(heads, "validation", 1)
    totals = [pooled([counts[index] for counts in found.values()]) for index in range(len(heads))]
    known = [total for total in totals if total is not None and total.n]
    return known if len(known) == len(heads) else None


def _divided(head: Head, temperature: float) -> Head:
    return Head((head.weight / temperature).astype(np.float32), (head.bias / temperature).astype(np.float32))
