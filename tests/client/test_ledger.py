"""What the ledger holds of an answer, of a refusal, of very many refusals; and who may write it."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from client import ledger_refusals
from client.agent import Agent, KeptLedger
from client.agent_status import AgentStatus, StatusFile
from client.hospital import Hospital
from client.ledger import Ledger
from client.ledger_chain import HEAD, LEDGER
from client.ledger_entry import ArrayRecord, entry_of
from client.ledger_reading import read_ledger
from client.ledger_summary import summarise
from client.ledger_words import CODES, KINDS
from client.proto.convert import to_packed, to_request
from common.errors import ConfigError, LedgerError, RefusalCode
from common.packed import REFUSAL, Packed
from common.wire import REQUESTS

PROJECT = Path(__file__).resolve().parents[2]
REFUSED = Packed({}, {REFUSAL: "bad-request"})


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path, "st-marys") as opened:
        yield opened


@pytest.fixture
def entries(tmp_path):
    """The entries, of a ledger that verifies."""

    def read():
        found = read_ledger(tmp_path)
        assert found is not None
        assert (found.problems, found.note) == ([], None)
        return list(found.entries)

    return read


def test_an_entry_says_what_left_and_holds_none_of_it(ledger, entries, job):
    weight = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
    counts = np.array([7], np.int64)
    request = Packed({}, {"job": job().canonical_json(), "round": 2, "part": "test"})
    ledger.record("fit", request, Packed({"weight": weight, "counts": counts}, {"examples": 40, "loss-sum": 0.25}))
    begun, sent = entries()
    assert (begun.decision, dict(begun.about)) == ("begun", {"format": "consilium-ledger-1", "hospital": "st-marys"})
    assert (sent.seq, sent.decision, sent.kind, sent.round, sent.part) == (2, "sent", "fit", 2, "test")
    assert (sent.job, sent.job_id, sent.bytes) == ("test-job", job().job_id, 24)
    assert dict(sent.fields) == {"examples": 40, "loss-sum": 0.25}
    assert (sent.masked, sent.epsilon, sent.code, sent.reason) == (False, 0.0, None, None)
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in (counts, weight)]
    assert sent.arrays == (
        ArrayRecord(name="counts", dtype="int64", shape=(1,), bytes=8, sha256=digests[0], l2=7.0),
        ArrayRecord(name="weight", dtype="float32", shape=(2, 2), bytes=16, sha256=digests[1], l2=5.0),
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", sent.time)


def test_a_digest_is_that_of_the_numbers_in_order_whatever_their_memory(ledger, entries):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    strided = np.asfortranarray(rows)
    ledger.record("own", Packed(), Packed({"a": rows, "b": strided, "empty": rows[:0], "huge": np.full(2, 1e200)}))
    [_, sent] = entries()
    a, b, empty, huge = sent.arrays
    assert a.sha256 == b.sha256 == hashlib.sha256(rows.tobytes()).hexdigest()
    assert (empty.bytes, empty.l2, huge.l2) == (0, 0.0, None)


def test_any_tool_can_check_a_line(ledger, tmp_path):
    ledger.record("fit", Packed(), Packed({"weight": np.ones(3)}))
    previous = "0" * 64
    for line in (tmp_path / "ledger" / LEDGER).read_text().splitlines():
        body, digest = re.fullmatch(r'(.*),"hash":"([0-9a-f]{64})"\}', line).groups()
        assert hashlib.sha256(f"{body}}}".encode()).hexdigest() == digest
        assert json.loads(line)["previous"] == previous
        previous = digest
    assert ledger.head == f"2:{previous}"
    assert json.loads((tmp_path / "ledger" / HEAD).read_text()) == {"seq": 2, "hash": previous}


def test_only_its_owner_can_read_it(ledger, tmp_path):
    folder = tmp_path / "ledger"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        (LEDGER, HEAD, "ledger.lock"), 0o600
    )


def test_a_ledger_goes_on_where_it_ended(entries, tmp_path):
    for number in (1, 2, 3):
        with Ledger(tmp_path, "st-marys") as ledger:
            ledger.record("evaluate", Packed({}, {"round": number}), Packed())
            head = ledger.head
    assert [entry.round for entry in entries()] == [None, 1, 2, 3]
    with Ledger(tmp_path, "st-marys") as ledger:
        assert ledger.head == head


def test_epsilon_is_added_up_over_all_jobs_and_restarts(entries, job, tmp_path):
    first, second = (Packed({}, {"job": job(seed=seed).canonical_json()}) for seed in (1, 2))
    with Ledger(tmp_path, "st-marys") as ledger:
        assert (ledger.spent(), ledger.spent("unknown")) == (0.0, 0.0)
        ledger.record("fit", first, Packed(), epsilon=0.5, masked=True)
        ledger.record("fit", second, Packed(), epsilon=1)
        ledger.record("fit", second, REFUSED, "no")
        ledger.record("evaluate", first, Packed())
    with Ledger(tmp_path, "st-marys") as ledger:
        assert ledger.spent() == 1.5
        assert (ledger.spent(job(seed=1).job_id), ledger.spent(job(seed=2).job_id)) == (0.5, 1.0)
    assert [entry.epsilon_total for entry in entries()] == [0.0, 0.5, 1.5, 1.5, 1.5]
    assert [entry.masked for entry in entries()] == [False, True, False, False, False]


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf")])
def test_an_epsilon_that_is_no_number_is_not_written(ledger, entries, epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        ledger.record("fit", Packed(), Packed(), epsilon=epsilon)
    assert len(entries()) == 1
    assert ledger.spent() == 0.0


def test_a_refusal_is_recorded_with_its_reason(ledger, entries, job):
    request = Packed({}, {"job": job().canonical_json(), "round": 3})
    ledger.record("fit", request, Packed({}, {REFUSAL: "against-policy"}), "job 'test-job' tunes 'full'")
    [_, refused] = entries()
    assert (refused.decision, refused.kind, refused.job, refused.round) == ("refused", "fit", "test-job", 3)
    assert (refused.code, refused.reason, refused.count) == ("against-policy", "job 'test-job' tunes 'full'", 1)
    assert (refused.arrays, refused.bytes, dict(refused.fields)) == ((), 0, {})


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "{", "round": -1, "part": "/data/Doe^Jane.dcm"},
        {"job": "[" * 100_000, "round": 2**70, "part": "\ud800"},
        {"job": "/data/Doe^Jane.dcm", "round": 1.5, "part": ""},
        {"job": 7, "round": "1", "extra": "/data/Doe^Jane.dcm"},
    ],
)
def test_nothing_of_a_hostile_request_gets_into_the_ledger(ledger, entries, fields):
    ledger.record("/data/Doe^Jane", Packed({"secret": np.ones(3)}, fields), REFUSED, "the request is of no known kind")
    [_, refused] = entries()
    assert refused.model_dump(exclude_none=True).keys() >= {"kind", "code", "reason"}
    assert (refused.kind, refused.job, refused.job_id, refused.round, refused.part) == ("unknown", *[None] * 4)
    assert "Doe" not in refused.model_dump_json()


def test_very_many_refusals_of_a_kind_are_counted(ledger, entries, monkeypatch, tmp_path):
    monkeypatch.setattr(ledger_refusals, "EACH", 10)
    for _ in range(37):
        ledger.record("fit", Packed(), REFUSED, "no")
    assert [entry.count for entry in entries()[1:]] == [1] * 10 + [10, 10]
    ledger.record("own", Packed(), REFUSED, "no")
    ledger.record("fit", Packed(), Packed({}, {REFUSAL: "disk-full"}), "no")
    assert [entry.count for entry in entries()[13:]] == [1, 1]
    ledger.record("fit", Packed(), Packed({}, {"examples": 1}))
    counted, sent = entries()[15:]
    assert (counted.count, counted.kind, counted.code, sent.decision) == (7, "fit", "bad-request", "sent")
    assert counted.since <= counted.time
    ledger.record("fit", Packed(), REFUSED, "no")
    ledger.close()
    assert entries()[-1].count == 1
    assert summarise(entries()).everything.refused == 40


def test_each_day_begins_with_refusals_that_have_entries_of_their_own(monkeypatch):
    from datetime import datetime, timedelta

    monkeypatch.setattr(ledger_refusals, "EACH", 2)
    counting, day = ledger_refusals.Refusals(), datetime(2026, 1, 1).astimezone()
    assert [counting.counts("fit", "internal", day) for _ in range(3)] == [False, False, True]
    assert [counting.counts("fit", "internal", day + timedelta(days=1)) for _ in range(3)] == [False, False, True]
    [waiting] = counting.due(all_of_them=True)
    assert (waiting.count, waiting.since) == (2, day)


def test_one_process_writes(ledger, tmp_path):
    with pytest.raises(ConfigError, match=r"another process writes the ledger in .*ledger; a hospital has one agent"):
        Ledger(tmp_path, "st-marys")
    code = f"from pathlib import Path; from client.ledger import Ledger; Ledger(Path({str(tmp_path)!r}), 'st-marys')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (other.returncode, "another process writes the ledger" in other.stderr) == (1, True)
    ledger.close()
    with Ledger(tmp_path, "st-marys") as again:
        assert again.head.startswith("1:")


def test_a_closed_ledger_takes_nothing(ledger, entries):
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.record("fit", Packed(), Packed())
    assert len(entries()) == 1


def test_it_is_the_ledger_of_one_hospital(ledger, tmp_path):
    ledger.close()
    with pytest.raises(LedgerError, match=r"is that of 'st-marys', expected that of 'st-johns'"):
        Ledger(tmp_path, "st-johns")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot write the ledger below .*: .*; nothing leaves without it"):
        Ledger(tmp_path / "file", "st-marys")


def test_it_is_read_while_it_is_written(ledger, tmp_path):
    """A reader never sees half a line, nor an entry without its head."""
    seen = []
    writing = threading.Event()

    def write():
        for _ in range(150):
            ledger.record("fit", Packed(), Packed({"weight": np.ones(300)}))
        writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not writing.is_set():
        found = read_ledger(tmp_path)
        assert (found.problems, found.note, found.half, found.ahead) == ([], None, b"", False)
        seen.append(len(found.entries))
    writer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_every_kind_and_code_has_its_words():
    assert set(REQUESTS) <= set(KINDS)
    assert set(CODES) == set(RefusalCode)


# The hospital and its agent


@pytest.fixture
def agent(ledger, phantoms, cache_dir, hospital_with, tmp_path):
    hospital = Hospital(hospital_with(phantoms["hospital-a"])._file, KeptLedger(ledger))
    return Agent(hospital, StatusFile(tmp_path, AgentStatus(0, "st-marys", "", "ready", 0.0)))


def test_what_leaves_a_hospital_is_in_its_ledger(agent, ledger, entries, job, caplog):
    request = Packed({}, {"job": job().canonical_json()})
    with caplog.at_level("INFO"):
        reply = agent.answer("describe", to_request(request, "m-1"), None)
    [_, sent] = entries()
    assert (sent.decision, sent.kind, sent.job_id) == ("sent", "describe", job().job_id)
    assert {one.name for one in sent.arrays} == {"images", "patients", "sums", "squares"}
    assert sent.fields["examples"] == reply.fields["examples"].whole
    assert f"the ledger stands at {ledger.head}" in caplog.messages
    assert not re.search(r"\.png|/|[^a-z]p\d+", sent.model_dump_json())


def test_an_answer_given_again_is_recorded_once(agent, entries, job):
    request = to_request(Packed({}, {"job": job().canonical_json()}), "m-1")
    first, again = (agent.answer("describe", request, None) for _ in range(2))
    assert first == again
    assert len(entries()) == 2


def test_what_is_refused_is_in_the_ledger_too(agent, entries):
    agent.answer("fit", to_request(Packed({}, {"job": "no job"}), "m-1"), None)
    broken = to_request(Packed(), "m-2")
    broken.arrays = b"garbage"
    agent.answer("own", broken, None)
    assert [(one.kind, one.code) for one in entries()[1:]] == [("fit", "bad-request"), ("own", "bad-request")]
    assert entries()[-1].reason == "the request cannot be decoded"


def test_the_text_of_an_unexpected_error_stays_out_of_it(agent, entries, job, monkeypatch):
    def fail(*_):
        raise OSError("/data/patient-0815/Doe^Jane.dcm")

    monkeypatch.setattr(Hospital, "_taking_part", fail)
    reply = agent.answer("describe", to_request(Packed({}, {"job": job().canonical_json()}), "m-1"), None)
    assert reply.fields[REFUSAL].text == "internal-error"
    assert entries()[-1].reason == "OSError"


@pytest.mark.parametrize("broken", ["changed", "removed", "head"])
def test_no_answer_leaves_when_the_ledger_cannot_be_written(agent, job, tmp_path, broken, caplog):
    """And a refusal, which says nothing, does."""
    path = tmp_path / "ledger" / LEDGER
    if broken == "changed":
        path.write_bytes(path.read_bytes() + b"x")
    elif broken == "removed":
        path.unlink()
    else:
        (tmp_path / "ledger" / HEAD).write_text("{}")
    for _ in range(2):
        reply = agent.answer("describe", to_request(Packed({}, {"job": job().canonical_json()}), "m-1"), None)
        assert set(reply.fields) == {REFUSAL}
        assert reply.fields[REFUSAL].text == "internal-error"
        assert not to_packed(reply).arrays
    assert "a refusal is not in the ledger: LedgerError" in caplog.messages


def test_an_agent_does_not_start_with_a_ledger_that_was_changed(ledger, tmp_path):
    ledger.record("fit", Packed(), Packed({}, {"examples": 40}))
    ledger.close()
    path = tmp_path / "ledger" / LEDGER
    path.write_bytes(path.read_bytes().replace(b'"examples":40', b'"examples":41'))
    with pytest.raises(LedgerError, match=r"not as this hospital wrote it: ledger.jsonl, line 2: was changed.*verify"):
        Ledger(tmp_path, "st-marys")
    with pytest.raises(ValueError, match="not what its hash says"):
        entry_of(path.read_bytes().splitlines()[1])
