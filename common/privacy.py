"""The part of a job that says how patients and hospitals are protected, and which other parts of a job that rules out.

Who is protected, and who makes the noise:

    unit: patient    analytic, dp-gd    the hospitals, in shares or each on its own (`noise`), of sums over hospitals
    unit: patient    fedavg, ...        each hospital, on its own, in its local training (DP-SGD)
    unit: hospital   fedavg, ...        the coordinator, which is trusted, in each round
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from common.config_file import Section
from common.dp.noisy_sums import PROJECTED
from common.methods import LOCAL_TRAINING, METHODS, Count, Positive
from common.secure_sum.terms import MOST_HOSPITALS

if TYPE_CHECKING:
    from common.job import Job

Delta = Annotated[float, Field(gt=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]

PRIVATE_METHODS = ("analytic", "dp-gd")
"""The methods that can be trained on noised sums over hospitals."""

LOCAL_METHODS = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""The methods whose hospitals can train with noise of their own: all that the coordinator does is done to noised heads."""

HOSPITAL_METHODS = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""The methods that go on from the mean of the hospitals' changes, which the coordinator can clip and noise."""

_WHY_NOT_LOCAL = {
    "fedprox": "its proximal term is no part of DP-SGD, and few noised steps do not drift far",
    "scaffold": "its control variates are no part of DP-SGD",
    "fednova": "every hospital makes the same number of steps, so it would be fedavg",
    **dict.fromkeys(
        ("fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan"),
        "it chooses by how far updates are apart, and that is noise for the most part",
    ),
}
_WHY_NOT_HOSPITAL = {
    "scaffold": "it keeps a control variate of each hospital, which has no noise",
    "fednova": "it weighs hospitals by their steps, and all must count the same",
    **dict.fromkeys(
        ("fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan"), "one hospital moves a choice by more than a clip"
    ),
}

LOCAL_DEFAULTS = {"local_epochs": 4, "lr": 2.0, "momentum": 0.0, "weight_decay": 0.0}
"""Options of the round methods with noise of each hospital's own (`benchmarks/README.md` has how they were chosen)."""

LOCAL_SPREAD = 0.14
"""What centred features are divided by, in local training with noise; as `Descent.spread`, and for the same reason."""

HOSPITAL_DEFAULTS = {"lr": 0.5}
"""Options of the round methods with noise by the coordinator: features of norm 1, not centred, need long steps."""

LOCAL_CLIP, HOSPITAL_CLIP = 0.7, 1.0
"""Default of `DifferentialPrivacy.clip`: of a patient's gradient, and of a hospital's change of the model."""


class DifferentialPrivacy(Section):
    """The privacy budget of the job, per patient or per hospital: (epsilon, delta), for all that is trained.

    noise: `shared`, each hospital adds a share, and so many honest ones as a sum has at least make all of it; `own`, each adds
    all of it, and trusts nobody; `coordinator`, which is trusted, for unit `hospital`. colluding: hospitals that may tell the
    coordinator their share of the noise. Of the round methods: clip, L2 norm of what a patient adds to a step, or of a hospital's
    change in a round; sampling_rate, the probability with which a patient takes part in a step, or a hospital in a round.
    hospitals: how many are registered, of unit `hospital`; public, and what the mean divides by.
    """

    epsilon: Positive
    delta: Delta = 1e-5
    unit: Literal["patient", "hospital"] = "patient"
    noise: Literal["shared", "own", "coordinator"] = "shared"
    colluding: Annotated[int, Field(ge=0, le=MOST_HOSPITALS)] = 0
    clip: Positive | None = None
    sampling_rate: Rate | None = None
    hospitals: Count | None = None

    def honest(self, threshold: int) -> int:
        """How many hospitals make the noise, in a sum over at least `threshold`: one knows its own share, some tell theirs."""
        return 1 if self.noise == "own" else max(1, threshold - 1 - self.colluding)


class Privacy(Section):
    """What protects the updates on their way, and the patients in the model."""

    secure_aggregation: bool = False
    differential_privacy: DifferentialPrivacy | None = None


def steps_in_a_round(local_epochs: int, sampling_rate: float) -> int:
    """Steps of local training with noise: an epoch is as many as give every patient a turn, on average."""
    return math.ceil(local_epochs / sampling_rate - 1e-9)


