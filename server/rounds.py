"""One run: describe, the rounds, evaluate. Whoever wants to watch or to save gives hooks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.artifact import Calibration
from common.errors import ConfigError
from common.head import Float32, Standardisation
from common.job import Job
from common.messages import Description
from common.metrics import ClassificationCounts
from common.model import Model
from common.operating_point import OperatingPoint
from common.secure_sum.roster import Roster
from common.unlike import Spread, UnlikeLimit
from server.afterwards import Afterwards, afterwards
from server.aggregation import Aggregation, Counted, Grouped, SingleAnswers
from server.beginning import describe, initial_arrays, require_same_job
from server.calibration import calibrated, unlike_limit
from server.checkpoint import Checkpoint
from server.duplicate_check import SharedImages, check_duplicates
from server.exchange import Exchange
from server.failures import Failure, Failures
from server.hooks import Hooks as Hooks
from server.members import Members
from server.meter import Meter
from server.noised_rounds import NoisedRounds, local_centre, uncentred
from server.opened_sums import OpenedSums
from server.private_training import PrivateTraining, centre
from server.questions import Questions
from server.secure_aggregation import SecureSums
from server.training import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bedside:
    """What a diagnosis needs besides the model. missing: what is not there, and why."""

    calibration: Calibration | None
    operating_point: OperatingPoint | None
    spread: Spread | None
    unlike: UnlikeLimit | None
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A finished run. The head of `model` (C, D) reads raw features.

    described: what hospitals have; pooled and test: counts of the test patients, of all and by hospital. Under secure aggregation
    only sums are known: described has one entry, for all hospitals, and test none; in a private job described has none either.
    failures: hospitals that were missing somewhere, with the reason. choice: how the closed-form head came about; None without
    one. patients: in training, by the noised counts of a job that protects patients. after: what was asked when the model was
    there. duplicates: pairs of hospitals that have images in common; None where the job does not ask. groups: counts of the test
    patients by group, if the job asks. Bytes, seconds and failures are of all processes of a resumed run.
    """

    members: Members
    described: Mapping[str, Description]
    model: Model
    best_round: int
    rounds: int
    pooled: ClassificationCounts
    test: Mapping[str, ClassificationCounts]
    failures: Sequence[Failure]
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    choice: Mapping[str, object] | None
    patients: int | None
    after: Afterwards
    bedside: Bedside
    duplicates: Sequence[SharedImages] | None = None
    groups: Grouped = field(default_factory=Grouped)


@dataclass(frozen=True)
class Secrecy:
    """What a run under secure aggregation needs: the hospitals' node keys, and the run directory, where opened sums are kept."""

    roster: Roster
    run: Path


def run_job(
    job: Job,
    exchange: Exchange,
    hooks: Hooks | None = None,
    resume: Checkpoint | None = None,
    secrecy: Secrecy | None = None,
) -> Outcome:
    """Train one job with the connected hospitals. secrecy: for a job with secure aggregation, and only for one.

    Raises:
        ConfigError: the job wants secure aggregation, and `secrecy` is not given.
        FederationError: too few hospitals take part, or no round had a quorum.
        ArtifactError: `resume` is of another job or another feature space.
    """
    hooks = hooks or Hooks()
    meter, failures = Meter(), Failures(resume.failures if resume else ())
    if resume is not None:
        meter.add(resume.spent)
    with meter.phase("total"):
        with meter.phase("describe"):
            membership = describe(job, exchange, meter, failures, hooks.tell)
            require_same_job(job, membership.members, resume)
            questions = Questions(job, exchange, membership, meter, failures, watch=hooks.tell)
            asking = _aggregation(questions, secrecy)
            standardisation, patients = _beginning(asking, resume)
            questions = replace(questions, standardisation=standardisation)
            pretrained = initial_arrays(questions) if job.tune.deep else {}
            questions = replace(questions, tuned={name: array.shape for name, array in pretrained.items()})
            asking = _aggregation(questions, secrecy)
        for one in hooks.described:
            one(membership.members)
        duplicates = check_duplicates(questions) if job.duplicates == "check" else None
        training = _training(asking, patients, hooks, pretrained, resume)
        training.run()
        number = training.best_round or 0
        final = calibrated(asking, training.best_model, number, training.final_choice)
        spread, limit, why = unlike_limit(asking, training.spread)
        best, missing = final.model, {**final.missing, **({"unlike": why} if why else {})}
        with meter.phase("evaluate"):
            membership.refresh(training.done)
            counted = asking.count_heads([best.head], "test", number, best.tuned)
        test = counted.hospitals
        groups = Grouped()
        if job.evaluation.groups:
            with meter.phase("groups"):
                groups = asking.count_groups(best, number)
        after = afterwards(questions, best, number, pretrained, test)
    for name, reason in counted.dropped.items():
        log.warning("%s is missing from the test: %s", name, reason)
    return Outcome(
        members=membership.members,
        # Asked again: who came later has described itself since.
        described=asking.holdings(),
        model=Model(standardisation.fold(best.head), best.tuned),
        best_round=number,
        rounds=training.done,
        pooled=_pooled(counted, job),
        test=test,
        failures=failures.found,
        bytes_down=meter.bytes_down,
        bytes_up=meter.bytes_up,
        seconds=meter.seconds,
        choice=training.choice,
        patients=round(patients) if job.private and not job.hospitals_protected else None,
        after=after,
        duplicates=duplicates,
        bedside=Bedside(final.calibration, final.operating_point, spread, limit, missing),
        groups=groups,
    )


def _aggregation(questions: Questions, secrecy: Secrecy | None) -> Aggregation:
    if not questions.job.privacy.secure_aggregation:
        return SingleAnswers(questions)
    if secrecy is None:
        raise ConfigError(f"job '{questions.job.name}' wants secure aggregation, and there is no roster of node keys")
    return SecureSums(questions, secrecy.roster, OpenedSums(secrecy.run))


def _beginning(asking: Aggregation, resume: Checkpoint | None) -> tuple[Standardisation, float]:
    """How features are standardised and, in a private job, about how many patients there are."""
    job = asking.questions.job
    if job.hospitals_protected:
        return uncentred(job), 0.0
    if job.private and isinstance(asking, SecureSums):
        return centre(asking)
    if job.noised_locally:
        found, patients = local_centre(asking.questions.members)
        return resume.standardisation if resume else found, patients
    return resume.standardisation if resume else asking.centre().standardisation(), 0.0


def _training(
    asking: Aggregation,
    patients: float,
    hooks: Hooks,
    pretrained: Mapping[str, Float32],
    resume: Checkpoint | None,
) -> Training | PrivateTraining | NoisedRounds:
    if asking.questions.job.noised_locally or asking.questions.job.hospitals_protected:
        return NoisedRounds(asking, hooks, resume)
    if isinstance(asking, SecureSums) and asking.questions.job.private:
        return PrivateTraining(asking, patients, hooks, resume)
    return Training(asking, hooks, pretrained, resume)


def _pooled(counted: Counted, job: Job) -> ClassificationCounts:
    if counted.pooled:
        return counted.pooled[0]
    if job.privacy.secure_aggregation:
        log.warning("there are no test counts: %s", "; ".join(counted.dropped.values()))
    return ClassificationCounts.zeros(job.num_classes)
