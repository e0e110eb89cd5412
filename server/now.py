"""What a run is doing now: the question that is out, until when, and how far each hospital is with it.

For whoever watches: `now.json` of the run directory is written from it, and goes when the process ends. It decides nothing.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.artifact import write_atomically
from server.pending import Pending

log = logging.getLogger(__name__)

NOW = "now.json"
STATES: Mapping[str, str] = {
    "waiting": "not sent to it yet: it is not connected, or busy",
    "asked": "works at it",
    "answered": "has answered",
    "declined": "has declined",
    "failed": "gave no answer",
}
"""How far a hospital can be with a question."""

_EVERY_S = 0.5


@dataclass(frozen=True)
class HospitalNow:
    """How far one hospital is: one of `STATES`, and why where it declined or failed."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class Now:
    """A question. since, deadline: seconds since 1970. needed: usable answers that make the quorum. Bytes: of this question."""

    kind: str
    round: int
    since: float
    deadline: float
    needed: int
    hospitals: Mapping[str, HospitalNow]
    bytes_down: int = 0
    bytes_up: int = 0


Watch = Callable[[Now], None]


@dataclass(frozen=True)
class Question:
    """One question as it is watched. names: of hospitals, by node. started: on the monotonic clock, at `since`."""

    kind: str
    number: int
    needed: int
    names: Mapping[int, str]
    watch: Watch
    since: float
    started: float

    @classmethod
    def begun(cls, kind: str, number: int, needed: int, names: Mapping[int, str], watch: Watch) -> "Question":
        """It begins now."""
        return cls(kind, number, needed, names, watch, time.time(), time.monotonic())

    def at(self, pending: Pending, end: float) -> None:
        """So far it is. end: when it will be over, on the monotonic clock."""
        asked = set(pending.open.values())
        hospitals = {self.names[node]: _state(pending, node, asked) for node in pending.records}
        self.watch(
            Now(
                kind=self.kind,
                round=self.number,
                since=self.since,
                deadline=self.since + end - self.started,
                needed=self.needed,
                hospitals=dict(sorted(hospitals.items())),
                bytes_down=pending.bytes_down,
                bytes_up=pending.bytes_up,
            )
        )


def _state(pending: Pending, node: int, asked: Set[int]) -> HospitalNow:
    if node in pending.answered:
        return HospitalNow("answered" if node in pending.usable else "declined")
    if node in asked:
        return HospitalNow("asked")
    if node in pending.failures and node not in pending.unsent:
        return HospitalNow("failed", pending.failures[node])
    return HospitalNow("waiting" if node in pending.unsent else "failed")


class NowFile:
    """Keeps `now.json` of a run directory in step, at most twice a second while one question is out."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOW
        self._told: Now | None = None
        self._written = 0.0

    def tell(self, now: Now) -> None:
        """Write it if it is news."""
        before = self._told
        if before is not None and replace(before, deadline=now.deadline) == now:
            return
        same = before is not None and (before.kind, before.round, before.since) == (now.kind, now.round, now.since)
        working = any(one.state in ("waiting", "asked") for one in now.hospitals.values())
        if same and working and time.monotonic() < self._written + _EVERY_S:
            return
        self._told, self._written = now, time.monotonic()
        try:
            write_atomically(self._path, json.dumps(asdict(now)), durable=False)
        except OSError as error:  # a disk that is full must not cost a round: the checkpoint will say so
            log.warning("%s cannot be written (%s)", NOW, error.strerror)

    def remove(self) -> None:
        """The process that ran it ends."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed (%s)", NOW, error.strerror)