def contradictions(job: "Job") -> Iterator[str]:
    """What cannot hold together with the job's privacy, each with the reason and what to write instead."""
    budget = job.privacy.differential_privacy
    if job.privacy.secure_aggregation:
        yield from _against_secure_aggregation(job)
    if budget is None:
        if job.method.name == "dp-gd":
            yield "method dp-gd is for privacy.differential_privacy; without it analytic and fedavg are better and cheaper"
        return
    yield from _against_differential_privacy(job)
    if budget.unit == "hospital":
        yield from _against_hospitals_as_units(job, budget)
    elif job.method.iterative:
        yield from _against_local_noise(job, budget)
    else:
        yield from _against_noised_sums(job, budget)


def _against_secure_aggregation(job: "Job") -> Iterator[str]:
    secure = "privacy.secure_aggregation: the coordinator sees only sums over hospitals"
    if METHODS[job.method.name].single_updates:
        summable = [name for name, row in METHODS.items() if not row.single_updates]
        yield f"{secure}, and method {job.method.name} must see single updates; choose one of: {', '.join(summable)}"
    if job.evaluation.cross_site:
        yield f"{secure}, and evaluation.cross_site sends each hospital's own head; write cross_site: false"
    if job.personalisation is not None:
        yield f"{secure}, and personalisation sends each hospital's own counts; leave it out"
    if job.duplicates == "check":
        yield f"{secure}, and duplicates: check has each send a list of keyed hashes of its own; write duplicates: ignore"
    if job.quorum.min_hospitals < 2:
        yield f"{secure}; a sum over one hospital is that hospital's: quorum.min_hospitals: expected 2 or more, got 1"


_PRIVATE = "privacy.differential_privacy"


def _against_differential_privacy(job: "Job") -> Iterator[str]:
    """What no kind of it goes with."""
    if job.method.warm_start not in (None, "none"):
        yield f"{_PRIVATE}: a warm start would send sums that have no noise; write warm_start: none"
    if job.method.stage_subsets:
        yield f"{_PRIVATE}: every choice would cost a share of epsilon; write stage_subsets: false"
    if job.evaluation.validation_fraction:
        yield (
            f"{_PRIVATE}: counts of validation patients leave without noise, so nothing may be chosen by them; "
            f"evaluation.validation_fraction: expected 0, got {job.evaluation.validation_fraction:g}"
        )
    if job.method.patience is not None:
        yield f"{_PRIVATE}: method.patience looks at validation patients, of whom there are none; leave it out"
    if job.tune.deep:
        yield f"{_PRIVATE}: only the head can be trained with it; tune: expected head, got {job.tune.part}"
    if job.evaluation.cross_site and not job.privacy.secure_aggregation:
        yield f"{_PRIVATE}: evaluation.cross_site sends each hospital's own head without noise; write cross_site: false"
    if job.personalisation is not None and not job.privacy.secure_aggregation:
        yield f"{_PRIVATE}: the counts of personalised models have no noise; leave personalisation out"
    if job.duplicates == "check":
        yield f"{_PRIVATE}: keyed hashes tell of single images, without noise; write duplicates: ignore"


def _against_noised_sums(job: "Job", budget: DifferentialPrivacy) -> Iterator[str]:
    """Of the methods whose hospitals add noise to sums."""
    if not job.privacy.secure_aggregation:
        yield (
            f"{_PRIVATE}: the noise is right for the sum over hospitals, so only that may be seen; write "
            "secure_aggregation: true as well"
        )
    if budget.noise == "coordinator":
        yield f"{_PRIVATE}.noise: coordinator is for unit: hospital; expected shared or own"
    for name in ("clip", "sampling_rate", "hospitals"):
        if getattr(budget, name) is not None:
            own = "; its clip is method.clip" if name == "clip" and job.method.noised_gradients else ""
            yield f"{_PRIVATE}.{name}: not for method {job.method.name}{own}; leave it out"
    if budget.noise == "shared" and budget.colluding > job.quorum.min_hospitals - 2:
        yield (
            f"{_PRIVATE}.colluding: in a sum over quorum.min_hospitals {job.quorum.min_hospitals} one hospital "
            f"at least besides the one that looks must keep its noise to itself; expected at most "
            f"{max(0, job.quorum.min_hospitals - 2)}, got {budget.colluding}. Raise the quorum, or write noise: own"
        )


