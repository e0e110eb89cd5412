"""A ledger survives whatever its writer does not: kills at every call, in every line, at any moment; and a full disk."""

import json
import os
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import pytest

from tests.small_disk import on_a_small_disk

PROJECT = Path(__file__).resolve().parents[2]
FILES = ["head.json", "ledger.jsonl", "ledger.lock"]
HALF, UNSENT = {"what": "half line", "bytes": 100, "after": 2}, {"what": "unsent", "entry": 3}


def kills(scenario: str, folder: Path) -> list[dict]:
    """What `ledger_kills.py` found."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("ledger_kills.py"), scenario, folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def in_memory(tmp_path):
    """A folder that is quick to write: hundreds of ledgers are."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def require_sound(found: list[dict]) -> None:
    """Killed wherever, a ledger verifies, is mended when it is opened, and goes on."""
    for one in found:
        assert (one["before"]["problems"], one["after"]["problems"], one["after"]["note"]) == ([], [], None), one
        assert one["after"]["rounds"] == [*one["before"]["rounds"], 99], one
        assert one["files"] == FILES


def test_killed_at_every_call_of_the_first_start(in_memory):
    found = kills("fresh", in_memory)
    assert len(found) > 30
    require_sound(found)
    assert all(one["after"]["repairs"] == [] for one in found)


def test_killed_at_every_call_while_it_records(in_memory):
    found = kills("recording", in_memory)
    require_sound(found)
    # First the entry is not there, then it is and the head does not name it, then the answer might have left.
    seen = [(one["before"]["rounds"], one["before"]["note"] is not None) for one in found]
    steps = [([1], False), ([1, 2], True), ([1, 2], False)]
    assert [step for step, _ in groupby(seen)] == steps
    assert [one["after"]["repairs"] for one in found] == [[UNSENT] if noted else [] for _, noted in seen]


@pytest.mark.parametrize(("scenario", "repair", "rounds"), [("half", HALF, [1]), ("unsent", UNSENT, [1, 2])])
def test_killed_at_every_call_while_it_mends(in_memory, scenario, repair, rounds):
    """However often it is cut off, the repair is noted once."""
    found = kills(scenario, in_memory)
    assert len(found) > 30
    require_sound(found)
    assert all(one["before"]["rounds"] == rounds and one["after"]["repairs"] == [repair] for one in found)


def test_killed_with_any_part_of_a_line_on_the_disk(in_memory):
    found = kills("bytes", in_memory)
    require_sound(found)
    for one in found:
        half = {"what": "half line", "bytes": one["bytes"], "after": 2}
        whole = one["bytes"] == one["whole"]
        assert one["after"]["repairs"] == ([UNSENT] if whole else [half] if one["bytes"] else [])
        assert ("is half a line" in (one["before"]["note"] or "")) == (0 < one["bytes"] < one["whole"])


def test_killed_at_any_moment_it_covers_all_that_was_sent(tmp_path):
    """On a real disk: one process after the other records, and only then says so."""
    found = kills("moments", tmp_path)
    for one in found:
        assert one["problems"] == []
        assert set(one["said"]) <= set(one["rounds"])
        assert one["rounds"] == sorted(one["rounds"])
    assert len(found[-1]["said"]) > 3


FILLED = """
    import errno, pathlib
    from client.ledger import Ledger
    from client.ledger_reading import read_ledger
    from common.packed import REFUSAL, Packed

    disk = pathlib.Path(folder)
    ledger = Ledger(disk / "state", "st-marys")

    def fill(keep):
        "All of the disk but `keep` blocks of 4 kB."
        with open(disk / "filler", "ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                filler.truncate(filler.tell() // 4096 * 4096 - 4096 * keep)

    def rounds():
        found = read_ledger(disk / "state")
        assert not found.problems and not found.note, (found.problems, found.note)
        return [one.round for one in found.entries if one.decision == "sent"]
"""


def test_a_full_disk_keeps_answers_back_and_the_ledger_as_it_is(tmp_path):
    """Whether the line does not fit or the head: after there is room again, it goes on."""
    done = on_a_small_disk(
        tmp_path / "disk",
        512,
        f"""{FILLED}
    for keep in (0, 1, 2):
        fill(keep)
        recorded = rounds()
        full = 0
        for number in range(len(recorded), len(recorded) + 100):
            try:
                ledger.record("fit", Packed({{}}, {{"round": number}}), Packed({{}}, {{"examples": 40}}))
                recorded.append(number)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                full += 1
            assert rounds() == recorded, (rounds(), recorded)
            if full == 3:
                break
        assert full == 3, (keep, full)
        (disk / "filler").unlink()
        ledger.record("fit", Packed({{}}, {{"round": len(recorded)}}), Packed())
        assert len(rounds()) == len(recorded) + 1
    ledger.close()
    Ledger(disk / "state", "st-marys").close()
    assert all(one.decision != "repaired" for one in read_ledger(disk / "state").entries)
    """,
    )
    assert done.returncode == 0, done.stderr


def test_a_hospital_with_a_full_disk_says_so_and_nothing_else(tmp_path, phantoms, cache_dir, job):
    done = on_a_small_disk(
        tmp_path / "disk",
        512,
        f"""{FILLED}
    from client.agent import KeptLedger
    from client.hospital import Hospital
    from client.hospital_file import Data, HospitalFile, Policy

    file = HospitalFile(name="st-marys", data=Data(folder={str(phantoms["hospital-a"])!r}), cache={str(cache_dir)!r},
                        state=disk / "state", device="cpu", policy=Policy(approve="auto"))
    hospital = Hospital(file, KeptLedger(ledger))
    request = Packed({{}}, {{"job": {job().canonical_json()!r}}})
    fill(0)
    for _ in range(2):
        reply = hospital.answer("describe", request)
        assert (dict(reply.fields), dict(reply.arrays)) == ({{REFUSAL: "disk-full"}}, {{}}), reply
    assert rounds() == []
    (disk / "filler").unlink()
    assert hospital.answer("describe", request).fields["examples"] > 0
    assert len(rounds()) == 1
    """,
    )
    assert done.returncode == 0, done.stderr
