"""5. A coordinator that lies, against the secure sum: what masks alone would give it, and what the hospitals of a run answer.

Each lie is told to hospitals that have masks and nothing else (`naive_masks.py`), and to the hospitals' side of a run,
`common.secure_sum.participant.Participant`. Measured is how much of one hospital's update the coordinator has then: the relative
error of what it recovers (0: all of it; above 1: nothing).

Letters: C classes, D features, K hospitals.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.attacks import naive_masks
from benchmarks.attacks.federation import CLASSES, method_of, sent, standardised
from benchmarks.attacks.naive_masks import layout_of
from benchmarks.attacks.table import Table
from benchmarks.privacy.private_heads import NAMES, Part
from common.head import Head
from common.model import Model, digest_of_arrays
from common.packed import Packed
from common.secure_sum import primitives
from common.secure_sum.combiner import Combiner
from common.secure_sum.errors import SecureSumError
from common.secure_sum.messages import SignedKeys, pack_keys, unpack_keys
from common.secure_sum.once import Once
from common.secure_sum.participant import Participant
from common.secure_sum.roster import Identity, Roster, public_line
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, Terms

SOURCE = "Pasquini et al. 2022, arXiv 2111.07380; Bonawitz et al. 2017, CCS, section 6"
JOB = "a" * 64
LOCAL = method_of("fedavg", batch_size=1_000_000, weight_decay=0.0).local
"""The coordinator writes the job, too: full batches, so that no order hides a hospital, and nothing else moves a head."""
DEAD = 1e8
"""A weight so great that float32 rounds every step away: a hospital that starts there sends back what it got."""

Changes = Mapping[str, np.ndarray]
"""By hospital: change x examples (C, D + 1)."""


def subject_of(server_round: int, start: Head) -> Subject:
    """The sum of a round, for the model that was sent: its digest is in what all hospitals of a session sign."""
    digest = digest_of_arrays(Model(start).arrays())
    return Subject(JOB, f"fit:{server_round}", layout_of(*start.weight.shape), digest)


def held_to(subject: Subject, start: Head) -> None:
    """Raise SecureSumError unless a hospital is to train on what it has signed; `client/secure_sessions.py` does so in a run."""
    if subject.question != digest_of_arrays(Model(start).arrays()):
        raise SecureSumError("the question is not the one that all hospitals of the session have signed")


def dead(start: Head) -> Head:
    """The head from which nothing moves."""
    return Head(np.full_like(start.weight, DEAD), np.full_like(start.bias, DEAD))


def error_of(found: np.ndarray, true: np.ndarray) -> float:
    """Of what was recovered, relative to the norm of the truth."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


@dataclass
class Hospitals:
    """Hospitals with node keys, one roster, and a memory in `folder` of what was opened.

    least_in_sum: `min_hospitals_in_sum` of their policy.
    """

    names: Sequence[str]
    folder: Path
    least_in_sum: int = 2
    identities: dict[str, Identity] = field(init=False)

    def __post_init__(self) -> None:
        """Make the node keys."""
        keys = {name: primitives.new_key() for name in self.names}
        roster = Roster({name: public_line(key) for name, key in keys.items()})
        self.identities = {name: Identity(name, key, roster) for name, key in keys.items()}

    def begun(
        self, subjects: Mapping[str, Subject], target: str
    ) -> tuple[dict[str, Terms], Combiner, dict[str, Participant]]:
        """A session of some hospitals, each told terms of its own subject; the coordinator goes by the target's.

        Raises:
            SecureSumError: a hospital takes no part.
        """
        roster, subject = self.identities[target].roster, subjects.get(target) or next(iter(subjects.values()))
        common = subject.terms(roster, len(subjects))
        terms = {
            name: replace(one.terms(roster, len(subjects)), session=common.session) for name, one in subjects.items()
        }
        hospitals = {
            name: Participant(
                self.identities[name], terms[name].pack(), one, Once(self.folder / name), self.least_in_sum
            )
            for name, one in subjects.items()
        }
        return terms, Combiner(common, subject.layout, roster, list(subjects)), hospitals

    def sum(
        self,
        changes: Changes,
        subject: Subject,
        target: str,
        lie: Callable[[Phase, str, Packed], Packed] = lambda _phase, _name, request: request,
    ) -> np.ndarray:
        """A whole session: the sum (C, D + 1). lie: changes what a hospital is asked.

        Raises:
            SecureSumError: a hospital refuses.
        """
        _, combiner, hospitals = self.begun(dict.fromkeys(changes, subject), target)
        while combiner.phase is not None:
            phase, replies = combiner.phase, {}
            for name, request in combiner.requests().items():
                arrays = {"change": changes[name]} if phase is Phase.MASKED else None
                replies[name] = hospitals[name].answer(phase, lie(phase, name, request), arrays)
            combiner.take(replies)
        if combiner.total is None:
            raise SecureSumError("the session ended without a sum")
        return np.asarray(combiner.total.arrays["change"])


