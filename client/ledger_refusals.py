"""Refusals in the ledger: each has an entry, until there are so many that they are only counted.

A refusal carries nothing but its neutral code, and whoever can ask can cause any number of them: they must not fill the disk.
"""

from dataclasses import dataclass
from datetime import date, datetime

EACH = 1000
"""Refusals of a kind and code that have an entry of their own on one day; so many more share one."""

_Key = tuple[str, str]


@dataclass(frozen=True)
class Counted:
    """Refusals of one kind and code that still wait for their common entry."""

    kind: str
    code: str
    count: int
    since: datetime


class Refusals:
    """Decides which refusals get an entry of their own, and counts the others."""

    def __init__(self) -> None:
        self._day: date | None = None
        self._seen: dict[_Key, int] = {}
        self._waiting: dict[_Key, Counted] = {}

    def counts(self, kind: str, code: str, moment: datetime) -> bool:
        """Note a refusal. True if it was only counted, False if it is to have an entry."""
        if moment.date() != self._day:
            self._day, self._seen = moment.date(), {}
        key = (kind, code)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= EACH:
            return False
        before = self._waiting.get(key)
        self._waiting[key] = Counted(kind, code, before.count + 1 if before else 1, before.since if before else moment)
        return True

    def due(self, all_of_them: bool) -> list[Counted]:
        """What is to be written now: all of them, or those that are as many as one entry counts."""
        return [one for one in self._waiting.values() if all_of_them or one.count >= EACH]

    def wrote(self, one: Counted) -> None:
        """Its entry is on the disk."""
        del self._waiting[(one.kind, one.code)]
