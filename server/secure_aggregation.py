"""A run that sees sums over hospitals only: each question is a session of `common.secure_sum`, phase by phase.

A session goes on while enough hospitals are left; what it opens is kept on the disk at once (`server/opened_sums.py`), since no
hospital opens the same sum twice.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.dp.noise import from_units
from common.errors import FederationError
from common.head import Float32, Float64, Head
from common.messages import Description, pack_heads, pack_standardisation, unpack_counts
from common.metrics import ClassificationCounts, Int64
from common.model import TUNED, Model
from common.phases import PARTICIPANTS
from common.private_release import noise_scale
from common.secure_sum.combiner import Combiner
from common.secure_sum.errors import SecureSumError
from common.secure_sum.roster import Roster
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, Terms, default_threshold
from common.summed import LOW, Question, layout_of
from common.sums import Sums
from common.unlike import Spread, pack_spread
from common.wire import MAX_HEADS, SUMMED, Packed
from server.aggregation import Counted, Fitted, Grouped, NamedArrays, Told
from server.centre import Centre
from server.counts_check import counts_problem
from server.guard import Expected, description_problem, sums_problem
from server.members import Member
from server.opened_sums import Opened, OpenedSums
from server.questions import Answers, Questions, listed
from server.strategies import Update, answers_needed

log = logging.getLogger(__name__)

ALL = "all hospitals"
"""Whose numbers a sum has."""

_NOT_LISTED = "not in the roster of node keys; the coordinator has to provision it, and all hospitals need the new kit"


@dataclass(frozen=True)
class Noised:
    """A noised sum, the deviation of the noise in it, and who was asked."""

    values: Float64
    sigma: float
    told: Told


@dataclass(frozen=True)
class SecureSums:
    """Sums only. roster: the hospitals' node keys. opened: what was opened already, by another process of this run, too."""

    questions: Questions
    roster: Roster
    opened: OpenedSums

    def holdings(self) -> Mapping[str, Description]:
        """As `Aggregation`; of all hospitals together. Empty in a private job, where no exact number is told.

        Raises:
            FederationError: the sum could not be had.
        """
        if self.questions.job.private:
            return {}
        total, told = self._total("holdings", 0)
        if total is None:
            raise FederationError(f"how much data there is could not be summed: {listed(told.dropped)}")
        numbers = {name: int(array) for name, array in total.arrays.items() if array.ndim == 0}
        described = Description(
            space=self.questions.members.members[0].space,
            images=total.arrays["images"].astype(np.int64),
            patients=total.arrays["patients"].astype(np.int64),
            sums=np.asarray(total.arrays["sums"] + total.arrays[f"sums{LOW}"], np.float64),
            squares=np.asarray(total.arrays["squares"] + total.arrays[f"squares{LOW}"], np.float64),
            examples=numbers["examples"],
            other_labels=numbers["other-labels"],
            unreadable=numbers["unreadable"],
            decoded=numbers["decoded"],
            cached=numbers["cached"],
        )
        _require(description_problem(described, self.questions.job))
        return {ALL: described}

    def centre(self) -> Centre:
        """As `Aggregation`; of all hospitals together."""
        found = Centre()
        for one in self.holdings().values():
            found.add(one)
        return found

    def sums(self) -> tuple[Sums | None, Told]:
        """As `Aggregation`."""
        total, told = self._total("statistics", 1)
        if total is None:
            return None, told
        sums = Sums.from_triangle(total.arrays["gram"], total.arrays["class-sums"].astype(np.float64))
        _require(sums_problem(sums, int(total.arrays["examples"])))
        return sums, told

    def fit(
        self,
        model: Model,
        number: int,
        corrections: Mapping[str, NamedArrays],  # noqa: ARG002
        nodes: Mapping[int, str] | None = None,  # noqa: ARG002
        mean_only: bool = False,  # noqa: ARG002
    ) -> Fitted:
        """As `Aggregation`; one update for all hospitals."""
        if self.questions.job.noised_locally:
            return self._noised_fit(model, number)
        total, told = self._total("fit", number, model.arrays(), {"round": number})
        if total is None:
            return Fitted(told)
        examples = int(total.arrays["examples"])
        counts = unpack_counts(total.arrays)[0]
        _require(_sum_problem(counts) or ("no training examples" if examples < 1 else None))
        moved = {
            name: (before + total.arrays[name] / examples).astype(np.float32) for name, before in model.arrays().items()
        }
        telling = int(total.arrays["loss-examples"])
        return Fitted(
            told=told,
            updates=[Update(ALL, Model.from_arrays(moved), examples)],
            counts=counts,
            train_loss=float(total.arrays["loss"]) / telling if telling else None,
        )

    def _noised_fit(self, model: Model, number: int) -> Fitted:
        """A round of heads that were noised before they were masked."""
        total, told = self._total("noised-fit", number, model.arrays(), {"round": number})
        if total is None:
            return Fitted(told)
        patients = int(total.arrays["patients"])
        _require("no training patients" if patients < 1 else None)
        moved = {
            name: (before + total.arrays[name] / patients).astype(np.float32) for name, before in model.arrays().items()
        }
        return Fitted(told, [Update(ALL, Model.from_arrays(moved), patients)])

    def count_heads(self, heads: Sequence[Head], part: str, number: int, tuned: Mapping[str, Float32]) -> Counted:
        """As `Aggregation`; of all hospitals together."""
        found: list[ClassificationCounts] = []
        dropped: dict[str, str] = {}
        below = {f"{TUNED}{name}": array for name, array in tuned.items()}
        for first in range(0, len(heads), MAX_HEADS):
            arrays = {**pack_heads(list(heads[first : first + MAX_HEADS])), **below}
            total, told = self._total("evaluate", number, arrays, {"part": part, "round": number})
            dropped |= told.dropped
            if total is None:
                return Counted(None, {}, dropped)
            counts = unpack_counts(total.arrays)
            if problem := next(filter(None, map(_sum_problem, counts)), None):
                log.warning("the counts over hospitals are not used: %s; a hospital sends wrong numbers", problem)
                return Counted(None, {}, dropped)
            found += counts
        return Counted(found, {}, dropped)

    def distances(self, spread: Spread) -> Int64 | None:
        """As `Aggregation`."""
        total, _ = self._total("distances", 0, pack_spread(spread))
        return None if total is None else np.asarray(total.arrays["distances"].astype(np.int64).sum(axis=0), np.int64)

    def count_groups(self, model: Model, number: int) -> Grouped:
        """As `Aggregation`; of all hospitals together."""
        total, _ = self._total("groups", number, model.arrays(), {"round": number})
        return Grouped(total.arrays["confusion"].astype(np.int64) if total is not None else None)

    def noised(self, kind: str, number: int = 0, arrays: NamedArrays | None = None) -> tuple[Noised | None, Told]:
        """The noised sum that a private job asks for (`common.private_release.NOISED`); None if it could not be had."""
        fields = {"round": number} if kind == "gradient" else {}
        total, told = self._total(kind, number, arrays, fields)
        if total is None:
            return None, told
        job = self.questions.job
        scale = noise_scale(job, Question(kind, number), total.threshold)
        values = from_units(total.arrays["units"].astype(np.int64), scale)
        return Noised(values, float(scale * np.sqrt(len(total.hospitals))), told), told

    def built_on(self) -> None:
        """As `Aggregation`."""
        self.opened.forget()

    def _total(
        self,
        kind: str,
        number: int,
        arrays: NamedArrays | None = None,
        fields: Mapping[str, str | int] | None = None,
    ) -> tuple[Opened | None, Told]:
        """The sum of the answers to a question, or None where too few hospitals were left for it."""
        asked = self.questions
        known = pack_standardisation(asked.standardisation) if asked.standardisation is not None else {}
        question = Packed(
            {**{name: array for name, array in known.items() if name in SUMMED[kind].arrays}, **(arrays or {})},
            {"job": asked.job.canonical_json(), "fingerprint": asked.members.fingerprint, **(fields or {})},
        )
        about = Question.of(kind, question)
        if (found := self.opened.load(about)) is not None:
            return found, Told(found.hospitals, found.dropped, 0, 0)
        found, told = self._session(about, question, number)
        asked.failures.add(about.part or kind, number, told.dropped)
        if found is not None:
            self.opened.save(about, found)
        return found, told

    def _session(self, about: Question, question: Packed, number: int) -> tuple[Opened | None, Told]:
        asked, job = self.questions, self.questions.job
        names = [one.name for one in asked.members.members if one.name in self.roster.keys]
        dropped = {one.name: _NOT_LISTED for one in asked.members.members if one.name not in names}
        layout = layout_of(about, job, asked.tuned)
        threshold = min(max(default_threshold(len(names)), answers_needed(job)), max(len(names), 2))
        down = up = 0
        missing: dict[str, str] = {}
        try:
            subject = Subject(job.job_id, about.purpose, layout, about.digest)
            terms = subject.terms(self.roster, len(names), threshold)
            combiner = Combiner(terms, layout, self.roster, names)
            while (phase := combiner.phase) is not None:
                requests = _requests(combiner, phase, question)
                told = self._ask(phase, requests, terms, number, layout.length)
                down, up = down + told.asked.bytes_down, up + told.asked.bytes_up
                missing = {name: f"{phase}: {why}" for name, why in told.dropped.items()}
                combiner.take(told.good)
                # Whoever is missing from a later phase is in the sum all the same.
                dropped |= combiner.lost if phase in (Phase.CONFIRM, Phase.UNMASK) else {**combiner.lost, **missing}
        except SecureSumError as error:
            log.warning("%s", error)
            return None, Told((), {**dropped, **missing} or {ALL: str(error)}, down, up)
        total = combiner.total
        if total is None:
            return None, Told((), dropped, down, up)
        for name, why in total.suspects.items():
            log.warning("%s gave false shares, which were not used: %s", name, why)
        opened = Opened(total.arrays, total.hospitals, terms.threshold, dropped)
        return opened, Told(total.hospitals, dropped, down, up)

    def _ask(self, phase: Phase, requests: Mapping[str, Packed], terms: Terms, number: int, length: int) -> Answers:
        asked = self.questions
        nodes = {member.name: node for node, member in asked.members.by_node().items()}
        exact: dict[str, str | int] = {
            "job-id": asked.job.job_id,
            "fingerprint": asked.members.fingerprint,
            "session": terms.session,
            **({"purpose": terms.purpose} if phase is Phase.MASKED else {}),
        }
        rows = [one.arrays[PARTICIPANTS[phase]] for one in requests.values() if phase in PARTICIPANTS]
        sizes = {"L": length, "P": len(rows[0]) if rows else 0}

        def expected(member: Member) -> Expected:
            named = {"hospital": member.name} if phase is Phase.KEYS else {}
            return Expected(kind=phase.value, job=asked.job, fields={**exact, **named}, sizes=sizes)

        to = {nodes[name]: packed for name, packed in requests.items()}
        return asked.put(phase.value, to, list(to), number, terms.threshold, expected)


def _requests(combiner: Combiner, phase: Phase, question: Packed) -> dict[str, Packed]:
    """What a phase asks of each hospital, with what every request repeats; the question itself in the phase MASKED only."""
    whole = phase is Phase.MASKED
    arrays = question.arrays if whole else {}
    fields = question.fields if whole else {name: question.fields[name] for name in ("job", "fingerprint")}
    return {
        name: Packed({**one.arrays, **arrays}, {**one.fields, **fields}) for name, one in combiner.requests().items()
    }


def _sum_problem(counts: ClassificationCounts) -> str | None:
    return counts_problem(counts, counts.support)


def _require(problem: str | None) -> None:
    """Raises FederationError where sums cannot be those of any hospitals: whose fault it is cannot be seen."""
    if problem is not None:
        raise FederationError(
            f"the sums over hospitals contradict themselves: {problem}; a hospital sends wrong numbers"
        )
