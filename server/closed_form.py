"""The closed-form head: one round of sums, candidates solved here, chosen and calibrated by counts of validation patients.

Three exchanges, only the first of which trains: sums; all candidates in one message; the best one at several temperatures.

Letters: C classes, D features.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.candidates import TEMPERATURES, Candidate, best_of, best_temperature, by_sums_alone, candidates, divided
from common.errors import FederationError
from common.head import Float32, Head
from common.metrics import ClassificationCounts, Metrics, derive
from common.ridge import Ridge
from common.sums import Sums
from server.aggregation import Aggregation, Told
from server.questions import listed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClosedForm:
    """The head chosen, on standardised features, with its validation metrics, and what the round of sums was like.

    choice: what was chosen among, and what; plain values for the summary. ridge: of all training examples and features.
    """

    head: Head
    validation: Metrics | None
    told: Told
    choice: Mapping[str, object]
    seconds: float
    ridge: Ridge


def closed_form(
    asking: Aggregation, needed: int, pretrained: Mapping[str, Float32] | None = None, tries: int = 1
) -> ClosedForm:
    """The closed-form head of the federation.

    pretrained: the arrays of the backbone that the job tunes; the head reads them.

    Raises:
        FederationError: `tries` times fewer than `needed` hospitals sent usable sums.
    """
    start = time.perf_counter()
    total, told = _sums(asking, needed, tries)
    ridge = Ridge(total)
    found = candidates(asking.questions.job, total, ridge)
    tuned = pretrained or {}
    best, metrics = _choose(asking, found, tuned)
    temperature, before, calibrated = _calibrate(asking, best.head, tuned)
    choice = {
        "candidates": len(found),
        "stages": best.stages,
        "ridge": best.strength,
        "class_weights": "balanced" if best.balanced else "none",
        "temperature": temperature,
        "ece_before": before.ece if before else None,
        "ece_after": calibrated.ece if calibrated else None,
    }
    head = divided(best.head, temperature)
    return ClosedForm(head, calibrated or metrics, told, choice, time.perf_counter() - start, ridge)


def _sums(asking: Aggregation, needed: int, tries: int) -> tuple[Sums, Told]:
    """The sums of enough hospitals."""
    told = Told((), {}, 0, 0)
    for _ in range(tries):
        asking.questions.membership.refresh(1)
        total, told = asking.sums()
        for name, reason in told.dropped.items():
            log.warning("the sums go on without %s: %s", name, reason)
        if total is not None and len(told.answered) >= needed:
            asking.questions.membership.forget_sums()
            return total, told
    raise FederationError(f"no round had a quorum, so there is no model: {listed(told.dropped)}")


def _choose(
    asking: Aggregation, found: Sequence[Candidate], tuned: Mapping[str, Float32]
) -> tuple[Candidate, Metrics | None]:
    """The candidate that is best on the validation patients of all hospitals, by the job's metric, then by log loss."""
    counts = _validation(asking, [candidate.head for candidate in found], tuned)
    if counts is None:
        log.warning("no hospital has validation patients: the head is chosen and calibrated from the sums alone")
        return by_sums_alone(found), None
    metrics = [derive(one) for one in counts]
    best = best_of(metrics, asking.questions.job.evaluation.select_by)
    return found[best], metrics[best]


def _calibrate(
    asking: Aggregation, head: Head, tuned: Mapping[str, Float32]
) -> tuple[float, Metrics | None, Metrics | None]:
    """The temperature that fits the validation patients, and the metrics without and with it."""
    counts = _validation(asking, [divided(head, temperature) for temperature in TEMPERATURES], tuned)
    if counts is None or not counts[0].n:
        return 1.0, None, None
    metrics = [derive(one) for one in counts]
    best = best_temperature(metrics)
    return TEMPERATURES[best], metrics[TEMPERATURES.index(1.0)], metrics[best]


def _validation(
    asking: Aggregation, heads: list[Head], tuned: Mapping[str, Float32]
) -> list[ClassificationCounts] | None:
    """Counts of each head on the validation patients of all hospitals, on the pretrained backbone; None if there are none."""
    counted = asking.count_heads(heads, "validation", 0, tuned).pooled or []
    known = [total for total in counted if total.n]
    return known if len(known) == len(heads) else None
