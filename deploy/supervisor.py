"""A small supervisor: processes that belong together, in the foreground of one command.

They start in the order they need each other, are started again when they die, and end when the command ends, however it ends.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConfigError, FederationError
from deploy.child import end, end_group, rotate, spawn, start_ticks, tail
from deploy.supervisor_state import (
    Phase,
    ProcessState,
    State,
    last_state,
    log_path,
    read_state,
    start_detached,
    stop,
    take_lock,
    write_state,
)

__all__ = ["Process", "ProcessState", "State", "log_path", "read_state", "start_detached", "stop", "supervise"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _SETTLED_S = 0.5, 30.0, 60.0
_STOP_S = 15.0
_EVERY_S = 0.2
_ROTATE_EVERY_S = 60.0


@dataclass(frozen=True)
class Process:
    """A process that stays.

    `folder` is its working directory. `ready` is asked until it says yes (at once if None) and must answer within a
    second or so; an OSError means no. It starts when those in `after` are ready. After `give_up_after` deaths in a row, each
    within a minute of its start, everything is given up; None starts it again for ever.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    ready: Callable[[], bool] | None = None
    after: tuple[str, ...] = ()
    give_up_after: int | None = 5


def supervise(
    folder: Path,
    processes: Sequence[Process],
    on_state: Callable[[State], None] | None = None,
    before_start: Callable[[], None] | None = None,
) -> None:
    """Run the processes until SIGTERM, SIGINT or SIGHUP; call it in the main thread. A second signal kills at once.

    `on_state` is called in the same thread whenever something changed. `before_start` is called once, when it is certain that
    no other supervisor runs here and none left anything behind.

    Raises:
        ConfigError: another supervisor runs in `folder`, or `after` names nothing or goes in a circle.
        FederationError: a process died too often; the message quotes its log.
    """
    ordered = _in_order(processes)
    folder.mkdir(parents=True, exist_ok=True)
    before = last_state(folder)
    with take_lock(folder), _signals() as asked:
        _end_leftovers(before)
        if before_start is not None:
            before_start()
        children = {one.name: _Child(one, log_path(folder, one.name)) for one in ordered}
        supervisor = State(os.getpid(), start_ticks(os.getpid()), time.time(), {})
        try:
            _loop(folder, supervisor, children, asked, on_state or (lambda _: None))
        finally:
            for child in reversed(children.values()):
                child.stop(lambda: len(asked) > 1)


@dataclass
class _Child:
    process: Process
    log: Path
    running: "subprocess.Popen[bytes] | None" = None
    phase: Phase = "starting"
    since: float = field(default_factory=time.time)
    restarts: int = 0
    last_exit_code: int | None = None
    began: float = 0.0
    next_start: float = 0.0
    quick_deaths: int = 0

    def step(self, ready: set[str]) -> None:
        """Start it, notice that it is ready or that it died."""
        now = time.monotonic()
        if self.running is None:
            if now >= self.next_start and ready.issuperset(self.process.after):
                self._start(now)
        elif (code := self.running.poll()) is not None:
            self._died(code, now)
        elif self.phase != "ready" and self._is_ready():
            self._enter("ready")

    def _start(self, now: float) -> None:
        self.began = now
        try:
            process = self.process
            self.running = spawn(process.command, process.environment, process.folder, self.log)
        except OSError as error:
            self._enter("failed")
            raise ConfigError(
                f"cannot start {self.process.name} ({self.process.command[0]}): {error.strerror}"
            ) from error

    def _died(self, code: int, now: float) -> None:
        if self.running is not None:
            end_group(self.running.pid)
        self.running, self.last_exit_code = None, code
        self.quick_deaths = 1 if now - self.began >= _SETTLED_S else self.quick_deaths + 1
        if self.process.give_up_after is not None and self.quick_deaths >= self.process.give_up_after:
            self._enter("failed")
            raise FederationError(
                f"{self.process.name} ended {self.quick_deaths} times in a row, last with exit code {code}; "
                f"all is stopped. Its log {self.log} ends with:\n{tail(self.log)}"
            )
        self.restarts += 1
        self.next_start = now + min(_FIRST_PAUSE_S * 2.0 ** min(self.quick_deaths - 1, 16), _LONGEST_PAUSE_S)
        self._enter("restarting")

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.process.ready is None or self.process.ready()
        return False

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, time.time()

    def stop(self, hurry: Callable[[], bool]) -> None:
        if self.running is not None:
            end(self.running, _STOP_S, hurry)

    def state(self) -> ProcessState:
        pid = self.running.pid if self.running else None
        ticks = start_ticks(pid) if pid else None
        return ProcessState(pid, ticks, self.phase, self.since, self.restarts, self.last_exit_code)


def _loop(
    folder: Path,
    supervisor: State,
    children: Mapping[str, _Child],
    asked: Sequence[int],
    on_state: Callable[[State], None],
) -> None:
    shown = None
    rotated = time.monotonic()
    while not asked:
        try:
            for child in children.values():
                child.step({name for name, other in children.items() if other.phase == "ready"})
        finally:
            state = State(
                supervisor.pid,
                supervisor.ticks,
                supervisor.since,
                {name: one.state() for name, one in children.items()},
            )
            if state != shown:
                write_state(folder, state)
                on_state(state)
                shown = state
        if time.monotonic() - rotated > _ROTATE_EVERY_S:
            rotated = time.monotonic()
            for child in children.values():
                rotate(child.log)
        time.sleep(_EVERY_S)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end."""
    asked: list[int] = []
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_leftovers(before: State | None) -> None:
    """End what a supervisor that was killed left behind, if it did not end by itself."""
    for one in before.processes.values() if before else ():
        if one.pid is not None and one.ticks is not None and start_ticks(one.pid) == one.ticks:
            end_group(one.pid)


def _in_order(processes: Sequence[Process]) -> list[Process]:
    waiting, ordered = list(processes), list[Process]()
    while waiting:
        names = {one.name for one in ordered}
        able = [one for one in waiting if names.issuperset(one.after)]
        if not able:
            needs = "; ".join(f"{one.name} after {', '.join(one.after)}" for one in waiting)
            raise ConfigError(f"these processes wait for each other or for one that is not there: {needs}")
        ordered += able
        waiting = [one for one in waiting if one not in able]
    return ordered