def _against_local_noise(job: "Job", budget: DifferentialPrivacy) -> Iterator[str]:
    """Of the methods whose hospitals train with noise of their own."""
    method = job.method
    if method.name not in LOCAL_METHODS:
        why = _WHY_NOT_LOCAL.get(method.name, "nobody has looked at it")
        yield (
            f"{_PRIVATE}: method {method.name} has no private form ({why}); choose one of: "
            f"{', '.join((*PRIVATE_METHODS, *LOCAL_METHODS))}"
        )
        return
    if budget.noise != "own":
        yield (
            f"{_PRIVATE}: with method {method.name} each hospital trains with all the noise of its own; noise: expected own, got "
            f"{budget.noise}. For noise in shares choose one of: {', '.join(PRIVATE_METHODS)}"
        )
    if budget.hospitals is not None:
        yield f"{_PRIVATE}.hospitals: for unit: hospital only; leave it out"
    if method.optimizer != "sgd" or method.weight_decay:
        yield (
            f"{_PRIVATE}: local training with noise is plain DP-SGD: method.optimizer: expected sgd, got {method.optimizer}; "
            f"weight_decay: expected 0, got {method.weight_decay:g}"
        )
    if method.class_weights != "none":
        yield f"{_PRIVATE}: class_weights: the numbers of each class would have to be released; expected none"
    if method.batch_size != LOCAL_TRAINING["batch_size"]:
        yield (
            f"{_PRIVATE}: a step takes patients by sampling_rate, not so many images; leave method.batch_size out, got "
            f"{method.batch_size}"
        )


def _against_hospitals_as_units(job: "Job", budget: DifferentialPrivacy) -> Iterator[str]:
    """Of noise that the coordinator adds."""
    unit = f"{_PRIVATE}.unit: hospital"
    if job.method.name not in HOSPITAL_METHODS:
        why = _WHY_NOT_HOSPITAL.get(job.method.name, "it has no changes of the model to clip")
        yield f"{unit}: not with method {job.method.name}: {why}; choose one of: {', '.join(HOSPITAL_METHODS)}"
    if budget.noise != "coordinator" or budget.colluding:
        yield f"{unit}: the coordinator adds the noise, hospitals none: noise: expected coordinator, colluding: expected 0"
    if job.privacy.secure_aggregation:
        yield f"{unit}: the coordinator clips each hospital's change, so it must see it; write secure_aggregation: false"
    if budget.hospitals is None:
        yield f"{unit}: hospitals: expected how many are registered (the mean divides by it, whoever answers), got nothing"
        return
    if budget.hospitals < job.quorum.min_hospitals:
        yield (
            f"{unit}: hospitals: expected at least quorum.min_hospitals, {job.quorum.min_hospitals}, got {budget.hospitals}"
        )
    expected = budget.hospitals * (budget.sampling_rate or 1.0)
    if expected < 1 or abs(expected - round(expected)) > 1e-6:
        yield (
            f"{unit}: sampling_rate x hospitals: expected a whole number of hospitals, 1 or more, got {expected:g} "
            f"({budget.sampling_rate:g} x {budget.hospitals})"
        )


def fill_private(content: dict[str, object]) -> dict[str, object]:
    """What a private job leaves open: no validation patients, and constants that are no patient's."""
    privacy = content.get("privacy")
    budget = privacy.get("differential_privacy") if isinstance(privacy, dict) else None
    if not isinstance(privacy, dict) or budget is None:
        return content
    evaluation, method = content.get("evaluation", {}), content.get("method", "analytic")
    method = {"name": method} if isinstance(method, str) else method
    if isinstance(evaluation, dict):
        content = {**content, "evaluation": {"validation_fraction": 0.0, **evaluation}}
    if not isinstance(method, dict):
        return content
    name = method.get("name", "analytic")
    of_hospitals = isinstance(budget, dict) and budget.get("unit") == "hospital"
    if name == "analytic":
        method = {"projection": PROJECTED, **method}
    if of_hospitals and isinstance(budget, dict):
        method = {**HOSPITAL_DEFAULTS, **method} if name in HOSPITAL_METHODS else method
        budget = {"noise": "coordinator", "clip": HOSPITAL_CLIP, "sampling_rate": 1.0, **budget}
    elif name in LOCAL_METHODS and isinstance(budget, dict):
        method = {**LOCAL_DEFAULTS, **method}
        budget = {"clip": LOCAL_CLIP, "sampling_rate": 1.0, **budget}
    return {**content, "method": method, "privacy": {**privacy, "differential_privacy": budget}}
