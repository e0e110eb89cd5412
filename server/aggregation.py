"""What a run gets of its hospitals: the same few answers, whether it sees each hospital's own or only their sum.

`SingleAnswers` here sees each; `server.secure_aggregation.SecureSums` sees sums.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.exact_sum import ExactSum
from common.head import Float32, Head
from common.messages import Description, unpack_counts, unpack_model
from common.metrics import ClassificationCounts, Int64
from common.model import Model
from common.packed import AnyArray, Packed
from common.sums import Sums
from common.unlike import Spread, pack_spread
from common.wire import CORRECTION, MAX_HEADS
from server.centre import Centre
from server.checkpoint import Round
from server.kept_counts import KeptCounts
from server.questions import Questions, pooled
from server.strategies import Update
from server.weighted_mean import WeightedMean

log = logging.getLogger(__name__)

NamedArrays = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Told:
    """Who answered, why the others did not, and the bytes of it."""

    answered: Sequence[str]
    dropped: Mapping[str, str]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Fitted:
    """What a round of local training gave. updates: of each hospital, or one for all together; empty without a quorum.

    mean: instead, where the mean was all that was wanted: no hospital's update was kept.
    counts: of the model that was sent, on the validation patients of those who answered. train_loss: mean over examples, None if
    nobody tells. norms: how far each hospital moved the model, where that is seen.
    """

    told: Told
    updates: Sequence[Update] = ()
    mean: WeightedMean | None = None
    counts: ClassificationCounts | None = None
    train_loss: float | None = None
    norms: Mapping[str, float] = field(default_factory=dict)

    def as_round(
        self, number: int, lost: bool, outside: Mapping[str, str], start: float, epsilon: float | None = None
    ) -> Round:
        """What happened, for the record and the log. start: `time.perf_counter` when the round began; the rest as in `Round`."""
        told = self.told
        for name, reason in told.dropped.items():
            log.warning("round %d goes on without %s: %s", number, name, reason)
        return Round(
            number=number,
            lost=lost,
            answered=sorted(told.answered),
            train_loss=self.train_loss,
            update_norms=self.norms,
            dropped=told.dropped,
            outside=outside,
            bytes_down=told.bytes_down,
            bytes_up=told.bytes_up,
            seconds=time.perf_counter() - start,
            epsilon=epsilon,
        )


@dataclass(frozen=True)
class Counted:
    """Counts of some heads: over all hospitals (None if none answered).

    hospitals: those of the first head on the test patients, by hospital, where that is seen.
    """

    pooled: Sequence[ClassificationCounts] | None
    hospitals: Mapping[str, ClassificationCounts]
    dropped: Mapping[str, str]


@dataclass(frozen=True)
class Grouped:
    """Confusion matrices (G, C, C) of the model by group of test patients; pooled is None where nobody answered, or was asked."""

    pooled: Int64 | None = None
    hospitals: Mapping[str, Int64] = field(default_factory=dict)


class Aggregation(Protocol):
    """The questions of a run."""

    @property
    def questions(self) -> Questions:
        """Who is asked, about what."""

    def holdings(self) -> Mapping[str, Description]:
        """What hospitals have, by hospital or together."""

    def centre(self) -> Centre:
        """The sums of the training features of all hospitals of the start."""

    def sums(self) -> tuple[Sums | None, Told]:
        """The sums for the closed-form head, None if nobody sent usable ones."""

    def fit(
        self,
        model: Model,
        number: int,
        corrections: Mapping[str, NamedArrays],
        nodes: Mapping[int, str] | None = None,
        mean_only: bool = False,
    ) -> Fitted:
        """One round of local training from a model; corrections: by hospital, added to its gradients (scaffold).

        nodes: who is asked, where it is not everyone; only where single answers are seen. mean_only: the mean of the updates,
        weighted by examples, is all that the method wants; where single answers are seen, each is then used as it comes.
        """

    def count_heads(self, heads: Sequence[Head], part: str, number: int, tuned: Mapping[str, Float32]) -> Counted:
        """Counts of heads on one part of the data; number: the round that made them, tuned: the arrays below them."""

    def distances(self, spread: Spread) -> Int64 | None:
        """Validation images by bin of their distance from the training images (B,), None if nobody told."""

    def count_groups(self, model: Model, number: int) -> Grouped:
        """Counts of a model, made by round `number`, by group of test patients."""

    def built_on(self) -> None:
        """A checkpoint was built on all that was told: it need not be kept for a run that goes on."""


@dataclass(frozen=True)
class SingleAnswers:
    """Each hospital's own answer is seen, and passes the guard."""

    questions: Questions

    def holdings(self) -> Mapping[str, Description]:
        """As `Aggregation`; by hospital."""
        return self.questions.members.descriptions()

    def centre(self) -> Centre:
        """As `Aggregation`."""
        return self.questions.membership.centre()

    def sums(self) -> tuple[Sums | None, Told]:
        """As `Aggregation`. Added as they come: of wide features each takes hundreds of megabytes."""
        sums: dict[str, ExactSum] = {}

        def add(_hospital: str, reply: Packed) -> None:
            for name in ("gram", "class-sums"):
                sums.setdefault(name, ExactSum(reply.arrays[name].shape)).add(reply.arrays[name])

        answers = self.questions.ask("statistics", number=1, use=add)
        total = Sums.from_triangle(sums["gram"].total(), sums["class-sums"].total()) if sums else None
        asked = answers.asked
        return total, Told(answers.answered, answers.dropped, asked.bytes_down, asked.bytes_up)

    def fit(
        self,
        model: Model,
        number: int,
        corrections: Mapping[str, NamedArrays],
        nodes: Mapping[int, str] | None = None,
        mean_only: bool = False,
    ) -> Fitted:
        """As `Aggregation`; an update for each hospital, or their mean as they come."""
        own = {
            hospital: {f"{CORRECTION}{name}": array for name, array in arrays.items()}
            for hospital, arrays in corrections.items()
        }
        noised = {member.name: member.patients for member in self.questions.members.members}
        updates: list[Update] = []
        mean, counts, losses = WeightedMean(), _Pooled(), _Losses()
        norms: dict[str, float] = {}

        def use(hospital: str, reply: Packed) -> None:
            update = _update(hospital, reply, noised[hospital])
            norms[hospital] = update.model.distance(model)
            losses.add(reply)
            if "losses" in reply.arrays:
                counts.add(unpack_counts(reply.arrays))
            if mean_only:
                mean.add(update.model, update.examples)
            else:
                updates.append(update)

        answers = self.questions.ask(
            "fit", model.arrays(), {"round": number}, number, start=model, own=own, nodes=nodes, use=use
        )
        return Fitted(
            told=Told(answers.answered, answers.dropped, answers.asked.bytes_down, answers.asked.bytes_up),
            updates=sorted(updates, key=lambda update: update.hospital),
            mean=mean if mean.updates else None,
            counts=counts.total[0] if counts.total else None,
            train_loss=losses.mean(),
            norms=dict(sorted(norms.items())),
        )

    def count_heads(self, heads: Sequence[Head], part: str, number: int, tuned: Mapping[str, Float32]) -> Counted:
        """As `Aggregation`. The heads of the test are counted by hospital, too; of the others the sums are enough."""
        if not heads or len(heads) > MAX_HEADS:
            found, dropped = self.questions.count_heads(list(heads), part, number, tuned)
            totals = [pooled([counts[index] for counts in found.values()]) for index in range(len(heads))]
            known = [total for total in totals if total is not None]
            return Counted(known if len(known) == len(heads) else None, {}, dropped)
        sums, kept = _Pooled(), KeptCounts()

        def use(hospital: str, counts: list[ClassificationCounts]) -> None:
            sums.add(counts)
            if part == "test":
                kept.keep(hospital, counts[0])

        dropped = self.questions.use_counts(list(heads), part, number, tuned, use)
        return Counted(sums.total or None, kept, dropped)

    def distances(self, spread: Spread) -> Int64 | None:
        """As `Aggregation`."""
        found: list[Int64] = []

        def add(_hospital: str, reply: Packed) -> None:
            one = np.asarray(reply.arrays["distances"].astype(np.int64).sum(axis=0), np.int64)
            found[:] = [one + found[0]] if found else [one]

        self.questions.ask("distances", pack_spread(spread), use=add)
        return found[0] if found else None

    def count_groups(self, model: Model, number: int) -> Grouped:
        """As `Aggregation`; by hospital, too."""
        told = self.questions.ask("groups", model.arrays(), {"round": number}, number)
        found = {name: reply.arrays["confusion"].astype(np.int64) for name, reply in told.good.items()}
        return Grouped(np.sum(list(found.values()), axis=0) if found else None, found)

    def built_on(self) -> None:
        """As `Aggregation`; nothing is kept, since all can be asked again."""


