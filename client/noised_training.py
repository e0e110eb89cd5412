"""A hospital's part in rounds of local training with noise of its own: what it tells of its patients, and its heads.

    centre      sums of the patients' features and the number of patients, with noise: once in a job
    fit         the head after a round of DP-SGD (`client/local_dp_sgd.py`), with noise: once in a round

Together they spend the job's epsilon (`common.private_release`), whoever sees them. The noised number of patients is what the
hospital's own steps divide by, and what it counts in the mean over hospitals; the exact one never leaves.
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from client.participation import Participation
from common.dp.noise import from_units, noised
from common.dp.private_features import centre_sums, patients_of
from common.errors import Refusal, RefusalCode
from common.head import Float32, Float64, Head, Standardisation
from common.job import Job
from common.messages import unpack_model, unpack_standardisation
from common.metrics import Int64
from common.packed import Packed
from common.privacy import steps_in_a_round
from common.private_release import budget_of, noise_scale, step_multiplier
from common.summed import Question, question_digest

if TYPE_CHECKING:  # it imports opacus, which only such a job needs
    from client.local_dp_sgd import LocalDpSgd

_MOST_WEIGHT, _LEAST_SCALE = 1e6, 1e-3
_CENTRE = Question("centre")


def require_training(job: Job) -> None:
    """Find at once what a hospital lacks for such a job, before any of its epsilon is spent.

    Raises:
        ConfigError: opacus or dp-accounting is not installed.
    """
    _training_of(job)


def noised_centre(part: Participation) -> Int64:
    """The sums for the centre (D + 1,) in whole units of `centre_unit`, with all the noise of this hospital's own."""

    def make() -> dict[str, Int64]:
        sums = centre_sums(part.prepared.parts["train"].features, part.patients)
        return {"units": noised(sums, _centre_scale(part.prepared.job))}

    return np.asarray(part.releases.answer("centre", "centre", make)["units"], np.int64)


def centre_told(part: Participation) -> Float64:
    """The same as numbers, as they are told."""
    return from_units(noised_centre(part), _centre_scale(part.prepared.job))


def noised_number(part: Participation) -> int:
    """About how many patients there are in training, at least 1: what is left of the count after the noise."""
    return patients_of(centre_told(part))


def noised_fit(part: Participation, request: Packed) -> Head:
    """The head after a round of local training with noise, from the model in the request.

    Raises:
        Refusal: `bad-request` for numbers that are out of all bounds; `budget-spent` for another model of a round that was
            answered.
    """
    standardisation, start = standardisation_in(request), head_in(request)
    number = int(request.fields["round"])

    def make() -> dict[str, Float32]:
        from client.local_dp_sgd import train_head_privately

        train = part.standardised(standardisation)
        private = _training_of(part.prepared.job)
        head = train_head_privately(start, train.features, train.labels, part.patients, private, noised_number(part))
        head = _within(head, start, part.prepared.job.guard.max_update_norm)
        return {"weight": head.weight, "bias": head.bias}

    asked = Packed({name: request.arrays[name] for name in ("weight", "bias", "mean", "scale")}, {"round": number})
    told = part.releases.answer(f"fit-{number}", question_digest(asked), make)
    return Head(told["weight"].astype(np.float32), told["bias"].astype(np.float32))


def standardisation_in(request: Packed) -> Standardisation:
    """How the coordinator wants features standardised.

    Raises:
        Refusal: `bad-request`: a number could overflow with it.
    """
    found = unpack_standardisation(request.arrays)
    if found.scale.min() < _LEAST_SCALE or np.abs(found.mean).max() > 1.0:
        raise _untame(f"a mean of at most 1 and a scale of at least {_LEAST_SCALE:g}")
    return found


def head_in(request: Packed) -> Head:
    """The head that the coordinator sends.

    Raises:
        Refusal: `bad-request`: a number could overflow with it.
    """
    head = unpack_model(request.arrays).head
    if max(np.abs(head.weight).max(), np.abs(head.bias).max()) > _MOST_WEIGHT:
        raise _untame(f"weights of at most {_MOST_WEIGHT:g} in size")
    return head


def _untame(wanted: str) -> Refusal:
    # Whether a number overflows would depend on single patients, and a refusal has no noise.
    return Refusal(RefusalCode.BAD_REQUEST, f"in a private job the coordinator sends {wanted}, got other numbers")


def _within(head: Head, start: Head, bound: float) -> Head:
    """A head that moved no further than the job lets a hospital move it: few patients, and it has moved by noise alone.

    It is noised already, so that its length, and what is made of it, tells nothing.
    """
    moved = head.distance(start)
    if moved <= bound:
        return head
    share = bound / moved * (1 - 1e-5)
    return Head(
        np.asarray(start.weight + share * (head.weight - start.weight), np.float32),
        np.asarray(start.bias + share * (head.bias - start.bias), np.float32),
    )


def _centre_scale(job: Job) -> float:
    # Of one's own the noise is the same in a sum over any number.
    return noise_scale(job, _CENTRE, 1)


def _training_of(job: Job) -> "LocalDpSgd":
    budget, local = budget_of(job), job.method.local
    rate = 1.0 if budget.sampling_rate is None else budget.sampling_rate
    return _training(
        step_multiplier(job),
        math.inf if budget.clip is None else budget.clip,
        local.lr,
        steps_in_a_round(local.epochs, rate),
        rate,
        local.momentum,
    )


@functools.lru_cache(maxsize=8)
def _training(
    multiplier: float, clip: float, lr: float, steps: int, sampling_rate: float, momentum: float
) -> "LocalDpSgd":
    from client.local_dp_sgd import LocalDpSgd

    return LocalDpSgd(multiplier, clip, lr, steps, sampling_rate, momentum)
