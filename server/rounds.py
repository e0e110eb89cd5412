"""One run: describe, the rounds, evaluate. Whoever wants to watch or to save gives hooks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from server.aggregation import Aggregation, Counted, SingleAnswers
from server.beginning import describe, initial_arrays, require_same_job, standardisation_of
from server.calibration import calibrated, unlike_limit
from server.checkpoint import Checkpoint
from server.exchange import Exchange
from server.failures import Failure, Failures
from server.hooks import Hooks as Hooks
from server.members import Members
from server.meter import Meter
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
    one. patients: in training, by the noised count of a private job. after: what was asked when the model was there. Bytes,
    seconds and failures are of all processes of a resumed run.
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
        training = _training(asking, patients, hooks, pretrained, resume)
        training.run()
        number = training.best_round or 0
        final = calibrated(asking, training.best_model, number, training.final_choice)
        spread, limit, why = unlike_limit(asking, training.spread)
        best, missing = final.model, {**final.missing, **({"unlike": why} if why else {})}
        with meter.phase("evaluate"):
            membership.refresh(training.done)
            counted = asking.count_heads([best.head], "test", number, best.tuned)
        test = {name: counts[0] for name, counts in counted.hospitals.items()}
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
        patients=round(patients) if job.private else None,
        after=after,
        bedside=Bedside(final.calibration, final.operating_point, spread, limit, missing),
    )


def _aggregation(questions: Questions, secrecy: Secrecy | None) -> Aggregation:
    if not questions.job.privacy.secure_aggregation:
        return SingleAnswers(questions)
    if secrecy is None:
        raise ConfigError(f"job '{questions.job.name}' wants secure aggregation, and there is no roster of node keys")
    return SecureSums(questions, secrecy.roster, OpenedSums(secrecy.run))


def _beginning(asking: Aggregation, resume: Checkpoint | None) -> tuple[Standardisation, float]:
    """How features are standardised and, in a private job, about how many patients there are."""
    if asking.questions.job.private and isinstance(asking, SecureSums):
        return centre(asking)
    return resume.standardisation if resume else standardisation_of(list(asking.holdings().values())), 0.0


def _training(
    asking: Aggregation,
    patients: float,
    hooks: Hooks,
    pretrained: Mapping[str, Float32],
    resume: Checkpoint | None,
) -> Training | PrivateTraining:
    if isinstance(asking, SecureSums) and asking.questions.job.private:
        return PrivateTraining(asking, patients, hooks, resume)
    return Training(asking, hooks, pretrained, resume)


def _pooled(counted: Counted, job: Job) -> ClassificationCounts:
    if counted.pooled:
        return counted.pooled[0]
    if job.privacy.secure_aggregation:
        log.warning("there are no test counts: %s", "; ".join(counted.dropped.values()))
    return ClassificationCounts.zeros(job.num_classes)