def _update(hospital: str, reply: Packed, patients: int) -> Update:
    """The update in a reply that has passed the guard; it weighs by its examples, or by its noised number of patients."""
    steps, examples = int(reply.fields.get("steps", 1)), int(reply.fields.get("examples", patients))
    return Update(hospital, unpack_model(reply.arrays), examples, steps)


class _Pooled:
    """Sums of counts of the same heads, as they come; whole numbers, so that the order changes nothing."""

    def __init__(self) -> None:
        self.total: list[ClassificationCounts] = []

    def add(self, counts: Sequence[ClassificationCounts]) -> None:
        """Add the counts of one hospital."""
        self.total = [old + new for old, new in zip(self.total, counts, strict=True)] if self.total else list(counts)


class _Losses:
    """Losses of the hospitals that tell theirs; one that suppresses small counts does not."""

    def __init__(self) -> None:
        self._sums: list[float] = []
        self._examples = 0

    def add(self, reply: Packed) -> None:
        """Add what one hospital tells."""
        if "loss-sum" in reply.fields:
            self._sums.append(float(reply.fields["loss-sum"]))
            self._examples += int(reply.fields["examples"])

    def mean(self) -> float | None:
        """Over the examples; None if nobody tells. fsum rounds once, so that the order changes nothing."""
        return math.fsum(self._sums) / self._examples if self._examples else None
