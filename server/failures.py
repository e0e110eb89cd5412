"""Who was missing where, and why: in words, and as plain values for the summary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

PHASES: Mapping[str, str] = MappingProxyType(
    {
        "describe": "was left out",
        "holdings": "is missing from the numbers of images and patients",
        "centre": "is missing from the centre of the features",
        "initial": "did not send the pretrained arrays",
        "statistics": "is missing from the sums",
        "noised-statistics": "is missing from the sums",
        "fit": "is missing from the training",
        "gradient": "is missing from the training",
        "validation": "is missing from the validation",
        "distances": "is missing from the distances of validation images",
        "test": "is missing from the test",
        "groups": "is missing from the figures by group",
        "cross-site": "is missing from the cross-site figures",
        "personalisation": "is missing from the personalised models",
    }
)
"""What a hospital may be missing from, and how that is said; in the order of a run."""
_OF_ROUNDS = ("describe", "fit", "gradient")


@dataclass(frozen=True)
class Failure:
    """A hospital that was missing. round: 0 is before the first one; of a test, the round that made the model."""

    hospital: str
    phase: str
    round: int
    reason: str


class Failures:
    """The failures of a run, as they happen."""

    def __init__(self, known: Iterable[Failure] = ()) -> None:
        self._found: dict[Failure, None] = dict.fromkeys(known)

    def add(self, phase: str, number: int, reasons: Mapping[str, str]) -> None:
        """Note that hospitals were missing; reasons: by hospital."""
        self._found |= {Failure(hospital, phase, number, reason): None for hospital, reason in reasons.items()}

    @property
    def found(self) -> tuple[Failure, ...]:
        """All of them, in order."""
        return tuple(self._found)

    def grouped(self) -> list[dict[str, Any]]:
        """Plain values, one for each hospital, phase and reason: `rounds` are those it holds for."""
        rounds: dict[tuple[str, str, str], set[int]] = {}
        for one in self._found:
            rounds.setdefault((one.hospital, one.phase, one.reason), set()).add(one.round)
        order = list(PHASES)
        return [
            {"hospital": hospital, "phase": phase, "rounds": sorted(found), "reason": reason}
            for (hospital, phase, reason), found in sorted(
                rounds.items(), key=lambda item: (item[0][0], order.index(item[0][1]), min(item[1]))
            )
        ]


def of_rounds(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The failures in some lines of rounds.jsonl, grouped."""
    failures = Failures()
    for one in rounds:
        failures.add("describe", one["round"], one["outside"])
        failures.add("fit", one["round"], one["dropped"])
    return failures.grouped()


def in_words(one: Mapping[str, Any]) -> str:
    """What happened to `one["hospital"]`, without its name: "is missing from the training in rounds 3 to 5: not connected"."""
    rounds = [number for number in one["rounds"] if number] if one["phase"] in _OF_ROUNDS else []
    where = f" in round{'s' if len(rounds) > 1 else ''} {_spans(rounds)}" if rounds else ""
    return f"{PHASES[one['phase']]}{where}: {one['reason']}"


def _spans(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] is "1 to 3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
