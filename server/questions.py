"""The questions of one run to its members: what every request repeats, and the guard on every answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.head import Head, Standardisation
from common.job import Job
from common.messages import pack_heads, pack_standardisation, unpack_counts
from common.metrics import ClassificationCounts
from common.model import TUNED, Model
from common.wire import MAX_HEADS, AnyArray, Packed, Shapes
from server.exchange import Exchange
from server.failures import Failures
from server.guard import Expected, declined, screen
from server.members import Members
from server.membership import Membership
from server.meter import Meter
from server.pending import Asked
from server.strategies import answers_needed

_PHASES = {"own": "cross-site", "personalise": "personalisation"}


@dataclass(frozen=True)
class Answers:
    """Good replies by hospital, why others have none, and what was sent."""

    good: Mapping[str, Packed]
    dropped: Mapping[str, str]
    asked: Asked


@dataclass(frozen=True)
class Questions:
    """Asks all members. tuned: shapes of the backbone's arrays that the job tunes."""

    job: Job
    exchange: Exchange
    membership: Membership
    meter: Meter
    failures: Failures
    standardisation: Standardisation
    tuned: Shapes = field(default_factory=dict)

    @property
    def members(self) -> Members:
        """Who takes part now."""
        return self.membership.members

    def ask(
        self,
        kind: str,
        arrays: Mapping[str, AnyArray] | None = None,
        fields: Mapping[str, str | int] | None = None,
        number: int = 0,
        part: str = "validation",
        heads: int = 1,
        start: Model | None = None,
        nodes: Mapping[int, str] | None = None,
        own: Mapping[str, Mapping[str, AnyArray]] | None = None,
        phase: str | None = None,
    ) -> Answers:
        """Put one question to all members, or to some `nodes`. own: further arrays for each hospital, by its name.

        fields: what a good reply repeats. part: the patients whose counts come back. heads: how many are counted. start:
        the model that was sent, from which an update may move by the job's bound. phase: what a hospital that gives no good
        answer is missing from, by default what the kind of the question says.
        """
        members = self.members.by_node()
        fields = fields or {}
        request = Packed(
            {**(arrays or {}), **({} if kind == "initial" else pack_standardisation(self.standardisation))},
            {"job": self.job.canonical_json(), "fingerprint": self.members.fingerprint, **fields},
        )
        requests = (
            {node: Packed({**request.arrays, **own[member.name]}, request.fields) for node, member in members.items()}
            if own
            else request
        )
        needed, quorum = min(answers_needed(self.job), len(nodes or members)), self.job.quorum
        asked = self.exchange.ask(kind, requests, nodes or members, number, quorum.deadline_s, needed, quorum.grace_s)
        self.meter.count(asked)
        exact = {"job-id": self.job.job_id, "fingerprint": self.members.fingerprint, **fields}
        good: dict[str, Packed] = {}
        dropped = {members[node].name: reason for node, reason in asked.failures.items()}
        for node, answers in asked.answers.items():
            member = members[node]
            expected = Expected(
                kind=kind,
                job=self.job,
                heads=heads,
                tuned=self.tuned,
                fields=exact,
                part=part,
                described=member.description,
                standardisation=self.standardisation,
                start=start,
            )
            checked = screen(answers, expected)
            if isinstance(checked, str):
                dropped[member.name] = checked
                if not declined(checked):
                    self.membership.doubt(node)
            else:
                good[member.name] = checked
        default = part if kind == "evaluate" else _PHASES.get(kind, kind)
        self.failures.add(phase or default, number, dict(sorted(dropped.items())))
        return Answers(dict(sorted(good.items())), dict(sorted(dropped.items())), asked)

    def count_heads(
        self,
        heads: list[Head],
        part: str,
        number: int = 0,
        tuned: Mapping[str, AnyArray] | None = None,
        phase: str | None = None,
    ) -> tuple[dict[str, list[ClassificationCounts]], dict[str, str]]:
        """Counts of each head on one part of the data by hospital, and the hospitals that gave none.

        number: the round that made the heads, 0 for the pretrained backbone. tuned: the arrays of the backbone that the job
        tunes, as they are below the heads. phase: as in `ask`.
        """
        found: dict[str, list[ClassificationCounts]] = {}
        dropped: dict[str, str] = {}
        for first in range(0, len(heads), MAX_HEADS):
            some = heads[first : first + MAX_HEADS]
            arrays = {**pack_heads(some), **{f"{TUNED}{name}": array for name, array in (tuned or {}).items()}}
            fields: dict[str, str | int] = {"part": part, "round": number}
            told = self.ask("evaluate", arrays, fields, number, part, len(some), phase=phase)
            dropped |= told.dropped
            for name, reply in told.good.items():
                found.setdefault(name, []).extend(unpack_counts(reply.arrays))
        # Whoever left out a part of the heads is left out of all of them: their counts would not be in step.
        return {name: counts for name, counts in found.items() if len(counts) == len(heads)}, dropped

    def count(self, model: Model, part: str, number: int = 0) -> tuple[dict[str, ClassificationCounts], dict[str, str]]:
        """Counts of one model on one part of the data by hospital, and the hospitals that gave none."""
        found, dropped = self.count_heads([model.head], part, number, model.tuned)
        return {name: counts[0] for name, counts in found.items()}, dropped


def pooled(counts: list[ClassificationCounts]) -> ClassificationCounts | None:
    """The sum of some counts; None of none."""
    return sum(counts[1:], counts[0]) if counts else None


def listed(reasons: Mapping[str, str]) -> str:
    """Hospitals and why they gave no answer, in a line."""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
