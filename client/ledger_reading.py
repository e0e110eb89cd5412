"""Reading and verifying a ledger.

`head.json` is written after the entry that it names, and before the answer leaves. A process that is killed in between leaves one
of two states that are no damage: half a line after the last entry, or one entry more than the head names.

Who can write both files can compute all hashes anew and so write another history. Only a head that was noted elsewhere, and
given here as `expected`, shows that.
"""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.ledger_chain import HEAD, LEDGER, Problem, chain_problems, end_problems, trailing_changed
from client.ledger_entry import GENESIS, Entry, Head, entry_of
from common.errors import ConfigError, LedgerError
from common.packed import Field


@dataclass(frozen=True)
class Reading:
    """A ledger as it was read. whole_bytes: up to the end of the last whole line; half: what follows there."""

    entries: Sequence[Entry]
    head: Head
    whole_bytes: int
    half: bytes
    problems: Sequence[Problem]

    @property
    def last(self) -> Head:
        """Where the entries end."""
        return Head(seq=self.entries[-1].seq, hash=self.entries[-1].hash) if self.entries else _BEGINNING

    @property
    def ahead(self) -> bool:
        """Whether the last entry was written, and the process killed before the head was: its answer never left."""
        return self.last.seq == self.head.seq + 1

    @property
    def note(self) -> str | None:
        """What is no damage, but is worth saying."""
        if self.problems:
            return None
        if self.half:
            return (
                f"line {len(self.entries) + 1} is half a line: the agent was cut off while it wrote, and that answer never "
                "left; it mends this when it starts"
            )
        if self.ahead and self.entries[-1].decision == "sent":
            return (
                f"the answer of entry {self.last.seq} never left: the agent was cut off right after it wrote the entry; it "
                "notes this when it starts"
            )
        return None


_BEGINNING = Head(seq=0, hash=GENESIS)


def ledger_folder(state: Path) -> Path:
    """Where the ledger of a hospital with this state folder is."""
    return state / "ledger"


def read_ledger(state: Path) -> Reading | None:
    """The ledger of a hospital, with all its problems; None if there is none. A writer may be at work meanwhile.

    Raises:
        LedgerError: the files cannot be read.
    """
    folder = ledger_folder(state)
    try:
        if not (folder / LEDGER).exists():
            return _reading(b"", _content(folder / HEAD)) if (folder / HEAD).exists() else None
        with (folder / LEDGER).open("rb") as file, locked(file, fcntl.LOCK_SH):
            data, head = file.read(), _content(folder / HEAD)
        return _reading(data, head)
    except OSError as error:
        raise LedgerError(f"cannot read the ledger in {folder}: {error.strerror}; look at its permissions") from error


def expected_problem(entries: Sequence[Entry], expected: str) -> Problem | None:
    """How a ledger departs from a head noted earlier, SEQ:HASH, or None.

    Raises:
        ConfigError: that is not how a head is written.
    """
    number, _, digest = expected.partition(":")
    if not number.isdecimal() or len(digest) != len(GENESIS):
        raise ConfigError(f"--head: expected SEQ:HASH with 64 hex digits, as show prints it, got '{expected}'")
    seq = int(number)
    if seq > len(entries):
        return Problem(len(entries) + 1, "truncated", f"entry {seq} was noted elsewhere, and is gone from here")
    if seq and entries[seq - 1].hash != digest.lower():
        return Problem(
            seq, "changed", f"entry {seq} is not the one that was noted elsewhere: its history was written anew"
        )
    return None


@contextmanager
def locked(file: IO[bytes], mode: int) -> Iterator[None]:
    """While the body runs, no line is half-written (readers, LOCK_SH) or read by halves (the writer, LOCK_EX)."""
    fcntl.flock(file, mode)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _reading(data: bytes, head_line: bytes | None) -> Reading:
    *lines, half = data.split(b"\n")
    found = [_entry(line) for line in lines]
    head, problems = _head(head_line)
    if head is not None and not half and found[-1:] == [None] and head.seq == len(found) - 1:
        # Beyond the head: a power failure can leave a line of which only the end is on the disk.
        found.pop()
        half = lines.pop() + b"\n"
    problems = [*chain_problems(found), *problems]
    entries = [entry for entry in found if entry is not None]
    if head is not None:
        reach = entries[-1].seq + trailing_changed(found) if entries else len(found)
        if not problems or head.seq > reach:
            problems += end_problems(entries, head, half, len(found))
    return Reading(entries, head or _BEGINNING, len(data) - len(half), half, problems)


def _entry(line: bytes) -> Entry | None:
    try:
        return entry_of(line)
    except ValueError:
        return None


def _head(line: bytes | None) -> tuple[Head | None, list[Problem]]:
    if line is None:
        return None, [Problem(None, "head", "is missing; without it nobody can tell whether the end of the ledger is")]
    try:
        head = Head.model_validate_json(line)
    except ValueError:
        head = None
    if head is None or head.line != line:
        return None, [Problem(None, "head", "was changed: it is not as this version writes it")]
    return head, []


def repair_of(reading: Reading) -> Mapping[str, Field] | None:
    """What the writer is to note first when it opens this ledger, if anything."""
    if reading.ahead:
        mended = reading.head.repair is not None or reading.entries[-1].decision != "sent"
        return None if mended else {"what": "unsent", "entry": reading.last.seq}
    if reading.head.repair is not None:
        return reading.head.repair
    if reading.half and reading.entries:
        return {"what": "half line", "bytes": len(reading.half), "after": reading.last.seq}
    return None
