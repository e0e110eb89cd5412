"""The rounds of one run: the closed-form head, n rounds of fit, and which model is the best so far.

A round asks every hospital, lets the guard look at each answer, and combines what is left. A hospital that declines, hangs
or sends nonsense costs its own update only; a round without a quorum changes nothing.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from common.candidates import improves
from common.drift import learning_rates
from common.errors import FederationError
from common.head import Float32, Head
from common.metrics import ClassificationCounts, Metrics, derive
from common.model import Model
from common.unlike import Spread
from server.aggregation import Aggregation
from server.checkpoint import Checkpoint, Round
from server.closed_form import closed_form
from server.hooks import Hooks
from server.questions import listed, standardisation_in
from server.strategies import Aggregator, answers_needed

log = logging.getLogger(__name__)

LOST_ROUNDS_IN_A_ROW = 3
"""So many rounds without a quorum end the training."""


class Training:
    """The rounds of one run: the global model, and the best one so far by the validation patients.

    The model a round makes is judged by the replies of the next round, and the last one by a question of its own.
    """

    def __init__(
        self, asking: Aggregation, hooks: Hooks, pretrained: Mapping[str, Float32], resume: Checkpoint | None
    ) -> None:
        questions = asking.questions
        self._job, self._asking, self._questions, self._hooks = questions.job, asking, questions, hooks
        self._meter = questions.meter
        lr_of = partial(learning_rates, self._job)
        self._aggregator = Aggregator(self._job.method, self._examples(), lr_of) if self._job.method.iterative else None
        self._dropped: Mapping[str, str] = questions.members.dropped
        self.best_round: int | None = None
        self.choice: Mapping[str, object] | None = None
        self.spread: Spread | None = None
        if resume is None:
            head = Head.zeros(self._job.num_classes, self._job.num_features)
            self._model = self.best_model = Model(head, pretrained)
            self._best_validation: Metrics | None = None
            self._pending: Round | None = None
            self.done = -1 if self._job.method.analytic else 0
            return
        self._questions.membership.forget_sums()
        self._model, self.best_model, self.choice = resume.model, resume.best_model, resume.choice
        self.spread = resume.spread
        self._best_validation, self.best_round = resume.best_validation, resume.best_round
        self._pending, self.done = None if resume.judged else resume.last, resume.last.number
        if self._aggregator is not None:
            self._aggregator.restore(resume.strategy)

    @property
    def final_choice(self) -> Mapping[str, object] | None:
        """How the best model came about if it is the closed-form head; None if rounds of training made it."""
        closed_form = 0 if self._job.method.iterative else 1
        return self.choice if self._job.method.analytic and self.best_round == closed_form else None

    def run(self) -> None:
        """The rounds that are left; fewer if validation no longer improves or the quorum stays away.

        Raises:
            FederationError: no round had a quorum.
        """
        if self.done < 0:
            self._closed_form()
        lost = 0
        while self.done < self._job.method.fit_rounds and lost < LOST_ROUNDS_IN_A_ROW:
            sent = self._model
            made, judged = self._fit(self.done + 1)
            if self._pending is not None:
                self._judge(self._pending, sent, judged)
                patience = self._job.method.patience
                if patience is not None and self._pending.number - (self.best_round or 0) >= patience:
                    self._pending = None
                    break
            self._pending, self.done = made, made.number
            lost = lost + 1 if made.lost else 0
            if not made.lost:
                self._save(made)
        if self._pending is not None:
            with self._meter.phase("evaluate"):
                counted = self._asking.count_heads([self._model.head], "validation", self.done, self._model.tuned)
            self._judge(self._pending, self._model, counted.pooled[0] if counted.pooled else None)
        if self.best_round is None:
            raise FederationError(f"no round had a quorum, so there is no model: {listed(self._dropped)}")

    def _closed_form(self) -> None:
        """The closed-form head: round 1 of method analytic, round 0 of a method that goes on from it.

        Raises:
            FederationError: too few hospitals sent usable sums.
        """
        with self._meter.phase("statistics"):
            found = closed_form(self._asking, answers_needed(self._job), self._model.tuned, LOST_ROUNDS_IN_A_ROW)
        made = Round(
            number=0 if self._job.method.iterative else 1,
            lost=False,
            answered=sorted(found.told.answered),
            train_loss=None,
            update_norms={},
            dropped=found.told.dropped,
            outside=self._questions.members.dropped,
            bytes_down=found.told.bytes_down,
            bytes_up=found.told.bytes_up,
            seconds=found.seconds,
            validation=found.validation,
        )
        self._model = self.best_model = Model(found.head, self._model.tuned)
        self.best_round = self.done = made.number
        self._best_validation, self.choice = found.validation, found.choice
        if self._job.sums_of_all_features:
            self.spread = Spread.of(found.ridge, standardisation_in(self._questions))
        # Recorded before it is saved: a run that goes on from the checkpoint will not judge it again.
        for judged in self._hooks.judged:
            judged(made)
        self._save(made)

    def _fit(self, number: int) -> tuple[Round, ClassificationCounts | None]:
        """One round: what happened, and the pooled validation counts of the model that was sent."""
        start = time.perf_counter()
        with self._meter.phase("fit"):
            self._questions.membership.refresh(number)
            if self._aggregator is not None:
                self._aggregator.take_members(self._examples())
            corrections = self._aggregator.corrections(self._model) if self._aggregator else {}
            mean_only = self._aggregator is not None and self._aggregator.mean_only
            fitted = self._asking.fit(self._model, number, corrections, mean_only=mean_only)
            told = fitted.told
            given = fitted.updates or fitted.mean
            lost = not given or len(told.answered) < answers_needed(self._job)
            if not lost and self._aggregator is not None:
                self._model = (
                    self._aggregator.combine_mean(number, self._model, fitted.mean)
                    if fitted.mean is not None
                    else self._aggregator.combine(number, self._model, fitted.updates)
                )
        self._dropped = told.dropped
        return fitted.as_round(number, lost, self._questions.members.dropped, start), fitted.counts

    def _examples(self) -> dict[str, int]:
        """Examples of each member, as a fit counts them."""
        # A fit that tunes the backbone counts each image once; members declare the examples that its views make.
        copies = self._job.examples_per_image if self._job.tune.deep else 1
        described = self._questions.members.descriptions()
        return {name: one.examples // copies for name, one in described.items()}

    def _judge(self, made: Round, model: Model, counts: ClassificationCounts | None) -> None:
        """Record a round with the validation metrics of its model, and keep the model if it is the best so far."""
        metrics = derive(counts) if counts is not None else None
        if not made.lost and improves(metrics, self._best_validation, self._job.evaluation.select_by):
            self.best_model, self.best_round, self._best_validation = model, made.number, metrics
        for judged in self._hooks.judged:
            judged(replace(made, validation=metrics))

    def _save(self, made: Round) -> None:
        state = Checkpoint(
            job_id=self._job.job_id,
            fingerprint=self._questions.members.fingerprint,
            last=made,
            model=self._model,
            best_round=self.best_round,
            best_validation=self._best_validation,
            best_model=self.best_model,
            standardisation=standardisation_in(self._questions),
            strategy=self._aggregator.state() if self._aggregator else {},
            choice=self.choice,
            spread=self.spread,
            spent=self._meter.spent,
            failures=self._questions.failures.found,
        )
        for checkpoint in self._hooks.checkpoint:
            checkpoint(state)
        self._asking.built_on()
