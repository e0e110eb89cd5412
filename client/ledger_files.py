"""The ledger's files, for the one process that writes them: a line is on the disk, and the head after it, or it is as before.

ledger/ledger.jsonl    one entry a line
ledger/head.json       number and hash of the last entry
ledger/ledger.lock     held by the one process that writes
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from client.ledger_chain import HEAD, LEDGER
from client.ledger_entry import GENESIS, Head
from client.ledger_reading import Reading, ledger_folder, locked, read_ledger
from common.artifact import write_atomically
from common.errors import ConfigError, LedgerError

LOCK = "ledger.lock"


class LedgerFiles:
    """Held by one writer, until it closes them or ends. size: of the ledger as written; None: read it again, a writing failed.

    Raises:
        ConfigError: another process holds them.
        OSError: their folder cannot be written.
    """

    def __init__(self, state: Path) -> None:
        self._state, self.folder = state, ledger_folder(state)
        self.size: int | None = None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(state)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"another process writes the ledger in {self.folder}; a hospital has one agent: stop the other one, or give "
                "this hospital its own 'state' folder in its file"
            ) from error

    def read(self) -> Reading:
        """The ledger as it is; a new one if there is none."""
        for left in self.folder.glob(f".{HEAD}.*"):  # of a process that was killed while it wrote
            left.unlink()
        found = read_ledger(self._state)
        if found is None:
            self.write_head(Head(seq=0, hash=GENESIS))
            found = read_ledger(self._state)
        if found is None:
            raise LedgerError(f"{self.folder / HEAD} was written and is not there; look who removes it")
        self.size = found.whole_bytes
        return found

    def write_head(self, head: Head) -> None:
        """Write the head, all or nothing."""
        write_atomically(self.folder / HEAD, head.line, mode=0o600)
        _sync(self.folder)

    def cut(self) -> None:
        """Take away the half line after the last whole one."""
        with self._opened() as file:
            file.truncate(self.size)
            os.fsync(file.fileno())

    def append(self, line: bytes, before: Head, head: Head) -> None:
        """Append a line that `head` is the hash of. If it raises, the line is not there, or the next `read` says what is.

        Raises:
            LedgerError: somebody else changed the files.
        """
        with self._opened() as file:
            if file.seek(0, os.SEEK_END) != self.size or (self.folder / HEAD).read_bytes() != before.line:
                raise LedgerError(
                    f"the ledger in {self.folder} was changed while the agent runs: consilium hospital ledger verify"
                )
            try:
                _write(file, line)
                self.write_head(head)
            except BaseException:
                self._take_back(file, before)
                raise
            self.size += len(line)

    def close(self) -> None:
        """Let another process write."""
        os.close(self._lock)

    def _take_back(self, file: IO[bytes], before: Head) -> None:
        size, self.size = self.size, None
        with contextlib.suppress(OSError):
            if (self.folder / HEAD).read_bytes() == before.line:
                file.truncate(size)
                os.fsync(file.fileno())
                self.size = size

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        new = 0 if self.size else os.O_CREAT
        try:
            handle = os.open(self.folder / LEDGER, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | new, 0o600)
        except FileNotFoundError as error:
            raise LedgerError(
                f"{self.folder / LEDGER} was removed while the agent runs; nothing leaves without it"
            ) from error
        with os.fdopen(handle, "r+b", buffering=0) as file, locked(file, fcntl.LOCK_EX):
            yield file


def _write(file: IO[bytes], line: bytes) -> None:
    data = memoryview(line)
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """See to it that the names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
