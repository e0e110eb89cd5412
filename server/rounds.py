"""The one round loop: describe, n rounds of fit, evaluate. Whoever wants to watch or to save gives hooks.

A round asks every hospital, lets the guard look at each answer, and combines what is left. A hospital that declines, hangs
or sends nonsense costs its own update only; a round without a quorum changes nothing.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.backbones import backbone_row
from common.errors import ArtifactError, FederationError
from common.head import Head, Standardisation
from common.job import Job
from common.metrics import ClassificationCounts, Metrics, better, derive
from common.wire import (
    AnyArray,
    Packed,
    dimensions,
    pack_head,
    pack_heads,
    pack_standardisation,
    unpack_counts,
    unpack_head,
)
from server.checkpoint import Checkpoint, Round
from server.exchange import Asked, Exchange
from server.guard import Expected, screen
from server.members import Members, accept_members
from server.meter import Meter
from server.strategies import Aggregator, Update, hospitals_needed

log = logging.getLogger(__name__)

LOST_ROUNDS_IN_A_ROW = 3
"""So many rounds without a quorum end the training."""


@dataclass(frozen=True)
class Hooks:
    """Functions called as the run goes on: with the members, with each judged round, with the state after each round."""

    described: Sequence[Callable[[Members], None]] = ()
    judged: Sequence[Callable[[Round], None]] = ()
    checkpoint: Sequence[Callable[[Checkpoint], None]] = ()


@dataclass(frozen=True)
class Outcome:
    """A finished run. `head` (C, D) reads raw features; `test` has the counts of each hospital's test patients."""

    members: Members
    head: Head
    best_round: int
    rounds: int
    test: Mapping[str, ClassificationCounts]
    test_dropped: Mapping[str, str]
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]


def run_job(job: Job, exchange: Exchange, hooks: Hooks | None = None, resume: Checkpoint | None = None) -> Outcome:
    """Train one job with the connected hospitals.

    Raises:
        FederationError: too few hospitals take part, or no round had a quorum.
        ArtifactError: `resume` is of another job or another feature space.
    """
    hooks = hooks or Hooks()
    meter = Meter()
    with meter.phase("total"):
        with meter.phase("describe"):
            members = _describe(job, exchange, meter)
        for described in hooks.described:
            described(members)
        training = _Training(job, exchange, members, hooks, meter, resume)
        training.run()
        with meter.phase("evaluate"):
            test, dropped = training.evaluate(training.best_head, "test")
    if not test:
        log.warning("no hospital evaluated the model on test patients: %s", dropped)
    return Outcome(
        members=members,
        head=training.standardisation.fold(training.best_head),
        best_round=training.best_round,
        rounds=training.done,
        test=test,
        test_dropped=dropped,
        bytes_down=meter.bytes_down,
        bytes_up=meter.bytes_up,
        seconds=meter.seconds,
    )


def _describe(job: Job, exchange: Exchange, meter: Meter) -> Members:
    needed = max(job.quorum.min_hospitals, hospitals_needed(job.method))
    nodes = exchange.wait_for(needed, job.quorum.deadline_s)
    asked = exchange.ask("describe", Packed({}, {"job": job.canonical_json()}), nodes, 0, job.quorum.deadline_s)
    meter.count(asked)
    return accept_members(job, nodes, asked, needed)


def _standardisation(members: Members) -> Standardisation:
    """Mean and deviation of the federation's training features, from the hospitals' sums."""
    told = [member.description for member in members.members]
    return Standardisation.from_sums(
        sum(one.examples for one in told),
        np.sum([one.sums for one in told], axis=0),
        np.sum([one.squares for one in told], axis=0),
    )


