"""Whatever is done to the files of a ledger, verifying says where."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest

from client.ledger import Ledger
from client.ledger_chain import HEAD, LEDGER, Problem
from client.ledger_entry import GENESIS, Head, entry_of, seal
from client.ledger_reading import expected_problem, read_ledger
from common.errors import ConfigError
from common.packed import REFUSAL, Packed


@pytest.fixture
def state(tmp_path):
    """A ledger of five entries."""
    with Ledger(tmp_path, "st-marys") as ledger:
        ledger.record("describe", Packed(), Packed({"images": np.ones(2, np.int64)}, {"examples": 40}))
        ledger.record("fit", Packed({}, {"round": 1}), Packed({"weight": np.ones(3)}, {"loss-sum": 0.125}), epsilon=0.1)
        ledger.record("fit", Packed({}, {"round": 2}), Packed({}, {REFUSAL: "disk-full"}), "no room")
        ledger.record("evaluate", Packed({}, {"part": "test"}), Packed({"counts": np.arange(4)}))
    return tmp_path


@pytest.fixture
def ledger(state):
    return state / "ledger" / LEDGER


@pytest.fixture
def head(state):
    return state / "ledger" / HEAD


@pytest.fixture
def first_problem(state):
    def find() -> Problem | None:
        return next(iter(read_ledger(state).problems), None)

    return find


def test_as_it_was_written_it_verifies(state, ledger):
    found = read_ledger(state)
    assert (len(found.entries), found.problems, found.note) == (5, [], None)
    assert (found.head, found.whole_bytes, found.half) == (found.last, ledger.stat().st_size, b"")


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_every_byte_that_is_changed_is_found_on_its_line(state, ledger, first_problem, flip):
    data = ledger.read_bytes()
    for place in range(len(data)):
        ledger.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        line = data[:place].count(b"\n") + 1
        problem = first_problem()
        assert problem is not None, place
        assert (problem.line, problem.what in ("changed", "half line")) == (line, True), (place, problem)


@pytest.mark.parametrize("other", [b"\n", b" ", b"0"])
def test_every_byte_that_becomes_another_is_found_on_its_line(ledger, first_problem, other):
    data = ledger.read_bytes()
    for place in range(len(data)):
        if data[place : place + 1] != other:
            ledger.write_bytes(data[:place] + other + data[place + 1 :])
            assert first_problem().line == data[:place].count(b"\n") + 1, place


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_every_byte_of_the_head_that_is_changed_is_found(head, first_problem, flip):
    data = head.read_bytes()
    for place in range(len(data)):
        head.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        assert first_problem() is not None, place


def test_bytes_that_are_inserted_or_left_out_are_found(ledger, first_problem):
    data = ledger.read_bytes()
    for place in range(len(data)):
        line = data[:place].count(b"\n") + 1
        ledger.write_bytes(data[:place] + b" " + data[place:])
        assert first_problem().line == line, place
        ledger.write_bytes(data[:place] + data[place + 1 :])
        assert first_problem().line == line, place


def test_every_length_to_which_it_is_cut_is_found(ledger, first_problem):
    data = ledger.read_bytes()
    for length in range(len(data)):
        ledger.write_bytes(data[:length])
        problem, line = first_problem(), data[:length].count(b"\n") + 1
        last = data[:length].rfind(b"\n") + 1 < length and line == 5
        assert (problem.line, problem.what) == (line, "half line" if last else "truncated"), (length, problem)


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_is_left_out_is_missed(ledger, first_problem, line):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    problem = first_problem()
    assert (problem.line, problem.what) == (line + 1, "missing" if line < 4 else "truncated")
    assert f"entry {line + 1} is {'missing' if line < 4 else 'gone'}" in problem.text


def test_lines_that_are_left_out_are_missed_together(ledger, first_problem):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(lines[0] + lines[3] + lines[4])
    assert str(first_problem()) == "ledger.jsonl, line 2: entries 2 to 3 are missing: entry 4 is here"


@pytest.mark.parametrize(("one", "other"), list(combinations(range(5), 2)))
def test_lines_that_change_places_are_found(ledger, first_problem, one, other):
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[one], lines[other] = lines[other], lines[one]
    ledger.write_bytes(b"".join(lines))
    problem = first_problem()
    assert (problem.line, problem.what) == (one + 1, "out of order")
    assert f"expected entry {one + 1}, got entry {other + 1}" in problem.text


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_is_there_twice_is_found(ledger, first_problem, line):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[: line + 1], *lines[line:]]))
    problem = first_problem()
    assert (problem.line, problem.what) == (line + 2, "out of order")


def test_an_older_copy_is_found_through_the_head(state, ledger, head, first_problem):
    older = ledger.read_bytes(), head.read_bytes()
    with Ledger(state, "st-marys") as writing:
        for _ in range(3):
            writing.record("fit", Packed(), Packed())
        noted = writing.head
    newer = head.read_bytes()
    ledger.write_bytes(older[0])
    assert str(first_problem()) == (
        "ledger.jsonl, line 6: the end was removed, or an older copy put here: entries 6 to 8 are gone, which head.json names"
    )
    head.write_bytes(older[1])
    assert first_problem() is None
    problem = expected_problem(read_ledger(state).entries, noted)
    assert (problem.line, problem.what) == (6, "truncated")
    head.write_bytes(newer)
    assert first_problem() is not None


def test_an_older_copy_of_the_head_is_found(state, head, first_problem):
    older = head.read_bytes()
    with Ledger(state, "st-marys") as writing:
        for _ in range(3):
            writing.record("fit", Packed(), Packed())
    head.write_bytes(older)
    assert str(first_problem()) == (
        "head.json: it ends at entry 5, the ledger at 8: it is an older copy, or entries were added"
    )


@pytest.mark.parametrize("which", [LEDGER, HEAD])
def test_a_file_that_is_gone_is_missed(state, first_problem, which):
    (state / "ledger" / which).unlink()
    problem = first_problem()
    assert (problem.line, problem.what) == ((1, "truncated") if which == LEDGER else (None, "head"))


def test_another_hospital_s_ledger_does_not_fit_the_head(state, ledger, first_problem, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with Ledger(other, "st-marys") as writing:
        for _ in range(4):
            writing.record("fit", Packed(), Packed())
    shutil.copy(other / "ledger" / LEDGER, ledger)
    assert str(first_problem()) == "head.json: it and entry 5 do not agree: one of them was replaced"


def forge(line: bytes, **changes) -> bytes:
    return seal(entry_of(line.rstrip(b"\n")).model_copy(update=changes))[1]


@pytest.mark.parametrize("line", range(5))
def test_an_entry_that_is_replaced_with_its_hash_breaks_the_chain(ledger, first_problem, line):
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[line] = forge(lines[line], bytes=1)
    ledger.write_bytes(b"".join(lines))
    problem = first_problem()
    if line < 4:
        assert (problem.line, problem.what) == (line + 2, "changed")
        assert "does not follow on the one before" in problem.text
    else:
        assert (problem.line, problem.what) == (None, "head")


def rewritten(lines: list[bytes], changed: int) -> list[bytes]:
    """The history written anew from one entry on, with every hash: what nobody can tell from these files alone."""
    previous = GENESIS
    made = []
    for number, line in enumerate(lines):
        made.append(forge(line, previous=previous, **({"bytes": 1} if number == changed else {})))
        previous = entry_of(made[-1].rstrip(b"\n")).hash
    return made


def test_a_history_that_was_written_anew_is_found_by_a_head_noted_elsewhere(state, ledger, head, first_problem):
    noted = [f"{entry.seq}:{entry.hash}" for entry in read_ledger(state).entries]
    lines = rewritten(ledger.read_bytes().splitlines(keepends=True), changed=2)
    ledger.write_bytes(b"".join(lines))
    assert first_problem().what == "head"
    last = entry_of(lines[-1].rstrip(b"\n"))
    head.write_bytes(Head(seq=5, hash=last.hash).line)
    assert first_problem() is None
    entries = read_ledger(state).entries
    assert [expected_problem(entries, one) is None for one in noted] == [True, True, False, False, False]
    assert "its history was written anew" in expected_problem(entries, noted[3]).text


@pytest.mark.parametrize("word", ["", "5", "x:" + "0" * 64, "5:abc", "-1:" + "0" * 64])
def test_a_head_that_is_none(state, word):
    with pytest.raises(ConfigError, match="expected SEQ:HASH"):
        expected_problem(read_ledger(state).entries, word)


def test_the_head_before_the_first_entry_fits_every_ledger(state):
    assert expected_problem(read_ledger(state).entries, f"0:{GENESIS}") is None


def test_several_problems_are_all_said(ledger, state):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(lines[0].replace(b"st-marys", b"st-johns") + lines[2] + lines[3])
    assert [(one.line, one.what) for one in read_ledger(state).problems] == [
        (1, "changed"),
        (2, "missing"),
        (4, "truncated"),
    ]


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"null", b'{"seq":NaN}', b"[" * 100_000, b"\xff\xfe", b'{"seq":' + b"9" * 5000 + b"}"],
    ids=lambda one: repr(one[:9]),
)
def test_a_line_that_is_nothing_of_ours_harms_nobody(ledger, first_problem, line):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[3:]]))
    assert (first_problem().line, first_problem().what) == (3, "changed")


def test_a_forged_number_costs_no_time(ledger, first_problem):
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[2] = forge(lines[2], seq=2**53 - 1)
    ledger.write_bytes(b"".join(lines))
    assert (first_problem().line, first_problem().what) == (3, "out of order")


def test_a_forged_repair_is_not_taken_for_the_one_announced(state, ledger, head):
    lines = ledger.read_bytes().splitlines(keepends=True)
    before = entry_of(lines[3].rstrip(b"\n"))
    head.write_bytes(Head(seq=4, hash=before.hash, repair={"what": "half line", "bytes": 7, "after": 4}).line)
    [problem] = read_ledger(state).problems
    assert (problem.line, problem.what) == (5, "changed")
    lines[4] = forge(lines[4], decision="repaired", about=json.loads(head.read_text())["repair"])
    ledger.write_bytes(b"".join(lines))
    assert read_ledger(state).problems == []
