"""One run: describe, the rounds, evaluate. Whoever wants to watch or to save gives hooks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.job import Job
from common.metrics import ClassificationCounts
from common.model import Model
from server.afterwards import Afterwards, afterwards
from server.beginning import describe, initial_arrays, require_same_job, standardisation_of
from server.checkpoint import Checkpoint
from server.exchange import Exchange
from server.failures import Failure, Failures
from server.members import Members
from server.meter import Meter
from server.questions import Questions
from server.training import Hooks as Hooks
from server.training import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A finished run. The head of `model` (C, D) reads raw features; `test` has the counts of each hospital's test patients.

    failures: hospitals that were missing somewhere, with the reason. choice: how the closed-form head came about; None without
    one. after: what was asked when the model was there. Bytes, seconds and failures are of all processes of a resumed run.
    """

    members: Members
    model: Model
    best_round: int
    rounds: int
    test: Mapping[str, ClassificationCounts]
    failures: Sequence[Failure]
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    choice: Mapping[str, object] | None
    after: Afterwards


def run_job(job: Job, exchange: Exchange, hooks: Hooks | None = None, resume: Checkpoint | None = None) -> Outcome:
    """Train one job with the connected hospitals.

    Raises:
        FederationError: too few hospitals take part, or no round had a quorum.
        ArtifactError: `resume` is of another job or another feature space.
    """
    hooks = hooks or Hooks()
    meter, failures = Meter(), Failures(resume.failures if resume else ())
    if resume is not None:
        meter.add(resume.spent)
    with meter.phase("total"):
        with meter.phase("describe"):
            membership = describe(job, exchange, meter, failures)
            require_same_job(job, membership.members, resume)
            standardisation = resume.standardisation if resume else standardisation_of(membership.members)
            questions = Questions(job, exchange, membership, meter, failures, standardisation)
            pretrained = initial_arrays(questions) if job.tune.deep else {}
            questions = replace(questions, tuned={name: array.shape for name, array in pretrained.items()})
        for described in hooks.described:
            described(membership.members)
        training = Training(questions, hooks, pretrained, resume)
        training.run()
        with meter.phase("evaluate"):
            membership.refresh(training.done)
            test, dropped = questions.count(training.best_model, "test", training.best_round or 0)
        after = afterwards(questions, training.best_model, training.best_round or 0, pretrained, test)
    for name, reason in dropped.items():
        log.warning("%s is missing from the test: %s", name, reason)
    return Outcome(
        members=membership.members,
        model=Model(standardisation.fold(training.best_model.head), training.best_model.tuned),
        best_round=training.best_round or 0,
        rounds=training.done,
        test=test,
        failures=failures.found,
        bytes_down=meter.bytes_down,
        bytes_up=meter.bytes_up,
        seconds=meter.seconds,
        choice=training.choice,
        after=after,
    )
