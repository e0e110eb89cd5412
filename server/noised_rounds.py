"""Rounds of local training with differential privacy: noise by each hospital, or by the coordinator for whole hospitals.

    noise: own           hospitals send noised heads; they are combined as the method says, each by its noised number of patients
    unit: hospital       hospitals send their heads; each change is clipped, noise is added to their sum (`server/central_dp.py`),
                         and the method goes on from the mean

All that is made from noised numbers is as private as they are: the mean, what a method remembers, every model. The last model is
kept, since nothing is chosen by validation patients: their counts have no noise.
"""

import logging
import math
import os
import time
from collections.abc import Mapping

import numpy as np

from common.dp.noise import Entropy
from common.dp.private_features import centre_of
from common.errors import FederationError
from common.head import Head, Standardisation
from common.job import Job
from common.model import Model
from common.privacy import LOCAL_SPREAD
from common.private_release import budget_of, spent_after, step_multiplier
from common.unlike import Spread
from server.aggregation import Aggregation, Fitted, Told
from server.central_dp import CentralDp
from server.checkpoint import Checkpoint, Round
from server.hooks import Hooks
from server.members import Members
from server.private_training import save
from server.questions import listed
from server.strategies import Aggregator, Update, answers_needed
from server.training import LOST_ROUNDS_IN_A_ROW

log = logging.getLogger(__name__)

USEFUL_SIGNAL = 2.0
"""Below this `signal` a model loses much: 0.03 of AUROC at 1.9, 0.17 at 0.7 (`benchmarks/privacy/client_level.py`)."""

_ALL = "all hospitals"


def local_centre(members: Members) -> tuple[Standardisation, float]:
    """How features are standardised, and about how many patients there are, by what each hospital told with noise."""
    told = [member.centre for member in members.members if member.centre is not None]
    return centre_of(np.sum(told, axis=0), LOCAL_SPREAD)


def uncentred(job: Job) -> Standardisation:
    """How features are standardised where hospitals are protected: by constants, since a centre would have to be paid for."""
    features = job.num_features
    return Standardisation(np.zeros(features, np.float16), np.full(features, LOCAL_SPREAD, np.float16))


def central_dp_of(job: Job) -> CentralDp:
    """How the coordinator protects hospitals, as the job says.

    Raises:
        ConfigError: as `common.private_release.step_multiplier`.
    """
    budget = budget_of(job)
    hospitals = budget.hospitals or 1
    expected = round(hospitals * (budget.sampling_rate or 1.0))
    return CentralDp(step_multiplier(job), budget.clip or math.inf, hospitals, expected)


def signal(job: Job) -> float:
    """How far hospitals that agree can move the model in all rounds, over the length of the noise in it."""
    private = central_dp_of(job)
    numbers = job.num_classes * (job.num_features + 1)
    noise = private.noise_multiplier * math.sqrt(job.method.rounds * numbers)
    return math.inf if not noise else private.expected * job.method.rounds / noise


class NoisedRounds:
    """As `server.training.Training`. entropy: of the coordinator's noise and of who is drawn."""

    best_round: int | None
    choice: Mapping[str, object] | None = None  # nothing is chosen
    final_choice: Mapping[str, object] | None = None
    spread: Spread | None = None  # exact sums do not leave

    def __init__(
        self, asking: Aggregation, hooks: Hooks, resume: Checkpoint | None, entropy: Entropy = os.urandom
    ) -> None:
        self._asking, self._hooks, self._entropy = asking, hooks, entropy
        self._questions, self._job = asking.questions, asking.questions.job
        self._aggregator = Aggregator(self._job.method)
        self._central = central_dp_of(self._job) if self._job.hospitals_protected else None
        if self._central is not None:
            self._look_at_hospitals(self._central)
        self.best_model = Model(Head.zeros(self._job.num_classes, self._job.num_features))
        self.best_round, self.done = None, 0
        if resume is not None:
            self.best_model, self.best_round, self.done = resume.model, resume.last.number, resume.last.number
            self._aggregator.restore(resume.strategy)

    def run(self) -> None:
        """The rounds that are left.

        Raises:
            FederationError: no round had a quorum.
        """
        lost, dropped = 0, self._questions.members.dropped
        while self.done < self._job.method.rounds and lost < LOST_ROUNDS_IN_A_ROW:
            made = self._round(self.done + 1)
            self.done, dropped = made.number, made.dropped
            lost = lost + 1 if made.lost else 0
            if made.lost:
                for judged in self._hooks.judged:
                    judged(made)
                continue
            self.best_round = made.number
            save(self._asking, self._hooks, made, self.best_model, self._aggregator.state())
        if self.best_round is None:
            raise FederationError(f"no round had a quorum, so there is no model: {listed(dropped)}")

    def _round(self, number: int) -> Round:
        start = time.perf_counter()
        with self._questions.meter.phase("fit"):
            self._questions.membership.refresh(number)
            nodes = self._drawn()
            fitted = self._asking.fit(self.best_model, number, {}, nodes) if nodes != {} else Fitted(Told((), {}, 0, 0))
            told = fitted.told
            lost = len(told.answered) < min(answers_needed(self._job), math.inf if nodes is None else len(nodes))
            if not lost:
                self._combine(number, list(fitted.updates))
        outside = self._questions.members.dropped
        return fitted.as_round(number, lost, outside, start, epsilon=spent_after(self._job, number))

    def _combine(self, number: int, updates: list[Update]) -> None:
        if self._central is not None:
            mean = self._central.combine(self.best_model, updates, self._entropy)
            updates = [Update(_ALL, mean, 1)]
        self.best_model = self._aggregator.combine(number, self.best_model, updates)

    def _drawn(self) -> dict[int, str] | None:
        """Who is asked in a round, each with the same probability and by a secure generator; None: everyone."""
        rate = budget_of(self._job).sampling_rate if self._central is not None else None
        if rate is None or rate == 1:
            return None
        members = self._questions.members.by_node()
        words = np.frombuffer(self._entropy(8 * len(members)), np.uint64) >> np.uint64(11)
        return {
            node: one.name for (node, one), word in zip(members.items(), words, strict=True) if word < rate * 2.0**53
        }

    def _look_at_hospitals(self, central: CentralDp) -> None:
        """Raises FederationError where more take part than the job says; warns where they are too few to leave a model."""
        members, job = len(self._questions.members.members), self._job
        if members > central.hospitals:
            raise FederationError(
                f"job '{job.name}': privacy.differential_privacy.hospitals is {central.hospitals}, and {members} take part; the "
                "accounting needs a number that is not exceeded: write a greater one"
            )
        if (found := signal(job)) < USEFUL_SIGNAL:
            log.warning(
                "%s: over all rounds hospitals can move the model %.2g times as far as the noise is long; expected %g or more, "
                "for which about %d hospitals are needed in a round at this epsilon (%d are expected)",
                job.name,
                found,
                USEFUL_SIGNAL,
                math.ceil(central.expected * USEFUL_SIGNAL / found),
                central.expected,
            )