def inconsistent_models(hospitals: Hospitals, changes: Changes, start: Head, target: str) -> None:
    """The target is asked about one model and the others about another: they sign other terms."""
    asked = {name: subject_of(1, start if name == target else dead(start)) for name in changes}
    terms, _, session = hospitals.begun(asked, target)
    signed = [SignedKeys.unpack(session[name].answer(Phase.KEYS, terms[name].pack()), name) for name in sorted(changes)]
    session[target].answer(Phase.SHARES, pack_keys(signed, terms[target].session))


def one_digest_two_models(hospitals: Hospitals, changes: Changes, start: Head, target: str) -> None:
    """All sign the target's model, and then the others get another one: each holds what comes to what it signed."""
    subject = subject_of(1, start)
    hospitals.begun(dict.fromkeys(changes, subject), target)
    for name in changes:
        held_to(subject, start if name == target else dead(start))


def forged_keys(hospitals: Hospitals, changes: Changes, start: Head, target: str) -> None:
    """The target is told keys of the coordinator's making in the place of all others'."""

    def lie(phase: Phase, name: str, request: Packed) -> Packed:
        if phase is not Phase.SHARES or name != target:
            return request
        new = {part: primitives.point_of(primitives.new_key()) for part in ("encryption", "mask")}
        forged = [one if one.hospital == name else replace(one, **new) for one in unpack_keys(request)]
        return pack_keys(forged, str(request.fields["session"]))

    hospitals.sum(changes, subject_of(1, start), target, lie)


def replay(hospitals: Hospitals, changes: Changes, start: Head, target: str) -> None:
    """The target is asked a second time for its masked numbers in one session."""
    _, combiner, session = hospitals.begun(dict.fromkeys(changes, subject_of(1, start)), target)
    for phase in (Phase.KEYS, Phase.SHARES):
        combiner.take({name: session[name].answer(phase, request) for name, request in combiner.requests().items()})
    for _ in range(2):
        session[target].answer(Phase.MASKED, combiner.requests()[target], {"change": changes[target]})


def shrinking(hospitals: Hospitals, changes: Changes, start: Head, target: str, second_round: int = 1) -> np.ndarray:
    """A second sum without the target, by default for the same purpose; what the difference says of the target."""
    rest = {name: change for name, change in changes.items() if name != target}
    everyone = hospitals.sum(changes, subject_of(1, start), target)
    return everyone - hospitals.sum(rest, subject_of(second_round, start), target)


def next_round(hospitals: Hospitals, changes: Changes, start: Head, target: str) -> np.ndarray:
    """As `shrinking`, but the second sum is the next round's, of the same model."""
    return shrinking(hospitals, changes, start, target, 2)


def told(lie: Callable[..., object], changes: Changes, start: Head, target: str, least_in_sum: int = 2) -> float | str:
    """What a lie gives of the target's update, told to hospitals of a run: an error, or why they refuse."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = lie(Hospitals(list(changes), Path(folder), least_in_sum), changes, start, target)
        except SecureSumError as error:
            return "refused: SecureSumError: " + str(error)
    return error_of(found, changes[target]) if isinstance(found, np.ndarray) else "not refused"


def attack(trains: list[Part], target: int = 0) -> Table:
    """On the updates of the chest task's hospitals in a round from zeros."""
    parts = standardised(trains, trains)
    start = Head.zeros(CLASSES, parts[0].features.shape[1])

    def changes_of(are_honest: Sequence[bool]) -> list[np.ndarray]:
        heads = [start if one else dead(start) for one in are_honest]
        replies = [sent(*one, local=LOCAL) for one in zip(heads, parts, NAMES, strict=True)]
        return [reply.examples * reply.change(head) for reply, head in zip(replies, heads, strict=True)]

    changes = changes_of([True] * len(parts))
    named, true, name, all_of_them = dict(zip(NAMES, changes, strict=True)), changes[target], NAMES[target], len(parts)
    singled = error_of(naive_masks.by_inconsistent_models(changes_of, len(parts), target), true)
    shrunk = error_of(naive_masks.by_shrinking(changes, target), true)
    rest = error_of(naive_masks.total_of(naive_masks.hospitals_with(changes), range(len(parts))), true)
    lies = (
        ("no lie: the sum of four", rest, lambda *given: given[0].sum(given[1], subject_of(1, start), name), 2),
        ("a model from which nothing moves for all others", singled, inconsistent_models, 2),
        ("the same, all having signed one digest", singled, one_digest_two_models, 2),
        (
            "its own keys in the place of others'",
            error_of(naive_masks.by_forged_keys(changes, target), true),
            forged_keys,
            2,
        ),
        ("the same session asked twice", error_of(naive_masks.by_replay(changes, target), true), replay, 2),
        ("a second sum without the hospital, same round", shrunk, shrinking, 2),
        ("a second sum without it, next round, same model", shrunk, next_round, 2),
        ("the same, policy min_hospitals_in_sum: 4", shrunk, next_round, all_of_them),
    )
    rows = [(title, without, told(lie, named, start, name, least)) for title, without, lie, least in lies]
    columns = ("the coordinator's lie", "error of the hospital's update: masks alone", "secure sum of a run")
    return Table("5. A malicious coordinator against the secure sum", SOURCE, columns, tuple(rows))
