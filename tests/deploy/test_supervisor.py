import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from common.errors import ConfigError, FederationError
from deploy.child import STARTED
from deploy.supervisor import Process, State, read_state, start_detached, stop, supervise

ROOT = Path(__file__).resolve().parent.parent.parent
SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
SUPERVISE = """
import os, sys
from pathlib import Path
from deploy.supervisor import Process, supervise
folder = Path(sys.argv[1])
sleep = [sys.executable, "-S", "-c", "import time; print('hello', flush=True); time.sleep(60)"]
make = lambda name, **more: Process(name, sleep, dict(os.environ), folder, **more)
supervise(folder, [make("two", after=("one",)), make("one", ready=(folder / "go").exists)])
"""


def run(folder: Path, *commands: tuple[str, ...]) -> None:
    processes = [Process(f"p{number}", command, os.environ, folder) for number, command in enumerate(commands)]
    supervise(folder, processes)


def wait(what: Callable[[], object]) -> None:
    limit = time.monotonic() + 20
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.02)


def alive(pid: int | None) -> bool:
    assert pid
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def supervisor(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(folder)], cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def state_of(folder: Path, name: str) -> str | None:
    state = read_state(folder)
    return state.processes[name].state if state else None


def test_processes_start_in_order_and_stop_together(tmp_path: Path) -> None:
    with supervisor(tmp_path) as process:
        wait(lambda: (state := read_state(tmp_path)) and state.processes["one"].pid)
        before = read_state(tmp_path)
        assert before is not None
        assert before.pid == process.pid
        assert (before.processes["two"].pid, before.processes["two"].state) == (None, "starting")
        assert not before.ready
        (tmp_path / "go").touch()
        wait(lambda: (state := read_state(tmp_path)) and state.ready)
        state = read_state(tmp_path)
        assert state is not None
        wait(lambda: (tmp_path / "logs" / "two.log").read_bytes() == STARTED + b"hello\n")
        with pytest.raises(ConfigError, match=f"in use: its processes run already \\(pid {process.pid}\\)"):
            run(tmp_path, SLEEP)
        assert stop(tmp_path)
        assert process.wait(20) == 0
        assert not any(alive(one.pid) for one in state.processes.values())
    assert read_state(tmp_path) is None
    assert not stop(tmp_path)


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with supervisor(tmp_path):
        wait(lambda: (state := read_state(tmp_path)) and state.ready)
        first = read_state(tmp_path)
        assert first is not None
        os.kill(first.processes["one"].pid or 0, signal.SIGKILL)
        wait(lambda: (state := read_state(tmp_path)) and state.processes["one"].restarts and state.ready)
        second = read_state(tmp_path)
        assert second is not None
        assert second.processes["one"].last_exit_code == -signal.SIGKILL
        assert second.processes["one"].pid != first.processes["one"].pid
        assert second.processes["two"] == first.processes["two"]


def test_a_supervisor_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with supervisor(tmp_path) as process:
        wait(lambda: (state := read_state(tmp_path)) and state.ready)
        state = read_state(tmp_path)
        assert state is not None
        process.kill()
        process.wait(20)
        wait(lambda: not any(alive(one.pid) for one in state.processes.values()))
    assert (tmp_path / "supervisor.json").exists()
    assert read_state(tmp_path) is None
    with supervisor(tmp_path):  # and the folder can be used again
        wait(lambda: (state := read_state(tmp_path)) and state.ready)


