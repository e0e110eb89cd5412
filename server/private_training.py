"""Training with differential privacy: the coordinator sees noised sums over hospitals, and makes the head from nothing else.

    centre                the features' centre, and about how many patients there are: one noised sum
    analytic              the sums of the closed form: one noised sum
    dp-gd                 the gradient of each round: `method.rounds` noised sums

Together they spend the job's epsilon (`common.private_release`). Nothing is chosen by validation patients: their counts have no
noise.

Letters: C classes, D features.
"""

import logging
import time
from collections.abc import Mapping

from common.dp.gradient_descent import DescentState, result, step
from common.dp.noisy_sums import SPREAD, solve, unprojected
from common.dp.private_features import centre_of
from common.errors import FederationError
from common.head import Float64, Head, Standardisation
from common.model import Model
from common.privacy import LOCAL_SPREAD
from common.private_release import spent_after
from common.projection import projection_of
from server.aggregation import Aggregation
from server.checkpoint import Checkpoint, Round
from server.hooks import Hooks
from server.questions import listed, standardisation_in
from server.secure_aggregation import Noised, SecureSums
from server.strategies import answers_needed

log = logging.getLogger(__name__)

TRIES = 3
"""How often a sum is asked for, where a session loses too many hospitals."""


def centre(asking: SecureSums) -> tuple[Standardisation, float]:
    """How features are standardised, and about how many patients there are.

    Raises:
        FederationError: the sum could not be had.
    """
    job = asking.questions.job
    spread = job.method.descent.spread if job.method.noised_gradients else SPREAD
    spread = LOCAL_SPREAD if job.noised_locally else spread
    return centre_of(_sum(asking, "centre", 0).values, spread)


class PrivateTraining:
    """As `server.training.Training`; patients: about how many there are, by `centre`."""

    best_round: int | None

    def __init__(self, asking: SecureSums, patients: float, hooks: Hooks, resume: Checkpoint | None) -> None:
        self._asking, self._patients, self._hooks = asking, patients, hooks
        self._job = job = asking.questions.job
        self._state = DescentState.start(job.num_classes, job.num_features)
        self.choice: Mapping[str, object] | None = None  # nothing is chosen
        self.final_choice, self.spread = self.choice, None
        self.best_model, self.best_round, self.done = Model(self._state.head), None, 0
        if resume is not None:
            self.done = self.best_round = resume.last.number
            self.best_model = resume.best_model
            kept = resume.strategy
            if job.method.noised_gradients:
                self._state = DescentState(kept["weight"], kept["velocity"], kept["summed"], self.done)

    def run(self) -> None:
        """The rounds that are left.

        Raises:
            FederationError: a sum could not be had.
        """
        while self.done < self._job.method.rounds:
            start, number = time.perf_counter(), self.done + 1
            with self._asking.questions.meter.phase("fit" if self._job.method.noised_gradients else "statistics"):
                self._asking.questions.membership.refresh(number)
                noised = self._descend(number) if self._job.method.noised_gradients else self._solve()
            self.done = self.best_round = number
            self._record(number, noised, time.perf_counter() - start)

    def _solve(self) -> Noised:
        job = self._job
        noised = _sum(self._asking, "noised-statistics", 1)
        head = solve(noised.values, job.num_classes, noised.sigma)
        self.best_model = Model(head if job.method.projection is None else unprojected(head, projection_of(job)))
        return noised

    def _descend(self, number: int) -> Noised:
        noised = _sum(self._asking, "gradient", number, self._state.head)
        self._state = step(self._state, noised.values, self._patients, self._job.method.descent)
        self.best_model = Model(result(self._state, self._job.method.descent))
        return noised

    def _record(self, number: int, noised: Noised, seconds: float) -> None:
        told = noised.told
        made = Round(
            number=number,
            lost=False,
            answered=sorted(told.answered),
            train_loss=None,
            update_norms={},
            dropped=told.dropped,
            outside=self._asking.questions.members.dropped,
            bytes_down=told.bytes_down,
            bytes_up=told.bytes_up,
            seconds=seconds,
            epsilon=spent_after(self._job, number),
        )
        state = {"weight": self._state.weight, "velocity": self._state.velocity, "summed": self._state.summed}
        save(self._asking, self._hooks, made, self.best_model, state if self._job.method.noised_gradients else {})


def save(asking: Aggregation, hooks: Hooks, made: Round, model: Model, strategy: Mapping[str, Float64]) -> None:
    """Record a round whose model nobody judges, and what to go on from."""
    questions = asking.questions
    checkpoint = Checkpoint(
        job_id=questions.job.job_id,
        fingerprint=questions.members.fingerprint,
        last=made,
        model=model,
        best_round=made.number,
        best_validation=None,
        best_model=model,
        standardisation=standardisation_in(questions),
        strategy=strategy,
        spent=questions.meter.spent,
        failures=questions.failures.found,
    )
    for judged in hooks.judged:
        judged(made)
    for write in hooks.checkpoint:
        write(checkpoint)
    asking.built_on()


def _sum(asking: SecureSums, kind: str, number: int, head: Head | None = None) -> Noised:
    """A noised sum of enough hospitals; a session that fails has opened nothing, so another may be tried."""
    arrays, dropped = Model(head).arrays() if head is not None else None, {}
    for _ in range(TRIES):
        found, told = asking.noised(kind, number, arrays)
        if found is not None and len(told.answered) >= answers_needed(asking.questions.job):
            return found
        dropped = dict(told.dropped)
        asking.questions.membership.refresh(number)
    raise FederationError(f"the noised sum '{kind}' could not be had: {listed(dropped)}")