class _Training:
    """The rounds of one run: the global head, and the best one so far by the validation patients.

    The head a round makes is judged by the replies of the next round, and the last one by a question of its own.
    """

    def __init__(
        self, job: Job, exchange: Exchange, members: Members, hooks: Hooks, meter: Meter, resume: Checkpoint | None
    ) -> None:
        self._job, self._exchange, self._members, self._hooks, self._meter = job, exchange, members, hooks, meter
        self._aggregator = Aggregator(job.method)
        self._dims = dimensions(job.num_classes, backbone_row(job.backbone.name).features)
        self._dropped: Mapping[str, str] = members.dropped
        if resume is None:
            self.standardisation = _standardisation(members)
            self._head = self.best_head = Head.zeros(job.num_classes, self._dims["D"])
            self._best_validation: Metrics | None = None
            self._pending: Round | None = None
            self.best_round = self.done = 0
            return
        if (resume.job_id, resume.fingerprint) != (job.job_id, members.fingerprint):
            raise ArtifactError(
                "the checkpoint is of another job or another feature space; resume the job it was made by"
            )
        self.standardisation = resume.standardisation
        self._head, self.best_head = resume.head, resume.best_head
        self._best_validation, self.best_round = resume.best_validation, resume.best_round
        self._pending, self.done = resume.last, resume.last.number
        self._aggregator.restore(resume.strategy)

    def run(self) -> None:
        """The rounds that are left; fewer if validation no longer improves or the quorum stays away.

        Raises:
            FederationError: no round had a quorum.
        """
        lost = 0
        while self.done < self._job.method.rounds and lost < LOST_ROUNDS_IN_A_ROW:
            sent = self._head
            made, judged = self._fit(self.done + 1)
            if self._pending is not None:
                self._judge(self._pending, sent, judged)
                patience = self._job.method.patience
                if patience is not None and self._pending.number - self.best_round >= patience:
                    self._pending = None
                    break
            self._pending, self.done = made, made.number
            lost = lost + 1 if made.lost else 0
            if not made.lost:
                self._save(made)
        if self._pending is not None:
            with self._meter.phase("evaluate"):
                counts, _ = self.evaluate(self._head, "validation")
            self._judge(self._pending, self._head, _pooled(counts.values()))
        if self.best_round == 0:
            raise FederationError(
                "no round had a quorum, so there is no model: "
                + "; ".join(f"{name}: {reason}" for name, reason in self._dropped.items())
            )

    def _fit(self, number: int) -> tuple[Round, ClassificationCounts | None]:
        """One round: what happened, and the pooled validation counts of the head that was sent."""
        start = time.perf_counter()
        with self._meter.phase("fit"):
            request = self._request(pack_head(self._head), {"round": number})
            good, dropped, asked = self._ask("fit", request, number, {"round": number}, "validation")
            heads = {name: unpack_head(reply.arrays) for name, reply in good.items()}
            updates = [Update(name, head, int(good[name].fields["examples"])) for name, head in heads.items()]
            norms = {name: head.distance(self._head) for name, head in sorted(heads.items())}
            lost = len(updates) < max(self._job.quorum.min_hospitals, hospitals_needed(self._job.method))
            if not lost:
                self._head = self._aggregator.combine(number, self._head, updates)
        for name, reason in dropped.items():
            log.warning("round %d goes on without %s: %s", number, name, reason)
        examples = sum(update.examples for update in updates)
        self._dropped = dropped
        made = Round(
            number=number,
            lost=lost,
            train_loss=sum(float(reply.fields["loss-sum"]) for reply in good.values()) / examples if examples else None,
            update_norms=norms,
            dropped=dropped,
            bytes_down=asked.bytes_down,
            bytes_up=asked.bytes_up,
            seconds=time.perf_counter() - start,
        )
        return made, _pooled(unpack_counts(reply.arrays)[0] for reply in good.values())

    def evaluate(self, head: Head, part: str) -> tuple[dict[str, ClassificationCounts], dict[str, str]]:
        """Counts of a head on one part of the data, by hospital, and the hospitals that gave none."""
        request = self._request(pack_heads([head]), {"part": part})
        good, dropped, _ = self._ask("evaluate", request, self.done, {"part": part}, part)
        return {name: unpack_counts(reply.arrays)[0] for name, reply in sorted(good.items())}, dropped

    def _request(self, arrays: Mapping[str, AnyArray], fields: Mapping[str, str | int]) -> Packed:
        return Packed(
            {**arrays, **pack_standardisation(self.standardisation)},
            {"job": self._job.canonical_json(), "fingerprint": self._members.fingerprint, **fields},
        )

    def _ask(
        self, kind: str, request: Packed, number: int, fields: Mapping[str, str | int], part: str
    ) -> tuple[dict[str, Packed], dict[str, str], Asked]:
        """Ask all members: the good replies by hospital, why others have none, and what was sent."""
        members = self._members.by_node()
        asked = self._exchange.ask(kind, request, members, number, self._job.quorum.deadline_s)
        self._meter.count(asked)
        exact = {"job-id": self._job.job_id, "fingerprint": self._members.fingerprint, **fields}
        good: dict[str, Packed] = {}
        dropped = {members[node].name: reason for node, reason in asked.failures.items()}
        for node, answers in asked.answers.items():
            member = members[node]
            expected = Expected(
                kind=kind,
                dims=self._dims,
                fields=exact,
                part=part,
                support=member.description.images,
                examples=member.description.examples,
                start=self._head,
                max_update_norm=self._job.guard.max_update_norm,
            )
            checked = screen(answers, expected)
            if isinstance(checked, str):
                dropped[member.name] = checked
            else:
                good[member.name] = checked
        return good, dict(sorted(dropped.items())), asked

    def _judge(self, made: Round, head: Head, counts: ClassificationCounts | None) -> None:
        """Record a round with the validation metrics of its head, and keep the head if it is the best so far."""
        metrics = derive(counts) if counts is not None else None
        if not made.lost and _improves(metrics, self._best_validation, self._job.evaluation.select_by):
            self.best_head, self.best_round, self._best_validation = head, made.number, metrics
        for judged in self._hooks.judged:
            judged(replace(made, validation=metrics))

    def _save(self, made: Round) -> None:
        state = Checkpoint(
            job_id=self._job.job_id,
            fingerprint=self._members.fingerprint,
            last=made,
            head=self._head,
            best_round=self.best_round,
            best_validation=self._best_validation,
            best_head=self.best_head,
            standardisation=self.standardisation,
            strategy=self._aggregator.state(),
        )
        for checkpoint in self._hooks.checkpoint:
            checkpoint(state)


def _improves(candidate: Metrics | None, incumbent: Metrics | None, select_by: str) -> bool:
    """Whether a head is better on validation patients: by the chosen metric, then by log loss (few patients tie often).

    Without any validation the later head is taken.
    """
    new, old = (getattr(metrics, select_by, None) for metrics in (candidate, incumbent))
    if new == old and candidate and incumbent and candidate.log_loss is not None:
        return better("log_loss", candidate.log_loss, incumbent.log_loss)
    return old is None or better(select_by, new, old)


def _pooled(counts: Iterable[ClassificationCounts]) -> ClassificationCounts | None:
    """The sum of some counts; None of none."""
    total: ClassificationCounts | None = None
    for one in counts:
        total = one if total is None else total + one
    return total
