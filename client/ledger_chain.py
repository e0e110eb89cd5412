"""Is every line of a ledger the one that was written, in its place, and is the last one still there?

The chain of hashes shows what was changed, left out or moved. It cannot show that the end is missing: for that, the head names
the last entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from client.ledger_entry import GENESIS, Entry, Head

LEDGER, HEAD = "ledger.jsonl", "head.json"

What = Literal["changed", "missing", "out of order", "truncated", "half line", "head"]


@dataclass(frozen=True)
class Problem:
    """Where a ledger is not as it was written. line: of ledger.jsonl, from 1; None: of head.json."""

    line: int | None
    what: What
    text: str

    def __str__(self) -> str:
        return f"{LEDGER}, line {self.line}: {self.text}" if self.line is not None else f"{HEAD}: {self.text}"


def chain_problems(found: Sequence[Entry | None]) -> list[Problem]:
    """Line by line: is it an entry, is it the next one, and does it follow on the one before?"""
    hashes = {entry.seq: entry.hash for entry in reversed(found) if entry is not None}
    problems = []
    highest, changed = 0, 0
    for line, entry in enumerate(found, 1):
        if entry is None:
            problems.append(Problem(line, "changed", "was changed: its content is not what its hash says"))
            changed += 1
            continue
        # Lines that were changed stand for at most so many entries.
        gone = range(highest + changed + 1, entry.seq)
        if entry.seq <= highest or any(seq in gone for seq in hashes):
            expected = f"entry {highest + 1}" if not changed else f"an entry above {highest}"
            problems.append(Problem(line, "out of order", f"out of order: expected {expected}, got entry {entry.seq}"))
        elif gone:
            what = f"entry {gone[0]} is" if len(gone) == 1 else f"entries {gone[0]} to {gone[-1]} are"
            problems.append(Problem(line, "missing", f"{what} missing: entry {entry.seq} is here"))
        elif entry.previous != (hashes.get(entry.seq - 1, entry.previous) if entry.seq > 1 else GENESIS):
            text = f"entry {entry.seq} does not follow on the one before: one of them was replaced"
            problems.append(Problem(line, "changed", text))
        highest, changed = max(highest, entry.seq), 0
    return problems


def end_problems(entries: Sequence[Entry], head: Head, half: bytes, lines: int) -> list[Problem]:
    """Is the last entry the one that the head names, or as far from it as a killed process leaves it?"""
    last = entries[-1] if entries else None
    seq, digest = (last.seq, last.hash) if last else (0, GENESIS)
    if head.seq > seq:
        if half and head.seq == seq + 1:
            text = f"is half a line, and {HEAD} says that entry {head.seq} was whole: it was truncated"
            return [Problem(lines + 1, "half line", text)]
        gone = f"entry {head.seq} is" if head.seq == seq + 1 else f"entries {seq + 1} to {head.seq} are"
        text = f"the end was removed, or an older copy put here: {gone} gone, which {HEAD} names"
        return [Problem(lines + 1, "truncated", text)]
    if head.seq == seq and head.hash == digest:
        return []
    if head.seq == seq - 1 and last is not None and last.previous == head.hash and not half:
        # The writer was cut off between entry and head. If it was mending, the entry is the one it was to write.
        if head.repair is None or dict(last.about) == dict(head.repair):
            return []
        return [Problem(lines, "changed", f"entry {seq} is not the repair that {HEAD} announced")]
    if head.hash != (entries[head.seq - 1].hash if head.seq else GENESIS):
        return [Problem(None, "head", f"it and entry {head.seq} do not agree: one of them was replaced")]
    text = f"it ends at entry {head.seq}, the ledger at {seq}: it is an older copy, or entries were added"
    return [Problem(None, "head", text)]


def trailing_changed(found: Sequence[Entry | None]) -> int:
    """How many of the last lines are no entries."""
    return next((count for count, entry in enumerate(reversed(found)) if entry is not None), len(found))
