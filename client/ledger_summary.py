"""Sums over a ledger: by job, by day, by kind of message, and what was refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from client.ledger_entry import Entry

LARGEST = 10


@dataclass(frozen=True)
class Group:
    """Entries that have something in common. sent: answers that left, of so many bytes; refused: requests, counted ones too."""

    name: str
    detail: str
    sent: int
    bytes: int
    masked: int
    epsilon: float
    refused: int
    highest_round: int | None
    first: str
    last: str


@dataclass(frozen=True)
class Summary:
    """What a ledger adds up to."""

    everything: Group
    jobs: Sequence[Group]
    days: Sequence[Group]
    kinds: Sequence[Group]
    refusals: Sequence[Group]
    largest: Sequence[Entry]
    repairs: Sequence[Entry]


def summarise(entries: Sequence[Entry]) -> Summary:
    """The sums over some entries. Days are those of the entries' own time zone; names of groups are in order."""
    about = [entry for entry in entries if entry.decision in ("sent", "refused")]
    sent = [entry for entry in about if entry.decision == "sent"]
    refused = [entry for entry in about if entry.decision == "refused"]
    return Summary(
        everything=_group(("", ""), about),
        jobs=_groups(about, lambda one: (one.job or "", one.job_id or "")),
        days=_groups(about, lambda one: (one.time[:10], "")),
        kinds=_groups(about, lambda one: (one.kind or "", "")),
        refusals=_groups(refused, lambda one: (one.code or "", one.kind or "")),
        largest=sorted(sent, key=lambda one: -one.bytes)[:LARGEST],
        repairs=[entry for entry in entries if entry.decision == "repaired"],
    )


def _groups(entries: Sequence[Entry], key: Callable[[Entry], tuple[str, str]]) -> list[Group]:
    return [_group(name, list(members)) for name, members in groupby(sorted(entries, key=key), key)]


def _group(name: tuple[str, str], entries: Sequence[Entry]) -> Group:
    sent = [entry for entry in entries if entry.decision == "sent"]
    times = [time for entry in entries for time in (entry.since or entry.time, entry.time)]
    return Group(
        name=name[0],
        detail=name[1],
        sent=len(sent),
        bytes=sum(entry.bytes for entry in sent),
        masked=sum(entry.masked for entry in sent),
        epsilon=sum(entry.epsilon for entry in sent),
        refused=sum(entry.count for entry in entries if entry.decision == "refused"),
        highest_round=max((entry.round for entry in sent if entry.round is not None), default=None),
        first=times[0] if times else "",
        last=times[-1] if times else "",
    )
