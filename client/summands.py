"""What a hospital adds to the sums of secure aggregation: the arrays of `common.summed.layout_of`, before they are masked.

Nobody outside sees them, so what the coordinator's guard would hold an update to is held here.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np

from client.noised_training import head_in, noised_centre, noised_fit, noised_number, standardisation_in
from client.participation import Participation
from common.dp.gradient_descent import clipped_gradient_sum
from common.dp.noise import noised
from common.dp.noisy_sums import bounded_sums
from common.dp.private_features import centre_sums
from common.head import Float64
from common.messages import (
    pack_counts,
    unpack_below,
    unpack_heads,
    unpack_model,
    unpack_named,
    unpack_standardisation,
)
from common.metrics import ClassificationCounts, derive
from common.model import TUNED
from common.packed import AnyArray, Packed
from common.private_release import noise_scale
from common.secure_sum.layout import within_norm
from common.secure_sum.terms import Terms
from common.summed import Question, in_two_parts
from common.unlike import UNLIKE, Spread

log = logging.getLogger(__name__)

Arrays = Mapping[str, AnyArray]


def summand(part: Participation, question: Question, request: Packed, terms: Terms) -> Arrays:
    """The arrays of this hospital's answer to a question whose request is well-formed.

    Raises:
        SecureSumError: the update is too large.
        Refusal: `bad-request`, in a private job, for numbers with which a sum could overflow.
    """
    if part.prepared.job.noised_locally and question.kind in _OWN_NOISE:
        return _OWN_NOISE[question.kind](part, request)
    if question.kind in _NOISED:
        scale = noise_scale(part.prepared.job, question, terms.threshold)
        return {"units": noised(_NOISED[question.kind](part, request), scale)}
    return _EXACT[question.kind](part, question, request)


def _holdings(part: Participation, question: Question, request: Packed) -> Arrays:  # noqa: ARG001
    told = part.prepared.description
    fields = told.pack().fields
    counted = ("examples", "other-labels", "unreadable", "decoded", "cached")
    return {
        **{"images": told.images, "patients": told.patients},
        **in_two_parts("sums", told.sums),
        **in_two_parts("squares", told.squares),
        **{name: np.array(fields[name], np.int64) for name in counted},
    }


def _statistics(part: Participation, question: Question, request: Packed) -> Arrays:  # noqa: ARG001
    sums = part.sums(unpack_standardisation(request.arrays))
    examples = np.array(part.prepared.description.examples, np.int64)
    return {"gram": sums.triangle("float64"), "class-sums": sums.class_sums, "examples": examples}


def _fit(part: Participation, question: Question, request: Packed) -> Arrays:
    start, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
    # Counted first: a fit may change what the hospital keeps of the round before.
    counts = part.count([start.head], start.tuned, standardisation, "validation", question.number - 1)
    fitted = part.fit(start, standardisation, question.number, {})
    before = start.arrays()
    changes = {name: array.astype(np.float64) - before[name] for name, array in fitted.model.arrays().items()}
    within_norm(changes, part.prepared.job.guard.max_update_norm)
    # With small counts hidden the loss stays here: of a head made for it, the sum would count training images.
    told = part.prepared.suppression is None
    numbers = {"examples": fitted.examples, "loss-examples": fitted.examples if told else 0}
    return {
        **{name: change * fitted.examples for name, change in changes.items()},
        **{name: np.array(number, np.int64) for name, number in numbers.items()},
        "loss": np.array(fitted.loss_sum if told else 0.0),
        **pack_counts(counts),
    }


def _evaluate(part: Participation, question: Question, request: Packed) -> Arrays:
    tuned, standardisation = unpack_below(TUNED, request.arrays), unpack_standardisation(request.arrays)
    counts = part.count(unpack_heads(request.arrays), tuned, standardisation, question.part, question.number)
    if question.part == "test" and len(counts) == 1:
        tell_own(counts[0], question.number)
    return pack_counts(counts)


def _distances(part: Participation, question: Question, request: Packed) -> Arrays:  # noqa: ARG001
    return {"distances": part.distances(Spread.from_arrays(unpack_named(UNLIKE, request.arrays)))}


def _groups(part: Participation, question: Question, request: Packed) -> Arrays:
    model, standardisation = unpack_model(request.arrays), unpack_standardisation(request.arrays)
    return {"confusion": part.count_groups(model, standardisation, question.number)}


def tell_own(counts: ClassificationCounts, number: int) -> None:
    """This hospital's own metrics, which nobody else learns, as a line of its log."""
    found = derive(counts)
    known = {"AUROC": found.auroc, "accuracy": found.accuracy, "sensitivity": found.sensitivity, "F1": found.f1}
    told = ", ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None)
    log.info("on this hospital's own %d test images the model of round %d has: %s", found.n, number, told or "nothing")


def _centre(part: Participation, request: Packed) -> Float64:  # noqa: ARG001
    return centre_sums(part.prepared.parts["train"].features, part.patients)


def _bounded_statistics(part: Participation, request: Packed) -> Float64:
    features, labels = part.projected(standardisation_in(request))
    return bounded_sums(features, labels, part.prepared.job.num_classes, part.patients)


def _gradient(part: Participation, request: Packed) -> Float64:
    standardisation, head = standardisation_in(request), head_in(request)
    train = part.standardised(standardisation)
    clip = part.prepared.job.method.descent.clip
    return clipped_gradient_sum(head, train.features, train.labels, part.products(standardisation), clip)


def _own_centre(part: Participation, request: Packed) -> Arrays:  # noqa: ARG001
    return {"units": noised_centre(part)}


def _own_fit(part: Participation, request: Packed) -> Arrays:
    before = unpack_model(request.arrays).head
    after, patients = noised_fit(part, request), noised_number(part)
    # A reader of the sum divides by the sum of the numbers.
    changes = {
        "weight": after.weight.astype(np.float64) - before.weight,
        "bias": after.bias.astype(np.float64) - before.bias,
    }
    within_norm(changes, part.prepared.job.guard.max_update_norm)
    return {
        **{name: change * patients for name, change in changes.items()},
        "patients": np.array(patients, np.int64),
    }


_EXACT: Mapping[str, Callable[[Participation, Question, Packed], Arrays]] = {
    "holdings": _holdings,
    "statistics": _statistics,
    "fit": _fit,
    "evaluate": _evaluate,
    "distances": _distances,
    "groups": _groups,
}
_NOISED: Mapping[str, Callable[[Participation, Packed], Float64]] = {
    "centre": _centre,
    "noised-statistics": _bounded_statistics,
    "gradient": _gradient,
}
_OWN_NOISE: Mapping[str, Callable[[Participation, Packed], Arrays]] = {"centre": _own_centre, "noised-fit": _own_fit}
"""Of a job whose hospitals train with noise of their own: noised once and kept, whoever asks how often."""
