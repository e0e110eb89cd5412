"""What a disk can do to a run: be full, be cut off half-way through a line, be written by two processes."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from common.artifact import write_atomically
from common.errors import ConfigError, ConsiliumError, StorageError
from server.numbers import size

log = logging.getLogger(__name__)

LOCK, FAILURE = "run.lock", "failure.json"


class Lock:
    """Held by the one process that writes a run directory; the system releases it when that process ends, however it ends.

    Raises:
        ConfigError: another process holds it.
        StorageError: the lock file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        with writing(path, None):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._release = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release()
            raise ConfigError(
                f"another process writes the run in {folder}; wait until it ends or stop it, or give another --out"
            ) from error
        except OSError as error:
            log.warning(
                "%s cannot be locked (%s): see to it that no other process writes this run", path, error.strerror
            )

    def release(self) -> None:
        """Let it go."""
        self._release()


@contextlib.contextmanager
def writing(path: Path, saved: int | None) -> Iterator[None]:
    """Turns what the disk refuses into an error that says what to do. saved: the round of the last checkpoint, if any.

    Raises:
        StorageError: the body cannot write `path`.
    """
    try:
        yield
    except OSError as error:
        kept = "there is no checkpoint yet" if saved is None else f"the last checkpoint, of round {saved}, is as it was"
        what = "its disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise StorageError(
            f"cannot write {path}: {what} ({_free(path)} free); {kept}. Make room or mend the disk, then go on with --resume"
        ) from error


def append_line(path: Path, line: str) -> None:
    """Append a line and see to it that it is on the disk; if that fails the file is as it was."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            data = memoryview(f"{line}\n".encode())
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def note_failure(folder: Path, error: BaseException) -> None:
    """Leave failure.json: why the run stopped. A disk that cannot take that either is only logged."""
    if isinstance(error, ConsiliumError):
        text, code = str(error), error.exit_code
    else:
        ended = not isinstance(error, Exception)
        text, code = "the process was told to end" if ended else str(error) or "no reason given", 130 if ended else 1
    found = {
        "error": text,
        "kind": type(error).__name__,
        "exit_code": code,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    try:
        write_atomically(folder / FAILURE, json.dumps(found, indent=1))
    except OSError as refused:
        log.warning("cannot write %s: %s", folder / FAILURE, refused.strerror)


def _free(path: Path) -> str:
    """Free bytes where a file is to be."""
    for folder in path.parents:
        with contextlib.suppress(OSError):
            return size(shutil.disk_usage(folder).free)
    return "unknown"
