"""One child process of a supervisor: started in a group of its own, with a log, and ended with all that it started."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOG_BYTES = 20_000_000
"""A log that is larger is moved to NAME.log.1, and what was there is dropped."""
STARTED = b"--- started anew ---\n"
"""In the log, before what each new process prints."""
_PR_SET_PDEATHSIG = 1
_GROUP_GRACE_S = 5.0
_EVERY_S = 0.05


def spawn(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a process that ends when its parent does (on Linux); what it prints is appended to `log`.

    Raises:
        OSError: the command is not there or cannot be run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate(log)
    with log.open("ab") as output:
        output.write(STARTED)
        output.flush()
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_ends_with_parent(os.getpid()),
        )


def _ends_with_parent(parent: int) -> Callable[[], None] | None:
    """SIGTERM, not SIGKILL: a child may have children, which only it can end."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def announce() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before we could say so
            os._exit(1)

    return announce


def end(process: "subprocess.Popen[bytes]", timeout_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """End a process and its group: SIGTERM, and SIGKILL after `timeout_s` or as soon as `hurry` says so."""
    signal_group(process.pid, signal.SIGTERM)
    limit = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < limit and not hurry():
        time.sleep(_EVERY_S)
    end_group(process.pid, 0.0 if process.poll() is None else min(timeout_s, _GROUP_GRACE_S))
    process.wait()


def end_group(group: int, grace_s: float = _GROUP_GRACE_S) -> None:
    """End what is left of a group whose leader may be gone already."""
    signal_group(group, signal.SIGTERM)
    limit = time.monotonic() + grace_s
    while signal_group(group, 0) and time.monotonic() < limit:
        time.sleep(_EVERY_S)
    signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False if nothing is left of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def start_ticks(pid: int) -> int | None:
    """When a process began, in the kernel's own unit: with the pid it names one process for good. None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def rotate(log: Path, limit: int = LOG_BYTES) -> None:
    """Move what a large log holds to NAME.log.1. Its file stays the same, because processes have it open for appending."""
    if not log.exists() or log.stat().st_size <= limit:
        return
    # A disk that is full cannot take the copy; the room that the log takes is needed more than what it says.
    with contextlib.suppress(OSError):
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


def tail(log: Path, lines: int = 15, start: int = 0) -> str:
    """The last lines of a log, from byte `start` on, indented for a message."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line[:300]}" for line in kept) or "    (nothing)"
