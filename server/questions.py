"""The questions of one run to its members: what every request repeats, and the guard on every answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from common.head import Head, Standardisation
from common.job import Job
from common.messages import pack_heads, pack_standardisation, unpack_counts
from common.metrics import ClassificationCounts
from common.model import TUNED, Model
from common.wire import MAX_HEADS, AnyArray, Packed, Shapes
from server.exchange import Exchange
from server.failures import Failures
from server.guard import Expected, bytes_of_reply, declined, screen
from server.members import Member, Members
from server.membership import Membership
from server.meter import Meter
from server.now import Question, Watch
from server.pending import Asked
from server.strategies import answers_needed

Use = Callable[[str, Packed], None]
"""Takes the name of a hospital and its good reply."""

_OF_THE_IMAGES = ("initial", "distances", "duplicates", "collisions")
"""Questions that are not about standardised features."""
_PHASES = {"own": "cross-site", "personalise": "personalisation"}


@dataclass(frozen=True)
class Answers:
    """Good replies by hospital, why others have none, and what was sent.

    answered: whose reply was good, sorted; of replies that were used as they came, `good` has none.
    """

    good: Mapping[str, Packed]
    dropped: Mapping[str, str]
    asked: Asked
    answered: Sequence[str] = ()


@dataclass(frozen=True)
class Questions:
    """Asks all members. standardisation: None before it is known. tuned: shapes of the backbone's arrays that the job tunes.

    watch: told how far the question is that is out.
    """

    job: Job
    exchange: Exchange
    membership: Membership
    meter: Meter
    failures: Failures
    standardisation: Standardisation | None = None
    tuned: Shapes = field(default_factory=dict)
    watch: Watch = lambda _now: None

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
        use: Use | None = None,
    ) -> Answers:
        """Put one question to all members, or to some `nodes`. own: further arrays for each hospital, by its name.

        fields: what a good reply repeats. part: the patients whose counts come back. heads: how many are counted. start:
        the model that was sent, from which an update may move by the job's bound. phase: what a hospital that gives no good
        answer is missing from, by default what the kind of the question says. use: is given each good reply as it comes, in
        any order, and none is kept.
        """
        members = self.members.by_node()
        fields = fields or {}
        standardised = self.standardisation is not None and kind not in _OF_THE_IMAGES
        request = Packed(
            {
                **(arrays or {}),
                **(pack_standardisation(self.standardisation) if standardised and self.standardisation else {}),
            },
            {"job": self.job.canonical_json(), "fingerprint": self.members.fingerprint, **fields},
        )
        requests = (
            {
                node: Packed({**request.arrays, **own[member.name]}, request.fields)
                for node, member in members.items()
                if nodes is None or node in nodes
            }
            if own
            else request
        )
        needed = min(answers_needed(self.job), len(nodes or members))
        exact = {"job-id": self.job.job_id, "fingerprint": self.members.fingerprint, **fields}

        def expected(member: Member) -> Expected:
            return Expected(
                kind=kind,
                job=self.job,
                heads=heads,
                tuned=self.tuned,
                fields=exact,
                part=part,
                described=member.description,
                tuned_digest=member.space.tuned_digest,
                standardisation=self.standardisation,
                start=start,
                sizes=_sizes(kind, member),
            )

        told = self.put(kind, requests, list(nodes or members), number, needed, expected, use)
        default = part if kind == "evaluate" else _PHASES.get(kind, kind)
        self.failures.add(phase or default, number, told.dropped)
        return told

    def put(
        self,
        kind: str,
        requests: Packed | Mapping[int, Packed],
        nodes: Sequence[int],
        number: int,
        needed: int,
        expected: Callable[[Member], Expected],
        use: Use | None = None,
    ) -> Answers:
        """Put requests to some nodes, and hold every answer to what is expected of that member; use: as in `ask`."""
        members, quorum = self.members.by_node(), self.job.quorum
        names = {node: members[node].name for node in nodes}
        at = Question.begun(kind, number, needed, names, self.watch).at
        good: dict[str, Packed] = {}
        answered: list[str] = []
        dropped: dict[str, str] = {}
        take = use or good.__setitem__

        def hold(node: int, answers: list[Packed]) -> None:
            name = members[node].name
            checked = screen(answers, expected(members[node]))
            if isinstance(checked, str):
                dropped[name] = checked
                if not declined(checked):
                    self.membership.doubt(node)
            else:
                answered.append(name)
                take(name, checked)

        example = next(iter(nodes), None)
        length = bytes_of_reply(expected(members[example])) if example is not None else 0
        asked = self.exchange.ask(
            kind, requests, nodes, number, quorum.deadline_s, needed, quorum.grace_s, at, hold, length
        )
        self.meter.count(asked)
        dropped |= {members[node].name: reason for node, reason in asked.failures.items()}
        return Answers(dict(sorted(good.items())), dict(sorted(dropped.items())), asked, sorted(answered))

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

        def keep(name: str, counts: list[ClassificationCounts]) -> None:
            found.setdefault(name, []).extend(counts)

        for first in range(0, len(heads), MAX_HEADS):
            dropped |= self.use_counts(heads[first : first + MAX_HEADS], part, number, tuned, keep, phase)
        found = dict(sorted(found.items()))
        # Whoever left out a part of the heads is left out of all of them: their counts would not be in step.
        return {name: counts for name, counts in found.items() if len(counts) == len(heads)}, dropped

    def use_counts(
        self,
        heads: list[Head],
        part: str,
        number: int,
        tuned: Mapping[str, AnyArray] | None,
        use: Callable[[str, list[ClassificationCounts]], None],
        phase: str | None = None,
    ) -> dict[str, str]:
        """Counts of at most `MAX_HEADS` heads, as `count_heads`, but each hospital's are used as they come.

        Returns the hospitals that gave none.
        """
        arrays = {**pack_heads(heads), **{f"{TUNED}{name}": array for name, array in (tuned or {}).items()}}
        fields: dict[str, str | int] = {"part": part, "round": number}

        def unpack(name: str, reply: Packed) -> None:
            use(name, unpack_counts(reply.arrays))

        told = self.ask("evaluate", arrays, fields, number, part, len(heads), phase=phase, use=unpack)
        return dict(told.dropped)


def _sizes(kind: str, member: Member) -> dict[str, int]:
    """Shape letters that depend on what the member declared."""
    images = member.description.images.sum() if member.description is not None else 0
    return {"I": int(images)} if kind == "duplicates" else {}


def standardisation_in(questions: Questions) -> Standardisation:
    """The standardisation, once it is known."""
    if questions.standardisation is None:
        raise ValueError("the features are not standardised yet")
    return questions.standardisation


def pooled(counts: list[ClassificationCounts]) -> ClassificationCounts | None:
    """The sum of some counts; None of none."""
    return sum(counts[1:], counts[0]) if counts else None


def listed(reasons: Mapping[str, str]) -> str:
    """Hospitals and why they gave no answer, in a line."""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
