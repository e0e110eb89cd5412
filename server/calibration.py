"""After the last round, by counts of validation patients alone: the final head's temperature, its operating point, and how
far from the training images an image may be.

One exchange: the head at several temperatures. The closed-form head has its temperature already, so it is counted once, and only
where the job has a rule for an operating point.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.artifact import Calibration
from common.candidates import TEMPERATURES, best_temperature, divided
from common.metrics import ClassificationCounts, derive
from common.model import Model
from common.operating_point import OperatingPoint, Unkept, operating_point
from common.unlike import FALSE_ALARMS, Spread, UnlikeLimit, limit_of
from server.aggregation import Aggregation

log = logging.getLogger(__name__)

NO_VALIDATION = "no hospital gave counts of validation patients"
PRIVATE = "with differential privacy no counts of validation patients leave a hospital"
NO_RULE = "the job has no rule for one (evaluation.operating_point)"


@dataclass(frozen=True)
class Calibrated:
    """The final model, with its temperature in the head. missing: what is not there, and why."""

    model: Model
    calibration: Calibration | None = None
    operating_point: OperatingPoint | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def calibrated(asking: Aggregation, model: Model, number: int, choice: Mapping[str, object] | None) -> Calibrated:
    """The model of round `number`, calibrated. choice: how it came about if it is the closed-form head, else None."""
    job, rule = asking.questions.job, asking.questions.job.evaluation.operating_point
    if job.private:
        return Calibrated(model, missing={"calibration": PRIVATE, "operating_point": PRIVATE})
    known = (choice or {}).get("temperature")
    if isinstance(known, float) and rule is None:
        return Calibrated(model, Calibration(temperature=known), missing={"operating_point": NO_RULE})
    tried = (1.0,) if isinstance(known, float) else TEMPERATURES
    counts = _counts(asking, model, number, tried)
    if counts is None:
        lacking = ("operating_point",) if isinstance(known, float) else ("calibration", "operating_point")
        log.warning("not there, because %s: %s", NO_VALIDATION, ", ".join(lacking).replace("_", " "))
        given = Calibration(temperature=known) if isinstance(known, float) else None
        return Calibrated(model, given, missing=dict.fromkeys(lacking, NO_VALIDATION))
    metrics = [derive(one) for one in counts]
    best = 0 if isinstance(known, float) else best_temperature(metrics)
    before = None if isinstance(known, float) else metrics[tried.index(1.0)].ece
    given = Calibration(
        temperature=known if isinstance(known, float) else tried[best],
        images=metrics[best].n,
        ece_before=before,
        ece=metrics[best].ece,
    )
    final = model if tried[best] == 1.0 else Model(divided(model.head, tried[best]), model.tuned)
    if rule is None:
        return Calibrated(final, given, missing={"operating_point": NO_RULE})
    point = operating_point(rule, job.classes, counts[best])
    if isinstance(point, Unkept):
        log.warning("there is no operating point: %s", point.reason)
        return Calibrated(final, given, missing={"operating_point": point.reason})
    return Calibrated(final, given, point)


def unlike_limit(asking: Aggregation, spread: Spread | None) -> tuple[Spread | None, UnlikeLimit | None, str | None]:
    """How far from the training images an image may be, by the distances of validation patients; or why that is not known.

    spread: of the training images' features; without one the sums and squares of features that hospitals described give one.
    """
    job = asking.questions.job
    if job.private:
        return None, None, PRIVATE
    spread = spread or Spread.diagonal(*asking.centre().sums())
    with asking.questions.meter.phase("calibrate"):
        histogram = asking.distances(spread)
    if histogram is None or not histogram.sum():
        return spread, None, "no hospital told the distances of validation images"
    limit = limit_of(histogram, len(spread.axes))
    if limit is None:
        needed, have = int(np.ceil(1 / FALSE_ALARMS)) - 1, int(histogram.sum())
        why = f"a limit with at most {FALSE_ALARMS:.0%} false alarms takes {needed} validation images, there are {have}"
        return spread, None, why
    return spread, limit, None


def _counts(
    asking: Aggregation, model: Model, number: int, temperatures: tuple[float, ...]
) -> list[ClassificationCounts] | None:
    """Validation counts of the head at each temperature; None if there are none."""
    heads = [divided(model.head, temperature) for temperature in temperatures]
    with asking.questions.meter.phase("calibrate"):
        counted = asking.count_heads(heads, "validation", number, model.tuned).pooled or []
    known = [one for one in counted if one.n]
    return known if len(known) == len(heads) else None
