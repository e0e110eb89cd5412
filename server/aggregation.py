"""What a run gets of its hospitals: the same few answers, whether it sees each hospital's own or only their sum.

`SingleAnswers` here sees each; `server.secure_aggregation.SecureSums` sees sums.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.head import Float32, Head
from common.messages import Description, unpack_counts, unpack_model
from common.metrics import ClassificationCounts, Int64
from common.model import Model
from common.packed import AnyArray, Packed
from common.sums import Sums
from common.unlike import Spread, pack_spread
from common.wire import CORRECTION
from server.questions import Questions, pooled
from server.strategies import Update

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

    counts: of the model that was sent, on the validation patients of those who answered. train_loss: mean over examples, None if
    nobody tells. norms: how far each hospital moved the model, where that is seen.
    """

    told: Told
    updates: Sequence[Update] = ()
    counts: ClassificationCounts | None = None
    train_loss: float | None = None
    norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Counted:
    """Counts of some heads: over all hospitals (None if none answered), and by hospital where that is seen."""

    pooled: Sequence[ClassificationCounts] | None
    hospitals: Mapping[str, Sequence[ClassificationCounts]]
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

    def sums(self) -> tuple[Sums | None, Told]:
        """The sums for the closed-form head, None if nobody sent usable ones."""

    def fit(
        self,
        model: Model,
        number: int,
        corrections: Mapping[str, NamedArrays],
        nodes: Mapping[int, str] | None = None,
    ) -> Fitted:
        """One round of local training from a model; corrections: by hospital, added to its gradients (scaffold).

        nodes: who is asked, where it is not everyone; only where single answers are seen.
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

    def sums(self) -> tuple[Sums | None, Told]:
        """As `Aggregation`. Added one at a time: of wide features each takes hundreds of megabytes."""
        answers = self.questions.ask("statistics", number=1)
        total: Sums | None = None
        for reply in answers.good.values():
            one = Sums.from_triangle(reply.arrays["gram"], reply.arrays["class-sums"])
            total = one if total is None else total + one
        asked = answers.asked
        return total, Told(list(answers.good), answers.dropped, asked.bytes_down, asked.bytes_up)

    def fit(
        self,
        model: Model,
        number: int,
        corrections: Mapping[str, NamedArrays],
        nodes: Mapping[int, str] | None = None,
    ) -> Fitted:
        """As `Aggregation`; an update for each hospital."""
        own = {
            hospital: {f"{CORRECTION}{name}": array for name, array in arrays.items()}
            for hospital, arrays in corrections.items()
        }
        answers = self.questions.ask(
            "fit", model.arrays(), {"round": number}, number, start=model, own=own, nodes=nodes
        )
        replies, asked = list(answers.good.values()), answers.asked
        noised = {member.name: member.patients for member in self.questions.members.members}
        updates = [_update(name, reply, noised[name]) for name, reply in answers.good.items()]
        return Fitted(
            told=Told(sorted(answers.good), answers.dropped, asked.bytes_down, asked.bytes_up),
            updates=updates,
            counts=pooled([unpack_counts(reply.arrays)[0] for reply in replies if "losses" in reply.arrays]),
            train_loss=_train_loss(replies),
            norms={update.hospital: update.model.distance(model) for update in updates},
        )

    def count_heads(self, heads: Sequence[Head], part: str, number: int, tuned: Mapping[str, Float32]) -> Counted:
        """As `Aggregation`; by hospital, too."""
        found, dropped = self.questions.count_heads(list(heads), part, number, tuned)
        totals = [pooled([counts[index] for counts in found.values()]) for index in range(len(heads))]
        known = [total for total in totals if total is not None]
        return Counted(known if len(known) == len(heads) else None, found, dropped)

    def distances(self, spread: Spread) -> Int64 | None:
        """As `Aggregation`."""
        told = self.questions.ask("distances", pack_spread(spread))
        found = [reply.arrays["distances"].astype(np.int64).sum(axis=0) for reply in told.good.values()]
        return np.asarray(sum(found), np.int64) if found else None

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


def _train_loss(replies: Sequence[Packed]) -> float | None:
    """Mean loss over the examples of the hospitals that tell theirs; one that suppresses small counts does not."""
    telling = [reply.fields for reply in replies if "loss-sum" in reply.fields]
    examples = sum(int(fields["examples"]) for fields in telling)
    return sum(float(fields["loss-sum"]) for fields in telling) / examples if examples else None
