"""Kills processes that write a ledger, and prints what it was like afterwards.

Run by test_ledger_kills.py as a process without threads: each victim is forked from it, so that a kill costs milliseconds.

    python ledger_kills.py SCENARIO FOLDER
"""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from client import ledger_files
from client.ledger import Ledger
from client.ledger_reading import read_ledger
from common.packed import Packed

REPLY = Packed({"weight": np.arange(6, dtype=np.float32)}, {"examples": 4})


def request(number: int) -> Packed:
    return Packed({}, {"round": number})


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork(run: Callable[[], object]) -> int:
    """Run in a process of its own; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(f"the victim raised {error!r}", file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(number: int) -> None:
    """From now on: die right before the n-th call that could touch a file."""
    calls = 0

    def watch(_frame: object, event: str, called: object) -> None:
        nonlocal calls
        if event == "c_call" and (
            getattr(called, "__module__", None) in ("posix", "fcntl")
            or isinstance(getattr(called, "__self__", None), io.IOBase)
        ):
            calls += 1
            if calls == number:
                die()

    sys.setprofile(watch)


def looked_at(state: Path) -> dict[str, object]:
    """A ledger after a kill, and after it was opened again and went on."""

    def now() -> dict[str, object]:
        found = read_ledger(state)
        if found is None:
            return {"problems": [], "note": None, "rounds": [], "repairs": []}
        rounds = [one.round for one in found.entries if one.decision == "sent"]
        repairs = [dict(one.about) for one in found.entries if one.decision == "repaired"]
        problems = [str(one) for one in found.problems]
        return {"problems": problems, "note": found.note, "rounds": rounds, "repairs": repairs}

    before = now()
    with Ledger(state, "st-marys") as ledger:
        ledger.record("fit", request(99), REPLY)
    return {"before": before, "after": now(), "files": sorted(path.name for path in (state / "ledger").iterdir())}


def fresh(_state: Path) -> None:
    """Nothing there."""


def clean(state: Path) -> None:
    """One answer was recorded."""
    with Ledger(state, "st-marys") as ledger:
        ledger.record("fit", request(1), REPLY)


def half(state: Path, length: int = 100) -> None:
    """And another one, of which so many bytes came on the disk."""
    clean(state)

    def write(file: io.RawIOBase, line: bytes) -> None:
        file.write(line[:length])
        die()

    def run() -> None:
        ledger_files._write = write
        Ledger(state, "st-marys").record("fit", request(2), REPLY)

    assert fork(run) == -signal.SIGKILL


def unsent(state: Path) -> None:
    """And another one, whose entry is whole and which the head does not name yet."""
    clean(state)

    def run() -> None:
        ledger = Ledger(state, "st-marys")
        ledger_files.LedgerFiles.write_head = die
        ledger.record("fit", request(2), REPLY)

    assert fork(run) == -signal.SIGKILL


def at_every_call(folder: Path, begin: Callable[[Path], None], run: Callable[[Path, int], None]) -> Iterator[dict]:
    """Kill `run` at its first call, its second, and so on, until it gets to its end."""
    for number in range(1, 1000):
        state = folder / str(number)
        state.mkdir()
        begin(state)
        status = fork(lambda: run(state, number))  # noqa: B023  it is called at once
        if status == 0:
            return
        assert status == -signal.SIGKILL, status
        yield looked_at(state)
        shutil.rmtree(state)
    raise AssertionError("it has no end")


def opening(state: Path, number: int) -> None:
    dying_at(number)
    Ledger(state, "st-marys")
    sys.setprofile(None)


def recording(state: Path, number: int) -> None:
    ledger = Ledger(state, "st-marys")
    dying_at(number)
    ledger.record("fit", request(2), REPLY)
    sys.setprofile(None)


def at_bytes(folder: Path) -> Iterator[dict]:
    clean(folder / "whole")
    length = len((folder / "whole" / "ledger" / "ledger.jsonl").read_bytes().splitlines(keepends=True)[1])
    for written in [*range(0, length, 25), length - 1, length]:
        state = folder / str(written)
        half(state, written)
        yield {"bytes": written, "whole": length, **looked_at(state)}
        shutil.rmtree(state)


def at_any_moment(folder: Path) -> Iterator[dict]:
    """One that records and only then says "sent k", killed again and again; all on one ledger."""
    chance = random.Random(7)
    said = []

    def run(write: int) -> None:
        with Ledger(folder, "st-marys") as ledger:
            for number in range(said[-1] + 1 if said else 1, 10**6):
                ledger.record("fit", request(number), REPLY)
                os.write(write, f"{number}\n".encode())

    for _ in range(40):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            run(write)
        os.close(write)
        time.sleep(chance.uniform(0.001, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read) as lines:
            said += [int(line) for line in lines.read().splitlines()]
        found = read_ledger(folder)
        rounds = [one.round for one in found.entries if one.decision == "sent"] if found else []
        problems = [str(one) for one in found.problems] if found else []
        yield {"said": list(said), "rounds": rounds, "problems": problems}


SCENARIOS = {
    "fresh": lambda folder: at_every_call(folder, fresh, opening),
    "recording": lambda folder: at_every_call(folder, clean, recording),
    "half": lambda folder: at_every_call(folder, half, opening),
    "unsent": lambda folder: at_every_call(folder, unsent, opening),
    "bytes": at_bytes,
    "moments": at_any_moment,
}

if __name__ == "__main__":
    if sys.argv[1] != "moments":
        os.fsync = lambda _: None  # a kill loses nothing that was written; only a power failure would
    print(json.dumps(list(SCENARIOS[sys.argv[1]](Path(sys.argv[2])))))