def test_leftovers_of_a_killed_supervisor_are_ended(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with supervisor(tmp_path):
        wait(lambda: (state := read_state(tmp_path)) and state.ready)
        content = json.loads((tmp_path / "supervisor.json").read_text())
    stubborn = subprocess.Popen(SLEEP, start_new_session=True)
    ticks = int(Path(f"/proc/{stubborn.pid}/stat").read_text().rpartition(")")[2].split()[19])
    content["processes"]["one"].update(pid=stubborn.pid, ticks=ticks)
    (tmp_path / "supervisor.json").write_text(json.dumps(content))
    with supervisor(tmp_path):
        assert stubborn.wait(20) == -signal.SIGTERM


def test_a_process_that_keeps_dying_ends_all_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.supervisor._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("deploy.supervisor._EVERY_S", 0.005)
    dying = (sys.executable, "-S", "-c", "print('the port is taken'); raise SystemExit(3)")
    seen: list[State] = []
    processes = [
        Process("good", SLEEP, os.environ, tmp_path),
        Process("bad", dying, os.environ, tmp_path, give_up_after=3, ready=lambda: False),
    ]
    with pytest.raises(
        FederationError, match=r"bad ended 3 times in a row, last with exit code 3; all is stopped"
    ) as e:
        supervise(tmp_path, processes, seen.append)
    assert str(e.value).count("the port is taken") == 3
    assert (seen[-1].processes["bad"].state, seen[-1].processes["bad"].restarts) == ("failed", 2)
    assert not alive(seen[-1].processes["good"].pid)
    assert read_state(tmp_path) is None


def test_a_child_of_a_child_ends_with_its_group(tmp_path: Path) -> None:
    spawn = f"import subprocess, time; p = subprocess.Popen({list(SLEEP)!r}); print(p.pid, flush=True); time.sleep(60)"
    code = SUPERVISE.replace("import time; print('hello', flush=True); time.sleep(60)", spawn.replace('"', '\\"'))
    (tmp_path / "go").touch()
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    log = tmp_path / "logs" / "one.log"
    wait(lambda: log.exists() and (words := log.read_bytes()).endswith(b"\n") and words != STARTED)
    grandchild = int(log.read_bytes().removeprefix(STARTED))
    assert alive(grandchild)
    process.terminate()
    assert process.wait(20) == 0
    assert not alive(grandchild)


def test_start_detached_returns_when_all_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "go").touch()
    state = start_detached([sys.executable, "-c", SUPERVISE, str(tmp_path)], tmp_path, 20)
    try:
        assert state.ready
        with pytest.raises(ConfigError, match="in use"):
            start_detached([sys.executable, "-c", SUPERVISE, str(tmp_path)], tmp_path, 20)
    finally:
        assert stop(tmp_path)


def test_start_detached_says_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("of yesterday\n")
    command = [sys.executable, "-S", "-c", "print('no such certificate'); raise SystemExit(2)"]
    with pytest.raises(FederationError, match=r"exit code 2\):\n    no such certificate$"):
        start_detached(command, tmp_path, 20)


def test_start_detached_that_takes_too_long_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(FederationError, match=r"not ready after 1 s: .*It goes on trying in the background, pid \d+"):
        start_detached([sys.executable, "-c", SUPERVISE, str(tmp_path)], tmp_path, 1.0)
    wait(lambda: state_of(tmp_path, "one"))
    assert stop(tmp_path)


def test_circles_and_missing_names_are_found_before_anything_starts(tmp_path: Path) -> None:
    one = Process("one", SLEEP, os.environ, tmp_path, after=("two",))
    with pytest.raises(ConfigError, match="wait for each other or for one that is not there: one after two"):
        supervise(tmp_path, [one])


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot start p0 \(/nowhere/x\): No such file"):
        run(tmp_path, ("/nowhere/x",))


def test_large_logs_are_rotated_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.child import rotate

    log = tmp_path / "x.log"
    log.write_text("long enough")
    rotate(log, limit=100)
    assert log.read_text() == "long enough"
    with log.open("a") as writer:
        rotate(log, limit=5)
        writer.write("new")
    assert (log.read_text(), (tmp_path / "x.log.1").read_text()) == ("new", "long enough")


def test_an_unreadable_state_is_no_state(tmp_path: Path) -> None:
    from deploy.supervisor_state import last_state

    for content in ("", "[]", "{}", '{"pid": 1}', '{"pid": 1, "ticks": 1, "since": 1, "processes": {"a": 3}}'):
        (tmp_path / "supervisor.json").write_text(content)
        assert last_state(tmp_path) is None
