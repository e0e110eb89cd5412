"""What the agent is doing, as a small file in the hospital's state folder: for `consilium hospital status`.

The courier's socket does not tell it: what is served there, the coordinator could ask for.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.artifact import write_atomically
from common.errors import DataError

log = logging.getLogger(__name__)

STATUS = "agent.json"
_EVERY_S = 1.0


@dataclass(frozen=True)
class AgentStatus:
    """state: starting, ready or stopped. doing: in words, None when idle. done of total: of the work that goes on.

    Times are seconds since 1970.
    """

    pid: int
    hospital: str
    socket: str
    state: str
    since: float
    doing: str | None = None
    doing_since: float | None = None
    done: int = 0
    total: int = 0
    answered: int = 0
    declined: int = 0
    last_answer: float | None = None
    problem: str | None = None


class StatusFile:
    """Keeps the file in step, at most once a second where only a count grows."""

    def __init__(self, state: Path, status: AgentStatus) -> None:
        self._path, self._status = state / STATUS, status
        self._lock = threading.Lock()
        self._written = 0.0
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.change()

    def change(self, **changes: Any) -> None:
        """Change some fields, and write the file."""
        with self._lock:
            self._status = replace(self._status, **changes)
            self._write()

    def count(self, declined: bool) -> None:
        """One more request was answered or declined."""
        with self._lock:
            self._status = replace(
                self._status,
                answered=self._status.answered + (not declined),
                declined=self._status.declined + declined,
                last_answer=time.time(),
            )
            self._write()

    def progress(self, title: str, done: int, total: int) -> None:  # noqa: ARG002  a `client.progress.Watcher`
        """So much of the work is done."""
        with self._lock:
            self._status = replace(self._status, done=done, total=total)
            if time.monotonic() - self._written >= _EVERY_S or done >= total:
                self._write()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """While the body runs the agent does this."""
        self.change(doing=what, doing_since=time.time(), done=0, total=0)
        try:
            yield
        finally:
            self.change(doing=None, doing_since=None, done=0, total=0)

    def _write(self) -> None:
        self._written = time.monotonic()
        try:
            write_atomically(self._path, json.dumps(asdict(self._status)), mode=0o600, durable=False)
        except OSError as error:  # a disk that is full must not cost an answer
            log.warning("the status file cannot be written (%s)", type(error).__name__)


def read_status(state: Path) -> AgentStatus | None:
    """What the agent wrote last; None if it never ran with this state folder.

    Raises:
        DataError: the file is damaged.
    """
    path = state / STATUS
    try:
        return AgentStatus(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read the agent's status {path} ({error}); restart the agent, it writes it anew"
        ) from error
