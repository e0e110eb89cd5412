"""What a supervisor says about itself in its folder, and how others find, stop or start it.

supervisor.lock   held by the supervisor as long as it runs, whatever happens
supervisor.json   its pid and its processes' states; without the lock it is a leftover
logs/NAME.log     what each process prints; logs/supervisor.log what the supervisor does when it runs in the background
"""

import fcntl
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from common.artifact import write_atomically
from common.errors import ConfigError, FederationError
from deploy.child import start_ticks, tail

log = logging.getLogger(__name__)

LOCK, STATE, LOGS = "supervisor.lock", "supervisor.json", "logs"
Phase = Literal["starting", "ready", "restarting", "failed"]
_LOCK_TRIES = 10
_EVERY_S = 0.1


@dataclass(frozen=True)
class ProcessState:
    """One process: `state` since `since` (Unix time, s), how often it was started again, how it last ended.

    `ticks` is when the process began, in the kernel's own unit.
    """

    pid: int | None
    ticks: int | None
    state: Phase
    since: float
    restarts: int
    last_exit_code: int | None


@dataclass(frozen=True)
class State:
    """A running supervisor and its processes by name."""

    pid: int
    ticks: int | None
    since: float
    processes: Mapping[str, ProcessState]

    @property
    def ready(self) -> bool:
        """All processes are there and ready."""
        return bool(self.processes) and all(one.state == "ready" for one in self.processes.values())


def log_path(folder: Path, name: str) -> Path:
    """Where the output of the process `name` goes."""
    return folder / LOGS / f"{name}.log"


def write_state(folder: Path, state: State) -> None:
    """Write supervisor.json, all or nothing. A full disk must not end the processes: then it stays as it was."""
    try:
        write_atomically(folder / STATE, json.dumps(asdict(state), indent=1), 0o600)
    except OSError as error:
        log.warning("cannot write %s: %s", folder / STATE, error.strerror)


def last_state(folder: Path) -> State | None:
    """What supervisor.json says, though its supervisor may be gone. None if there is none that can be read."""
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return State(**{**content, "processes": {n: ProcessState(**p) for n, p in content["processes"].items()}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_state(folder: Path) -> State | None:
    """The state of the supervisor that runs in `folder`; None if none does."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return last_state(folder)
    except OSError:
        return None


def take_lock(folder: Path) -> IO[bytes]:
    """The lock of `folder`, held until the file is closed or the process ends.

    Raises:
        ConfigError: another supervisor has it.
    """
    file = (folder / LOCK).open("ab")
    for _ in range(_LOCK_TRIES):  # who looks whether the lock is free has it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_EVERY_S)
        else:
            (folder / STATE).unlink(missing_ok=True)
            return file
    file.close()
    state = last_state(folder)
    raise ConfigError(
        f"{folder} is in use: its processes run already{_by(state)}; stop them first, or use another folder"
    )


def stop(folder: Path, timeout_s: float = 90.0) -> bool:
    """Stop the supervisor in `folder` and wait until it and its processes are gone; False if none runs.

    Raises:
        FederationError: it still runs after `timeout_s`.
    """
    state = read_state(folder)
    if state is None:
        return False
    if state.ticks == start_ticks(state.pid):
        os.kill(state.pid, signal.SIGTERM)
    limit = time.monotonic() + timeout_s
    while read_state(folder) is not None:
        if time.monotonic() > limit:
            raise FederationError(
                f"{folder}: the processes did not stop within {timeout_s:.0f} s{_by(state)}; see {folder / LOGS}"
            )
        time.sleep(_EVERY_S)
    return True


def start_detached(command: Sequence[str], folder: Path, timeout_s: float = 120.0) -> State:
    """Run `command`, which supervises `folder` in the foreground, in the background; return when all is ready.

    Raises:
        ConfigError: a supervisor runs there already.
        FederationError: it failed, or is not ready after `timeout_s` (it then goes on trying).
    """
    if (state := read_state(folder)) is not None:
        raise ConfigError(f"{folder} is in use: its processes run already{_by(state)}; stop them first")
    log = log_path(folder, "supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        return _when_ready(process, folder, timeout_s, start)
    finally:
        process.returncode = process.poll() or 0  # it stays when this process ends: that is no leak to warn of


def _when_ready(process: "subprocess.Popen[bytes]", folder: Path, timeout_s: float, log_start: int) -> State:
    limit = time.monotonic() + timeout_s
    state = None
    while time.monotonic() < limit:
        state = read_state(folder)
        if state is not None and state.ready:
            return state
        if process.poll() is not None:
            words = tail(log_path(folder, "supervisor"), 40, log_start)
            raise FederationError(f"it did not start (exit code {process.returncode}):\n{words}")
        time.sleep(_EVERY_S)
    waiting = [f"{name} {one.state}" for name, one in state.processes.items() if one.state != "ready"] if state else []
    raise FederationError(
        f"not ready after {timeout_s:.0f} s: {', '.join(waiting) or 'no process was started yet'}. "
        f"It goes on trying in the background, pid {process.pid}; the logs are in {folder / LOGS}"
    )


def _by(state: State | None) -> str:
    return f" (pid {state.pid})" if state else ""
