"""Sessions in one process: hospitals with keys of their own, who may be missing, and what each said."""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from common.packed import Packed
from common.secure_sum.combiner import Combiner
from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout, Slot
from common.secure_sum.once import Once
from common.secure_sum.participant import Participant
from common.secure_sum.roster import Identity, Roster, public_line
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, Terms

LAYOUT = Layout((Slot("examples", (), "count"), Slot("confusion", (2, 2), "count"), Slot("gram", (3, 5), "real", 24)))
SUBJECT = Subject("a" * 64, "statistics", LAYOUT, "c" * 64)
Missing = Mapping[Phase, set[str]]
_numbers = itertools.count()


def names(count: int) -> list[str]:
    return [f"h{number:02d}" for number in range(count)]


@functools.cache
def node_keys(count: int) -> dict[str, ec.EllipticCurvePrivateKey]:
    return {name: ec.generate_private_key(ec.SECP384R1()) for name in names(count)}


@functools.cache
def roster(count: int) -> Roster:
    return Roster({name: public_line(key) for name, key in node_keys(count).items()})


def identity(count: int, name: str) -> Identity:
    return Identity(name, node_keys(count)[name], roster(count))


def drawn(seed: int, layout: Layout = LAYOUT) -> dict[str, Any]:
    """Arrays of one hospital."""
    rng = np.random.default_rng(seed)
    return {
        slot.name: rng.integers(0, 10_000, slot.shape)
        if slot.kind == "count"
        else rng.normal(0, 1000, slot.shape).astype(np.float32)
        for slot in layout.slots
    }


@dataclass
class Session:
    """A combiner and its hospitals; `replies` are what each answered, by phase."""

    combiner: Combiner
    hospitals: dict[str, Participant]
    arrays: dict[str, dict[str, Any]]
    requests: dict[Phase, dict[str, Packed]] = field(default_factory=dict)
    replies: dict[Phase, dict[str, Packed]] = field(default_factory=dict)
    refusals: dict[str, SecureSumError] = field(default_factory=dict)
    tamper: Callable[[Phase, str, Packed], Packed] = lambda phase, name, reply: reply
    """Changes a reply on its way."""

    def step(self, missing: Missing | None = None) -> None:
        """One phase."""
        phase = self.combiner.phase
        assert phase is not None
        self.requests[phase] = self.combiner.requests()
        self.replies[phase] = {}
        for name, request in self.requests[phase].items():
            if name not in (missing or {}).get(phase, set()):
                self.ask(phase, name, request)
        self.combiner.take(self.replies[phase])

    def ask(self, phase: Phase, name: str, request: Packed) -> None:
        try:
            reply = self.hospitals[name].answer(phase, request, self.arrays[name] if phase is Phase.MASKED else None)
            self.replies[phase][name] = self.tamper(phase, name, reply)
        except SecureSumError as error:
            self.refusals[name] = error

    def until(self, phase: Phase | None, missing: Missing | None = None) -> "Session":
        """All phases before one; None: all."""
        while self.combiner.phase is not None and self.combiner.phase is not phase:
            self.step(missing)
        return self


def session(folder: Path, count: int, threshold: int | None = None, subject: Subject = SUBJECT, **more: Any) -> Session:
    """A session of so many hospitals, each of which has opened nothing yet."""
    terms = subject.terms(roster(count), count, threshold)
    combiner = Combiner(terms, subject.layout, roster(count), names(count))
    request = combiner.requests()
    number = next(_numbers)
    hospitals = {
        name: Participant(identity(count, name), request[name], subject, Once(folder / f"{number}" / name))
        for name in names(count)
    }
    arrays = {name: drawn(place, subject.layout) for place, name in enumerate(names(count))}
    return Session(combiner, hospitals, arrays, **more)


def terms_of(made: Session) -> Terms:
    """The terms of a session that has begun."""
    return Terms.unpack(next(iter(made.requests[Phase.KEYS].values())))


def changed(packed: Packed, **arrays: Any) -> Packed:
    """A message with other arrays; names with _ for -."""
    return Packed({**packed.arrays, **{name.replace("_", "-"): array for name, array in arrays.items()}}, packed.fields)


def plain_sum(session: Session, among: list[str]) -> dict[str, Any]:
    """The sum in float64 of the arrays of some hospitals."""
    return {
        slot.name: sum(np.asarray(session.arrays[name][slot.name]).astype(np.float64) for name in among)
        for slot in LAYOUT.slots
    }
